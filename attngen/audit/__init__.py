"""What a generated module's kernels need of a GPU, found out without one. Begin at `attngen.audit.module`."""
