"""From the text of a generated module to the module, imported once per process.

A module registers its ops with torch when it is imported, which can be done once: the same text always gives the same
module object, whether it came through here or was imported from elsewhere. It does not compile specs.
"""

import importlib.util
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from attngen.runtime.cache import SourceFile, find_or_build, sha256, store

if TYPE_CHECKING:
    from attngen.pipeline import Compilation

_LOCK = threading.RLock()


def load_module(compilation: "Compilation") -> ModuleType:
    """The compiled spec's module, with its function `<name>_attention`."""
    return import_file(store(compilation.normalizer.name, compilation.source))


def load_built(request: str, build: Callable[[], "Compilation"]) -> tuple[str, ModuleType]:
    """Name and module for a request (a digest of all that the text depends on); `build` runs if it is new."""

    def named_text() -> tuple[str, str]:
        compilation = build()
        return compilation.normalizer.name, compilation.source

    file = find_or_build(request, named_text)
    return file.name, import_file(file)


def import_file(file: SourceFile) -> ModuleType:
    """The module of this text: the one that is imported already, or a new one."""
    with _LOCK:
        return _imported(file) or _import(file)


def _imported(file: SourceFile) -> ModuleType | None:
    name = _module_name(file)
    if name in sys.modules:
        return sys.modules[name]
    candidates = (m for m in tuple(sys.modules.values()) if "KERNELS" in getattr(m, "__dict__", {}))
    return next((module for module in candidates if _text_digest(module) == file.digest), None)


def _text_digest(module: ModuleType) -> str | None:
    path = getattr(module, "__file__", None)
    try:
        return sha256(Path(path).read_text("utf-8")) if path else None
    except (OSError, UnicodeDecodeError):
        return None


def _module_name(file: SourceFile) -> str:
    return f"attngen_{file.name}_{file.digest[:16]}"


def _import(file: SourceFile) -> ModuleType:
    """Run exactly the text whose hash was compared: neither the file again nor a `.pyc` beside it."""
    name = _module_name(file)
    spec = importlib.util.spec_from_file_location(name, file.path)
    if spec is None:
        raise ImportError(f"{file.path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        exec(compile(file.text, str(file.path), "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module
