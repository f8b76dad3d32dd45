"""YAML text into a small tree of scalars, sequences and mappings, each with its place in the text.

This is the one module that uses PyYAML, and it uses its event parser alone: no YAML type is ever constructed, all
scalars stay text. What a spec doesn't need is refused as it comes in, before anything is built of it: aliases and
anchors, tags, merge keys, several documents, keys that aren't text, deep nesting. It doesn't know the fields of a spec.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from attngen.diagnostics import Diagnostic, Span, SpecError
from attngen.spec import limits
from attngen.spec.source import Source, character_mistake, refused

_TOO_LARGE = "the spec holds more than {} values"


@dataclass(frozen=True, slots=True)
class Scalar:
    """`value` is the text as YAML means it; `start` and `end` are the offsets of its content as written."""

    value: str
    plain: bool
    span: Span
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Sequence:
    items: tuple["Node", ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Entry:
    key: str
    span: Span
    value: "Node"


@dataclass(frozen=True, slots=True)
class Mapping:
    """`repeated` are the later entries of a key that is there more than once. `flow`: written with braces."""

    entries: tuple[Entry, ...]
    repeated: tuple[Entry, ...]
    span: Span
    flow: bool


Node = Scalar | Sequence | Mapping


def compose(read: Source) -> Node | None:
    """The tree of the only document in the text, None if there is none. Raises SpecError with one diagnostic."""
    offset = refused(read.text)
    if offset is not None:
        raise SpecError((character_mistake(read, offset),))
    try:
        return _Composer(read).document()
    except yaml.MarkedYAMLError as error:
        raise SpecError((_translated(error, read),)) from None
    except (yaml.YAMLError, ValueError, OverflowError):  # PyYAML lets "\UFFFFFFFF" through to chr()
        raise SpecError((Diagnostic("this is not valid YAML: a number or an escape is out of range"),)) from None


class _Composer:
    def __init__(self, read: Source) -> None:
        self.read = read
        self.events: Iterator[yaml.Event] = yaml.parse(read.text, Loader=yaml.SafeLoader)
        self.nodes = 0

    def document(self) -> Node | None:
        next(self.events)  # the stream's start
        first = next(self.events)
        if isinstance(first, yaml.StreamEndEvent):
            return None
        node = self.node(next(self.events), 0)
        next(self.events)  # the document's end
        after = next(self.events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise self.refusal("a second document starts here", after, "one spec to a file")
        return node

    def node(self, event: yaml.Event, depth: int) -> Node:
        self.refuse(event)
        self.nodes += 1
        if self.nodes > limits.YAML_NODES:
            raise self.refusal(_TOO_LARGE.format(limits.YAML_NODES), event, None)
        if depth > limits.YAML_NESTING:
            message = f"lists and mappings are nested more than {limits.YAML_NESTING} deep"
            raise self.refusal(message, event, "at most three levels, as in inputs: bias: shape: []")
        match event:
            case yaml.ScalarEvent():
                return self.scalar(event)
            case yaml.SequenceStartEvent():
                return self.sequence(event, depth)
            case yaml.MappingStartEvent():
                return self.mapping(event, depth)
        raise self.refusal("a value is missing here", event, "a value")

    def refuse(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.AliasEvent):
            raise self.refusal("YAML aliases (*name) are not part of a spec", event, "the value itself")
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            raise self.refusal("YAML anchors (&name) are not part of a spec", event, "the value without an anchor")
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
            raise self.refusal("YAML tags (!name) are not part of a spec", event, "the value without a tag")

    def scalar(self, event: yaml.ScalarEvent) -> Scalar:
        start, end = self.content(event)
        return Scalar(event.value, event.style is None, self.span(event, event), start, end)

    def span(self, first: yaml.Event, last: yaml.Event) -> Span:
        start, end = _place(first)[0], _place(last)[1]
        return self.read.span(start, max(end, start + 1))

    def content(self, event: yaml.ScalarEvent) -> tuple[int, int]:
        """Where the text of a scalar stands: without its quotes, or behind the line of its block indicator."""
        start, end = _place(event)
        if event.style in ("'", '"'):
            return start + 1, end - 1
        if event.style in ("|", ">"):
            line_end = self.read.text.find("\n", start, end)
            return (end, end) if line_end < 0 else (line_end + 1, end)
        return start, end

    def sequence(self, event: yaml.SequenceStartEvent, depth: int) -> Sequence:
        items = []
        while not isinstance(item := next(self.events), yaml.SequenceEndEvent):
            items.append(self.node(item, depth + 1))
        return Sequence(tuple(items), self.span(event, item))

    def mapping(self, event: yaml.MappingStartEvent, depth: int) -> Mapping:
        entries: dict[str, Entry] = {}
        repeated = []
        while not isinstance(item := next(self.events), yaml.MappingEndEvent):
            key = self.key(item)
            entry = Entry(key.value, key.span, self.node(next(self.events), depth + 1))
            if entry.key in entries:
                repeated.append(entry)
            entries.setdefault(entry.key, entry)
        return Mapping(tuple(entries.values()), tuple(repeated), self.span(event, item), bool(event.flow_style))

    def key(self, event: yaml.Event) -> Scalar:
        self.refuse(event)
        if not isinstance(event, yaml.ScalarEvent):
            raise self.refusal("a list or a mapping can't be a key", event, "a name, as in weights: exp(s)")
        if event.style is None and event.value == "<<":
            raise self.refusal("YAML merge keys (<<) are not part of a spec", event, "the fields themselves")
        return self.scalar(event)

    def refusal(self, message: str, event: yaml.Event, expected: str | None) -> SpecError:
        return SpecError((Diagnostic(message, self.span(event, event), expected),))


def _place(event: yaml.Event) -> tuple[int, int]:
    """The offsets at which an event starts and ends."""
    start, end = event.start_mark, event.end_mark
    return (start.index, end.index) if start and end else (0, 0)


# What PyYAML says -> what is wrong, in a spec's terms, and what would be right.
_ADVICE = (
    ("'\\t'", "a tab stands where YAML takes spaces alone", "spaces for indentation"),
    ("cannot start any token", "text can't start with this character", "quotes around the text"),
    ("mapping values are not", "a second ': ' in one entry", "one `field: value` to a line, or quotes around the text"),
    ("could not find expected ':'", "a line without ': '", "a line of the form `field: value`"),
    ("expected ',' or '}'", "the braces before this are never closed", "commas between entries, and a closing brace"),
    ("expected ',' or ']'", "the brackets before this are never closed", "commas between items, and a closing bracket"),
    ("expected <block end>", "this line is out of place", "the same indentation for all entries of a mapping"),
    ("while scanning a quoted scalar", "a quotation mark that is never closed", "a closing quotation mark"),
)


def _translated(error: yaml.MarkedYAMLError, read: Source) -> Diagnostic:
    said = f"{error.context or ''} {error.problem or ''}"
    found = next((entry for entry in _ADVICE if entry[0] in said), ("", f"{error.problem}", None))
    unclosed = error.context_mark if found[0].startswith("while") else None
    mark = unclosed or error.problem_mark or error.context_mark
    span = read.span(min(mark.index, len(read.text)), mark.index + 1) if mark else None
    return Diagnostic(f"this is not valid YAML: {found[1]}", span, found[2])
