"""The tree of a spec file into a `RawSpec`: which fields there are, and which values they take.

Formulas are read as syntax; what the names in them mean is told by `resolve`.
"""

import keyword
import re
from typing import get_args

from attngen.ir import AXES, Axis
from attngen.spec import limits
from attngen.spec.lets import raw_lets
from attngen.spec.near import listed, near, quoted
from attngen.spec.raw import Formula, RawClaims, RawInput, RawSpec
from attngen.spec.reading import Reading, entries, formula, kind, known_entries, new_name, text, truth
from attngen.spec.source import Source
from attngen.spec.yaml_tree import Entry, Mapping, Node, Scalar, Sequence

FIELDS = ("name", "title", "reference", "inputs", "let", "score", "weights", "output", "claims")
INPUT_FIELDS = ("shape", "default", "grad", "kind")
CLAIM_FIELDS = ("rows_sum_to", "shift_invariant", "nonnegative", "sparse")
KINDS = ("tensor", "static")
NAME_PATTERN = r"[a-z][a-z0-9_]*"
_SNAKE_CASE = "lowercase letters, digits and underscores, a letter first, such as softplus_l1"


def raw_spec(read: Source, path: str, root: Node) -> RawSpec:
    """The fields of a spec, with all mistakes that don't need the meaning of names."""
    reading = Reading(read)
    if not isinstance(root, Mapping):
        reading.mistake(f"the spec is {kind(root)}", root.span, "fields, at least `name: ...` and `weights: ...`")
        return _spec(reading, path, {})
    found = known_entries(reading, root, "a spec", FIELDS)
    misspelt = {near(entry.key, FIELDS) for entry in root.entries if entry.key not in FIELDS}
    for required in ("name", "weights"):
        if required not in found and required not in misspelt:
            reading.mistake(f"the field '{required}' is missing", None, f"a line `{required}: ...`")
    return _spec(reading, path, found)


def _spec(reading: Reading, path: str, found: dict[str, Entry]) -> RawSpec:
    name = _name(reading, found.get("name"))
    title, reference = text(reading, found.get("title")), text(reading, found.get("reference"))
    inputs = _inputs(reading, found.get("inputs"))
    lets = raw_lets(reading, found.get("let"), frozenset(entry.name for entry in inputs))
    score, weights, output = (_formula(reading, found.get(field)) for field in ("score", "weights", "output"))
    claims = _claims(reading, found.get("claims"))
    return RawSpec(
        reading.read, path, name, title, reference, inputs, lets, score, weights, output, claims,
        tuple(reading.mistakes), frozenset(reading.refused),
    )  # fmt: skip


def _formula(reading: Reading, entry: Entry | None) -> Formula | None:
    return None if entry is None else formula(reading, entry, entry.key)


def _name(reading: Reading, entry: Entry | None) -> str:
    if entry is None:
        return ""
    node = entry.value
    if not isinstance(node, Scalar) or not node.value:
        reading.mistake(f"name is {kind(node)}", node.span, _SNAKE_CASE)
        return ""
    name = node.value
    if "/" in name or "\\" in name or name.startswith("."):
        reading.mistake(f"the name {quoted(name)} is a path", node.span, "a name: " + _SNAKE_CASE)
    elif len(name) > limits.IDENTIFIER_CHARACTERS:
        expected = f"at most {limits.IDENTIFIER_CHARACTERS} characters"
        reading.mistake(f"a name of {len(name)} characters", node.span, expected)
    elif not re.fullmatch(NAME_PATTERN, name):
        reading.mistake(f"{quoted(name)} can't name an op", node.span, _SNAKE_CASE)
    elif keyword.iskeyword(name) or name in ("torch", "triton"):
        reading.mistake(f"'{name}' has a meaning in Python, in which the op is written", node.span, "another name")
    return name


def _inputs(reading: Reading, entry: Entry | None) -> tuple[RawInput, ...]:
    if entry is None:
        return ()
    found = entries(reading, entry.value, "inputs", "a mapping from names to inputs, such as bias: {shape: []}")
    return tuple(_input(reading, one) for one in found.values() if new_name(reading, one, "an input", frozenset()))


def _input(reading: Reading, entry: Entry) -> RawInput:
    found = known_entries(reading, entry.value, f"input '{entry.key}'", INPUT_FIELDS)
    static = _is_static(reading, found.get("kind"))
    default = found.get("default")
    value = formula(reading, default, f"the default of '{entry.key}'") if default else None
    if static:
        _refuse_tensor_fields(reading, found)
        return RawInput(entry.key, entry.span, True, (), value, False)
    if "shape" not in found and isinstance(entry.value, Mapping):
        expected = "shape: [] for a scalar, or axes such as shape: [batch, head, query]"
        reading.mistake(f"input '{entry.key}' has no shape", entry.span, expected)
    axes = _axes(reading, found["shape"].value) if "shape" in found else ()
    return RawInput(entry.key, entry.span, False, axes, value, truth(reading, found.get("grad"), True))


def _is_static(reading: Reading, entry: Entry | None) -> bool:
    if entry is None:
        return False
    written = entry.value.value if isinstance(entry.value, Scalar) else kind(entry.value)
    if written not in KINDS:
        reading.mistake(f"kind is {quoted(written)}", entry.value.span, listed(KINDS), near(written, KINDS))
    return near(written, KINDS) == "static"


def _refuse_tensor_fields(reading: Reading, found: dict[str, Entry]) -> None:
    for field in ("shape", "grad"):
        if field in found:
            message = f"a static input is a number and has no {field}"
            reading.mistake(message, found[field].span, "kind: static with a default alone")


def _axes(reading: Reading, node: Node) -> tuple[Axis, ...]:
    if not isinstance(node, Sequence):
        reading.mistake(f"shape is {kind(node)}", node.span, "a list of axes, such as [batch, head, query]")
        return ()
    known = [axis for item in node.items if (axis := _axis(reading, item))]
    ordered = tuple(axis for axis in AXES if axis in known)
    if {"head", "kv_head"} <= set(known):
        reading.mistake("head and kv_head stand together", node.span, "head (of the query) or kv_head, not both")
    elif len(set(known)) < len(known):
        reading.mistake("an axis stands in the shape twice", node.span, f"[{', '.join(ordered)}]")
    elif list(ordered) != known:
        reading.mistake("the axes are out of order", node.span, f"[{', '.join(ordered)}]")
    return ordered


def _axis(reading: Reading, node: Node) -> Axis | None:
    written = node.value if isinstance(node, Scalar) else kind(node)
    for axis in get_args(Axis):
        if written == axis and isinstance(node, Scalar):
            return AXES[AXES.index(axis)]
    reading.mistake(f"{quoted(written)} is not an axis", node.span, listed(AXES), near(written, AXES))
    return None


def _claims(reading: Reading, entry: Entry | None) -> RawClaims:
    if entry is None:
        return RawClaims()
    found = known_entries(reading, entry.value, "claims", CLAIM_FIELDS)
    rows = found.get("rows_sum_to")
    total = formula(reading, rows, "rows_sum_to") if rows else None
    shift, nonnegative, sparse = (truth(reading, found.get(field), False) for field in CLAIM_FIELDS[1:])
    return RawClaims(total, shift, nonnegative, sparse, tuple((claim.key, claim.span) for claim in found.values()))
