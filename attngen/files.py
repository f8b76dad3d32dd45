"""Writing text files so that a reader never sees half of one."""

import os
import tempfile
from pathlib import Path


def current(path: Path, text: str) -> bool:
    """Whether the file is there and holds exactly this text."""
    try:
        return path.read_bytes() == text.encode("utf-8")
    except FileNotFoundError:
        return False


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Put the text at `path` in one step: a file beside it is written first and renamed."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8"))
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
