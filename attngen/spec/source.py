"""The text of a spec file, checked for characters that have no place in it, and where each of its characters stands.

Offsets count characters from 0; lines and columns count from 1, and lines end as YAML ends them.
"""

import unicodedata
from bisect import bisect_right
from dataclasses import dataclass

from attngen.diagnostics import Diagnostic, Span

_BYTE_ORDER_MARK = "\ufeff"
_REFUSED = frozenset({"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"})  # control, invisible, half, not a character, line separator


@dataclass(frozen=True, slots=True)
class Source:
    """`text` and the offsets at which its lines start."""

    text: str
    starts: tuple[int, ...]

    def span(self, start: int, end: int) -> Span:
        """The characters from `start` to before `end`, up to the end of the line that they start in."""
        line = bisect_right(self.starts, start)
        column = start - self.starts[line - 1]
        limit = self.starts[line] if line < len(self.starts) else len(self.text)
        return Span(line, column + 1, max(1, min(end, limit) - start))


def source(text: str) -> Source:
    """The text with the places of its lines; characters are checked by `refused`."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return Source(text, tuple(starts))


def without_byte_order_mark(text: str) -> str:
    return text.removeprefix(_BYTE_ORDER_MARK)


def described(character: str) -> str:
    """A character as a message names it: itself where it can be seen, its code point, and its Unicode name."""
    name = unicodedata.name(character, "")
    code = f"U+{ord(character):04X}" + (f" {name}" if name else "")
    return f"'{character}' ({code})" if character.isprintable() else code


def refused(text: str) -> int | None:
    """The offset of the first character that can't stand in a spec, if there is one."""
    if text.isascii() and text.isprintable():
        return None
    allowed = "\t\n\r"
    offending = (n for n, c in enumerate(text) if c not in allowed and unicodedata.category(c) in _REFUSED)
    return next(offending, None)


def character_mistake(read: Source, offset: int) -> Diagnostic:
    """What is wrong with the refused character at `offset`."""
    return Diagnostic(
        f"the character {described(read.text[offset])} can't stand in a spec",
        read.span(offset, offset + 1),
        expected="printable text, spaces and line breaks",
    )
