"""A known name close to the one that was written, and the words in which messages list names."""

from collections.abc import Iterable
from difflib import get_close_matches


def near(written: str, known: Iterable[str]) -> str | None:
    """The known name closest to the written one, None if none is close."""
    by_lower = {name.lower(): name for name in known}
    matches = get_close_matches(written[:80].lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[matches[0]] if matches else None


def listed(names: Iterable[str], word: str = "or") -> str:
    """`a, b or c`."""
    *most, last = names
    return f"{', '.join(most)} {word} {last}" if most else last


def quoted(text: str, limit: int = 60) -> str:
    """Text of the user's as a message shows it: quoted, on one line, cut if it is long."""
    flat = " ".join(text.split())
    return f"'{flat}'" if len(flat) <= limit else f"'{flat[:limit]}...'"
