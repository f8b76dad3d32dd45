"""Finding tiles. Begin at `attngen.tune.search` (timed) and `attngen.tune.cost` (compiled only)."""
