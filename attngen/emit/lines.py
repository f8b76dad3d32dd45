"""Printed lines as text: which variable a line computes, and which ones it reads. No formula is looked at here."""

import re
from collections.abc import Iterable

_VARIABLE = re.compile(r"(?<![.\w])[a-z]\w*(?![\w(])")  # no attribute, no function
_OF_LANGUAGE = frozenset({"tl", "float32", "float"})


def computed(line: str) -> str:
    """The variable that `name = value` computes."""
    return line.split(" = ", 1)[0]


def read(texts: Iterable[str]) -> tuple[str, ...]:
    """The variables of lines of Triton, in the order of their first places."""
    words = _VARIABLE.findall("\n".join(texts))
    return tuple(word for word in dict.fromkeys(words) if word not in _OF_LANGUAGE)
