"""Values of a YAML tree into text, truth values, names and formulas; a mistake is added to a list, and reading goes on.

What all fields have in common stands here; which fields there are is told by `fields`.
"""

import builtins
import keyword
import re
from dataclasses import dataclass, field

from attngen.diagnostics import Diagnostic, Span
from attngen.ir import BUILTINS, FUNCTIONS, REDUCTIONS
from attngen.spec import grammar, limits
from attngen.spec.lexer import FormulaMistake
from attngen.spec.near import listed, near, quoted
from attngen.spec.raw import Formula
from attngen.spec.source import Source, refused
from attngen.spec.syntax import Syntax
from attngen.spec.yaml_tree import Entry, Mapping, Node, Scalar, Sequence

CALL_ARGUMENTS = ("query", "key", "value", "is_causal", "scale", "window", "alignment", "return_aux", "deterministic")
OUTPUT_NAMES = ("o", "csum")
_TRUTH = {"true": True, "True": True, "false": False, "False": False}
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_COMMAS = "; a formula with commas needs quotes inside { }"


@dataclass(frozen=True, slots=True)
class Reading:
    """The file that is read, the mistakes found in it so far, and the names that it wanted to give and could not."""

    read: Source
    mistakes: list[Diagnostic] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)

    def mistake(self, message: str, span: Span | None, expected: str | None = None, close: str | None = None) -> None:
        self.mistakes.append(Diagnostic(message, span, expected, close))


def kind(node: Node) -> str:
    match node:
        case Scalar(value="", plain=True):
            return "empty"
        case Scalar():
            return "text"
        case Sequence():
            return "a list"
        case Mapping():
            return "a mapping"


def entries(reading: Reading, node: Node, what: str, expected: str) -> dict[str, Entry]:
    """The entries of a mapping; what isn't one is a mistake and has none. Repeated keys are mistakes."""
    if not isinstance(node, Mapping):
        reading.mistake(f"{what} is {kind(node)}", node.span, expected)
        return {}
    for entry in node.repeated:
        reading.mistake(f"{quoted(entry.key)} is here for the second time", entry.span, "each key once")
    return {entry.key: entry for entry in node.entries}


def known_entries(reading: Reading, node: Node, what: str, known: tuple[str, ...]) -> dict[str, Entry]:
    """The entries whose key is known; all others are mistakes."""
    found = entries(reading, node, what, f"a mapping with the fields {listed(known, 'and')}")
    for key in found.keys() - set(known):
        expected = listed(known) + (_COMMAS if ")" in key or "(" in key else "")
        reading.mistake(f"unknown field {quoted(key)} of {what}", found[key].span, expected, near(key, known))
    return {key: entry for key, entry in found.items() if key in known}


def text(reading: Reading, entry: Entry | None) -> str:
    """A title or reference on one line, empty if the field is not there."""
    if entry is None:
        return ""
    node = entry.value
    if not isinstance(node, Scalar) or not node.value.strip():
        reading.mistake(f"{entry.key} is {kind(node)}", node.span, "a line of text, or no such field")
        return ""
    if refused(node.value) is not None:
        reading.mistake(f"{entry.key} holds an escaped control character", node.span, "printable text")
    if len(node.value) > limits.TITLE_CHARACTERS:
        expected = f"at most {limits.TITLE_CHARACTERS} characters"
        reading.mistake(f"{entry.key} has {len(node.value)} characters", node.span, expected)
    return " ".join(node.value.split())


def truth(reading: Reading, entry: Entry | None, default: bool) -> bool:
    if entry is None:
        return default
    node = entry.value
    if not isinstance(node, Scalar) or not node.plain or node.value not in _TRUTH:
        shown = quoted(node.value) if isinstance(node, Scalar) and node.value else kind(node)
        reading.mistake(f"{entry.key} is {shown}", node.span, "true or false")
        return default
    return _TRUTH[node.value]


def formula(reading: Reading, entry: Entry, what: str) -> Formula:
    """The formula of an entry; its tree is None if it could not be read."""
    node = entry.value
    if not isinstance(node, Scalar):
        hint = _COMMAS if isinstance(node, Mapping) and node.flow else ""
        reading.mistake(f"{what} is {kind(node)}", node.span, "a formula, such as exp(s) / sum(exp(s))" + hint)
        return Formula(None, node.span)
    if not node.value.strip():
        reading.mistake(f"{what} is empty", entry.span, "a formula")
        return Formula(None, node.span)
    return Formula(_tree(reading, node), node.span)


def _tree(reading: Reading, node: Scalar) -> Syntax | None:
    try:
        return grammar.formula(reading.read, node.start, node.end)
    except FormulaMistake as mistake:
        reading.mistakes.append(mistake.diagnostic)
        return None


def new_name(reading: Reading, entry: Entry, what: str, taken: frozenset[str]) -> bool:
    """Whether the key of an entry can name an input or a let."""
    reason = _refusal(entry.key, what, taken)
    if reason:
        reading.refused.add(entry.key)
        reading.mistake(reason[0], entry.span, reason[1])
    return not reason


def _refusal(name: str, what: str, taken: frozenset[str]) -> tuple[str, str] | None:
    """Why a name can't be taken, and what could."""
    another = "another name"
    if not _IDENTIFIER.fullmatch(name) or name.endswith("_") or "__" in name:
        return f"{quoted(name)} can't name {what}", "ASCII letters, digits and single underscores, a letter first"
    if len(name) > limits.IDENTIFIER_CHARACTERS:
        return f"a name of {len(name)} characters", f"at most {limits.IDENTIFIER_CHARACTERS} characters"
    if name in BUILTINS:
        return f"'{name}' always means {BUILTINS[name]}", another
    if name in FUNCTIONS or name in REDUCTIONS or name in OUTPUT_NAMES:
        return f"'{name}' is a name of the language", another
    if name in CALL_ARGUMENTS:
        return f"'{name}' is an argument of every generated op", another
    if keyword.iskeyword(name) or hasattr(builtins, name) or name in ("torch", "triton", "tl"):
        return f"'{name}' has a meaning in Python, in which the op is written", another
    if name in taken:
        return f"'{name}' is already the name of an input or let", another
    return None
