"""Times of an op beside those of its peers, in one run. Begin at `attngen.bench.run`."""
