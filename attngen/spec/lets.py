"""The `let` field of a spec: names, and for each a formula, or a residual and two bounds.

Formulas are read as syntax; what names mean is told by `resolve`, and whether a root makes sense by `roots`.
"""

from attngen.spec.raw import Formula, RawLet, RawRoot
from attngen.spec.reading import Reading, entries, formula, known_entries, new_name
from attngen.spec.yaml_tree import Entry, Mapping, Sequence

ROOT_FIELDS = ("root", "between")


def raw_lets(reading: Reading, entry: Entry | None, inputs: frozenset[str]) -> tuple[RawLet, ...]:
    """The lets in order; those whose name can't be taken are left out."""
    if entry is None:
        return ()
    found = entries(reading, entry.value, "let", "a mapping from names to formulas, such as p: exp(s) / sum(exp(s))")
    named = [one for one in found.values() if new_name(reading, one, "a let", inputs)]
    return tuple(RawLet(one.key, one.span, _meaning(reading, one)) for one in named)


def _meaning(reading: Reading, entry: Entry) -> Formula | RawRoot:
    node = entry.value
    if isinstance(node, Mapping) and (not node.flow or "root" in {field.key for field in node.entries}):
        return _root(reading, entry)
    return formula(reading, entry, f"let '{entry.key}'")


def _root(reading: Reading, entry: Entry) -> RawRoot:
    found = known_entries(reading, entry.value, f"the root '{entry.key}'", ROOT_FIELDS)
    for field in ROOT_FIELDS:
        if field not in found:
            reading.mistake(f"the root '{entry.key}' has no '{field}'", entry.span, "{root: formula, between: [a, b]}")
    unread = Formula(None, entry.span)
    residual = formula(reading, found["root"], "root") if "root" in found else unread
    low, high = _bounds(reading, found["between"]) if "between" in found else (unread, unread)
    return RawRoot(residual, low, high)


def _bounds(reading: Reading, entry: Entry) -> tuple[Formula, Formula]:
    node = entry.value
    if not isinstance(node, Sequence) or len(node.items) != 2:
        reading.mistake("between needs two formulas", node.span, "[lowest, highest], quoted where they hold commas")
        return Formula(None, node.span), Formula(None, node.span)
    low, high = (formula(reading, Entry("between", item.span, item), "a bound of between") for item in node.items)
    return low, high
