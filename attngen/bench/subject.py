"""What is benched: the op of a spec, as a user gets it from `attngen.load`, and its normalizer."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from attngen import api, catalog, ir
from attngen.spec.lower import read_spec


@dataclass(frozen=True, slots=True)
class Benched:
    """A spec as the user named it, its meaning, and its op."""

    spec: str
    normalizer: ir.Normalizer
    op: Callable[..., Tensor]


def subject(spec: str) -> Benched:
    """Compile or find the op of a spec: a path, or the name of a shipped one."""
    text = catalog.read(spec)
    return Benched(spec, read_spec(text.text, text.path), api.load(spec))
