"""One verified call as a value: shapes, dtype, layout, arguments, and the seed of its tensors' values.

A case says everything: the same case always gives the same tensors, on every device, and its JSON text replays it.
It holds no tensors itself (`draw` makes them) and does not choose cases (`strategies` does).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from attngen.verify.reference import Alignment, Call, Window

DType = Literal["float32", "float16", "bfloat16"]
# How query, key, value and the output's gradient lie in memory. `expanded` has stride 0 along the batch (and the
# gradient along all axes); `sliced` is a part of a larger tensor, with a storage offset and gaps between its rows.
Layout = Literal["contiguous", "transposed", "sliced", "expanded"]
# How an input of the spec is given: a tensor of the full shape in the query's dtype or in float32, one that has size 1
# on every axis, a Python number, or left out.
Form = Literal["full", "float32", "single", "number", "omitted"]


@dataclass(frozen=True, slots=True)
class Case:
    """query (batch, kv_heads * group, n_q, d), key (batch, kv_heads, n_k, d), value (batch, kv_heads, n_k, d_v).

    Query and key are standard normal, with the query multiplied by `gain`; 0 makes all scores tie.
    """

    batch: int = 1
    kv_heads: int = 1
    group: int = 1
    n_q: int = 1
    n_k: int = 1
    d: int = 16
    d_v: int = 16
    dtype: DType = "float32"
    layout: Layout = "contiguous"
    is_causal: bool = False
    scale: float | None = None
    window: Window = None
    alignment: Alignment = "upper_left"
    gain: float = 1.0
    forms: tuple[tuple[str, Form], ...] = field(default=())  # an input that is not named is given in full
    seed: int = 0

    @property
    def call(self) -> Call:
        return Call(self.is_causal, self.scale, self.window, self.alignment)

    @property
    def heads(self) -> int:
        return self.kv_heads * self.group

    def form(self, name: str) -> Form:
        return dict(self.forms).get(name, "full")

    def to_json(self) -> str:
        """Compact text; fields at their defaults are left out."""
        default = Case()
        given = {name: value for name, value in asdict(self).items() if value != getattr(default, name)}
        if self.forms:
            given["forms"] = dict(self.forms)
        return json.dumps(given, separators=(",", ":"))


_SIZES = ("batch", "kv_heads", "group", "n_q", "n_k", "d", "d_v")
_CHOICES: dict[str, tuple[object, ...]] = {
    "dtype": get_args(DType),
    "layout": get_args(Layout),
    "alignment": get_args(Alignment),
    "is_causal": (False, True),
}


def case_of(given: object) -> Case:
    """The case of a parsed `to_json` text. Raises ValueError for anything that is not one."""
    if not isinstance(given, Mapping):
        raise ValueError(f"a case is a JSON object, not {given!r}")
    known = [f.name for f in fields(Case)]
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"a case has no field '{name}'; its fields are {', '.join(known)}")
        if not _fits(name, value):
            raise ValueError(f"the case's field '{name}' can't be {value!r}")
    converted: dict[str, Any] = {name: _converted(name, value) for name, value in given.items()}
    return Case(**converted)


def _fits(name: str, value: object) -> bool:
    if name in _SIZES:
        return _is_int(value) and 1 <= value <= 1 << 20  # type: ignore[operator]
    if name in _CHOICES:
        return value in _CHOICES[name]
    match name:
        case "window":
            return (
                value is None or _is_int(value) or (isinstance(value, list) and list(map(_is_int, value)) == [True] * 2)
            )
        case "forms":
            return isinstance(value, Mapping) and all(form in get_args(Form) for form in value.values())
        case "seed":
            return _is_int(value) and 0 <= value < 1 << 32  # type: ignore[operator]
        case _:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return number or (name == "scale" and value is None)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _converted(name: str, value: Any) -> Any:
    match name:
        case "window" if isinstance(value, list):
            return tuple(value)
        case "forms":
            return tuple(value.items())
        case "gain":
            return float(value)
        case "scale" if value is not None:
            return float(value)
        case _:
            return value
