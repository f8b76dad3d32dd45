"""The ops of the shipped specs, as `attngen build specs/*.yaml -o generated` writes them."""
