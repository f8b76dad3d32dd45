"""One call of each shipped op, forward and backward, in a process that compute-sanitizer watches."""

import importlib
import sys

import torch

from attngen import catalog
from attngen.spec.lower import read_spec
from attngen.verify.case import Case
from attngen.verify.subject import subject_of

CASE = Case(batch=2, kv_heads=1, group=2, n_q=193, n_k=193, d=64, d_v=64, dtype="bfloat16", is_causal=True)


def main(names: list[str], device: str) -> None:
    for name in names:
        spec = catalog.read(name)
        subject = subject_of(importlib.import_module(f"generated.{name}"), read_spec(spec.text, spec.path), device)
        found = subject.results(subject.draw(CASE), CASE.call)
        assert all(tensor.isfinite().all() for tensor in found.values()), name
        if device == "cuda":
            torch.cuda.synchronize()
        print(name)


if __name__ == "__main__":
    main(sys.argv[2:], sys.argv[1])
