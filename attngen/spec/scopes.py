"""Which names each field of a spec may use, and why the others can't stand there."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from attngen.ir import BUILTINS, REDUCTIONS, SIZES, Number
from attngen.spec.raw import RawSpec
from attngen.spec.resolve import Scope

Statics = Mapping[str, Number]

_OUTPUT_ONLY = {"o": "the weighted sum `o` in `output` alone", "csum": "csum in `output` alone; sum is over the keys"}
_OF_DEFAULTS = "sizes and numbers: d, n_k, n_q, pi"
_ROW_NAMES = ("scale", "d", "i", "n_q", "n_k", "n", "pi")
_OF_OUTPUT = "`o`, csum(...), numbers, and inputs without a key axis; what depends on the key belongs in `weights`"
_NO_LET = "`o`, csum(...), numbers and inputs; what is made of scores belongs in `weights`"
_OVER_KEYS = "csum(x) over the channels of `o`; reductions over the keys in `weights` and `let`"
_BOUND = "a formula without it: a bound can't use the value that it bounds"
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
    return Scope("weights", names, statics, _OUTPUT_ONLY, frozenset(unsure), REDUCTIONS)


def let_scope(raw: RawSpec, statics: Statics, unsure: Collection[str], lets: Collection[str], name: str) -> Scope:
    """As for `weights`, with the lets that stand before the let `name`."""
    names = frozenset({*BUILTINS, *_tensors(raw), *lets})
    later = {other: f"earlier lets; '{other}' is defined further down" for other in _lets(raw)}
    elsewhere = {**later, name: "earlier lets; a let can't use itself", **_OUTPUT_ONLY}
    return Scope(f"let '{name}'", names, statics, elsewhere, frozenset(unsure), REDUCTIONS)


def residual_scope(let: Scope, name: str) -> Scope:
    """As for a let, with the value that is looked for."""
    elsewhere = {other: expected for other, expected in let.elsewhere.items() if other != name}
    return replace(let, place=f"the root '{name}'", names=let.names | {name}, elsewhere=elsewhere)


def bound_scope(let: Scope, name: str) -> Scope:
    return replace(let, place=f"a bound of '{name}'", elsewhere={**let.elsewhere, name: _BOUND})


def output_scope(raw: RawSpec, statics: Statics, unsure: Collection[str]) -> Scope:
    """The weighted sum, sums over its channels, and what is one number per row."""
    rows = {entry.name for entry in raw.inputs if not entry.static and "key" not in entry.axes}
    elsewhere = dict.fromkeys({*BUILTINS, *_tensors(raw)} - {*rows, *_ROW_NAMES}, _OF_OUTPUT)
    elsewhere |= dict.fromkeys(_lets(raw), _NO_LET) | dict.fromkeys(REDUCTIONS, _OVER_KEYS)
    names = frozenset({"o", *_ROW_NAMES, *rows})
    return Scope("output", names, statics, elsewhere, frozenset(unsure), ("csum",))


def keyed(raw: RawSpec) -> set[str]:
    """The builtins and inputs that differ from key to key."""
    return {"qk", "s", "j"} | {entry.name for entry in raw.inputs if "key" in entry.axes}


def _tensors(raw: RawSpec) -> set[str]:
    return {entry.name for entry in raw.inputs if not entry.static}


def _lets(raw: RawSpec) -> set[str]:
    return {let.name for let in raw.lets}
