"""Which names each field of a spec may use, and why the others can't stand there."""

from collections.abc import Collection, Iterable, Mapping

from attngen.ir import BUILTINS, SIZES, Number
from attngen.spec.raw import RawSpec
from attngen.spec.resolve import Scope

Statics = Mapping[str, Number]

_OUTPUT_ONLY = {"o": "the weighted sum `o` in `output` alone", "csum": "csum in `output` alone; sum is over the keys"}
_OF_DEFAULTS = "sizes and numbers: d, n_k, n_q, pi"
_OF_SCORE = "builtins and inputs; lets come after the score"
_SCORE_ITSELF = "qk, such as scale * qk: s is what `score` defines"


def default_scope(raw: RawSpec, statics: Statics, unsure: Collection[str]) -> Scope:
    """Sizes, numbers and static inputs: what is known before any tensor is."""
    others = {*BUILTINS, *_tensors(raw), *_lets(raw)} - set(SIZES)
    elsewhere = {**dict.fromkeys(others, _OF_DEFAULTS), **_OUTPUT_ONLY}
    return Scope("a default", frozenset(SIZES), statics, elsewhere, frozenset(unsure))


def score_scope(raw: RawSpec, statics: Statics, unsure: Collection[str]) -> Scope:
    """Builtins without `s`, and inputs; no reductions."""
    names = frozenset(BUILTINS.keys() - {"s"} | _tensors(raw))
    elsewhere = {**dict.fromkeys(_lets(raw), _OF_SCORE), "s": _SCORE_ITSELF, **_OUTPUT_ONLY}
    return Scope("score", names, statics, elsewhere, frozenset(unsure))


def weights_scope(raw: RawSpec, statics: Statics, unsure: Collection[str], lets: Iterable[str]) -> Scope:
    """Builtins, inputs, the lets and reductions."""
    names = frozenset({*BUILTINS, *_tensors(raw), *lets})
    return Scope("weights", names, statics, _OUTPUT_ONLY, frozenset(unsure), reductions=True)


def let_scope(raw: RawSpec, statics: Statics, unsure: Collection[str], lets: Collection[str], name: str) -> Scope:
    """As for `weights`, with the lets that stand before the let `name`."""
    names = frozenset({*BUILTINS, *_tensors(raw), *lets})
    later = {other: f"earlier lets; '{other}' is defined further down" for other in _lets(raw)}
    elsewhere = {**later, name: "earlier lets; a let can't use itself", **_OUTPUT_ONLY}
    return Scope(f"let '{name}'", names, statics, elsewhere, frozenset(unsure), reductions=True)


def _tensors(raw: RawSpec) -> set[str]:
    return {entry.name for entry in raw.inputs if not entry.static}


def _lets(raw: RawSpec) -> set[str]:
    return {let.name for let in raw.lets}
