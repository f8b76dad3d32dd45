"""From what the user calls a spec, a path or a shipped name, to its text.

A name without a separator and without `.yaml` is a shipped spec; everything else is a path. Nothing is parsed here.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from attngen.paths import data_dir
from attngen.spec.files import spec_text
from attngen.spec.near import near

_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class SpecText:
    """A spec as it was read; `path` is what messages call it."""

    path: str
    text: str


def shipped() -> tuple[Path, ...]:
    """The specs that come with attngen, by name."""
    return tuple(sorted((data_dir() / "specs").glob("*.yaml")))


def read(spec: str | os.PathLike[str]) -> SpecText:
    """The text of the spec at this path or of this shipped name.

    Raises FileNotFoundError (with a near name, where one is close), and SpecError if the file can't be read as text.
    """
    path = find(spec)
    return SpecText(str(path), spec_text(path))


def find(spec: str | os.PathLike[str]) -> Path:
    """The file that holds this spec."""
    path = Path(spec)
    if not _is_name(os.fspath(spec)):
        if not path.is_file():
            raise FileNotFoundError(f"there is no spec file {path}")
        return path
    known = {file.stem: file for file in shipped()}
    if path.name not in known:
        raise FileNotFoundError(f"there is no shipped spec '{path.name}'{_hint(path.name, tuple(known))}")
    return known[path.name]


def _is_name(spec: str) -> bool:
    return not spec.endswith(_SUFFIXES) and os.sep not in spec


def _hint(name: str, known: tuple[str, ...]) -> str:
    close = near(name, known)
    return f"; did you mean '{close}'?" if close else "; `attngen list` shows them, a path ends in .yaml"
