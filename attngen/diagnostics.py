"""What goes wrong, and whose mistake it is.

A user's mistake is a `SpecError`: one or more diagnostics, each with a place in the spec's text, printed with a caret.
A mistake of this project is an `InternalError` with the text of what it was working on. A spec that is right but asks
for something that is not built yet is a `SpecError` as well, whose message says "not yet".
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of one line of a spec. `line` and `column` count from 1, in characters."""

    line: int
    column: int
    length: int = 1


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One mistake: what is wrong, where, and what would be right.

    `expected` says what the compiler would accept at this place; `near` is a known name close to the one that was
    written.
    """

    message: str
    span: Span | None = None
    expected: str | None = None
    near: str | None = None


class SpecError(Exception):
    """A spec that can't be compiled, with all of its mistakes at once."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...], path: str = "<spec>", text: str = "") -> None:
        self.diagnostics = diagnostics
        self.path = path
        self.text = text
        super().__init__(self.render())

    def located(self, path: str, text: str) -> "SpecError":
        """The same mistakes, told of the file `path` whose content is `text`."""
        return SpecError(self.diagnostics, path, text)

    def render(self) -> str:
        """The message as users see it: per mistake `path:line:column: error: ...`, the line, a caret, hints."""
        lines = self.text.splitlines()
        return "\n".join(_render(diagnostic, self.path, lines) for diagnostic in self.diagnostics)


def _render(diagnostic: Diagnostic, path: str, lines: list[str]) -> str:
    span = diagnostic.span
    place = path if span is None else f"{path}:{span.line}:{span.column}"
    parts = [f"{place}: error: {diagnostic.message}"]
    if span is not None and span.line <= len(lines):
        parts += _excerpt(lines[span.line - 1], span)
    if diagnostic.expected:
        parts.append(f"  expected: {diagnostic.expected}")
    if diagnostic.near:
        parts.append(f"  did you mean '{diagnostic.near}'?")
    return "\n".join(parts)


_WIDTH = 100  # characters of a source line that are shown around the caret


def _excerpt(line: str, span: Span) -> list[str]:
    first = max(0, span.column - 1 - _WIDTH // 2) if len(line) > _WIDTH else 0
    shown = "".join(c if c.isprintable() else " " for c in line[first : first + _WIDTH])
    indent = span.column - 1 - first
    carets = "^" * max(1, min(span.length, len(shown) - indent))
    return [f"    {shown}", f"    {' ' * indent}{carets}"]


class InternalError(Exception):
    """A mistake of attngen's own; `subject` is the text of the formula or plan it was working on."""

    def __init__(self, message: str, subject: str = "") -> None:
        self.subject = subject
        super().__init__(f"{message}\n{subject}" if subject else message)
