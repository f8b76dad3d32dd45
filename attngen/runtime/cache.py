"""The folder on disk that keeps generated modules between processes.

It is the user's own and nobody else may write to it, because what it holds is imported. Where no folder can be written,
a private one that ends with the process takes its place. Two kinds of files lie in it, flat: `NAME-SHA256.py`, a module
whose name says the hash of its content, and `DIGEST.found`, which says what module a request led to. Nothing is
imported here.
"""

import functools
import hashlib
import os
import stat
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock

from attngen.files import write_atomically

VARIABLE = "ATTNGEN_CACHE_DIR"


class CacheError(RuntimeError):
    """The cache folder is one that modules must not be imported from."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A generated module on disk. `digest` is the SHA-256 of `text`, which was compared with it."""

    name: str
    text: str
    digest: str
    path: Path


def cache_dir() -> Path:
    """The folder, made if it is missing. Raises CacheError where others own it or may write to it."""
    asked = os.environ.get(VARIABLE)
    return _prepared(Path(asked).absolute() if asked else platformdirs.user_cache_path("attngen"))


@functools.cache
def _prepared(path: Path) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_private(path)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        warnings.warn(
            f"attngen cannot write to {path} ({error.strerror}): what it builds lasts for this process only; "
            f"{VARIABLE} names another folder",
            stacklevel=2,
        )
        return Path(_temporary().name)


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="attngen-")  # 0700; removed when the process ends


def check_private(path: Path) -> None:
    """Raise CacheError unless the folder is the user's and only the user may write to it."""
    if os.name != "posix":
        return
    status = path.stat()
    if status.st_uid != os.getuid():
        raise CacheError(f"the cache folder {path} belongs to another user; {VARIABLE} names another folder")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CacheError(f"others may write to the cache folder {path}: chmod go-w it, or set {VARIABLE}")


def store(name: str, text: str) -> SourceFile:
    """The module's file, written if it isn't there or isn't what it should be."""
    digest = sha256(text)
    path = cache_dir() / f"{name}-{digest}.py"
    if _read(path) != text:
        write_atomically(path, text, mode=0o600)
    return SourceFile(name, text, digest, path)


def find_or_build(request: str, build: Callable[[], tuple[str, str]]) -> SourceFile:
    """The module that this request (a digest) led to before, or what `build` makes of it: (name, text).

    Try, lock, try again, build: of several processes that ask at once, one builds.
    """
    folder = cache_dir()
    found = _found(folder, request)
    if found is not None:
        return found
    with FileLock(folder / f"{request}.lock"):
        found = _found(folder, request)
        if found is not None:
            return found
        module = store(*build())
        write_atomically(folder / f"{request}.found", module.path.name, mode=0o600)
        return module


def _found(folder: Path, request: str) -> SourceFile | None:
    file_name = _read(folder / f"{request}.found")
    if file_name is None:
        return None
    name, _, digest = file_name.removesuffix(".py").rpartition("-")
    text = _read(folder / f"{name}-{digest}.py")
    # A truncated or edited file is built anew, never imported.
    return SourceFile(name, text, digest, folder / file_name) if text is not None and sha256(text) == digest else None


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return None
