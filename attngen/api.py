"""From a spec to a callable attention op, for use in Python programs.

A spec is compiled once per machine: the module is kept on disk under a digest of everything that its text depends on,
so that neither sympy nor the templates are touched the next time. The op itself is documented by its module.
"""

import functools
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attngen import catalog
from attngen.build import DEFAULT, Build, chosen_build
from attngen.paths import data_dir, package_dir
from attngen.version import __version__

if TYPE_CHECKING:
    from attngen.pipeline import Compilation


def load(spec: str | os.PathLike[str], /, **statics: object) -> Callable[..., Any]:
    """The attention op of a spec: a path, or the name of a shipped one.

    `statics` are values for the spec's static inputs. The op is called like
    `torch.nn.functional.scaled_dot_product_attention`: query (B, Hq, Nq, D), key (B, Hkv, Nk, D), value
    (B, Hkv, Nk, Dv), then the spec's inputs as keywords. See its docstring; `inspect.getmodule` gives its module.

    Raises SpecError for a spec that is wrong, FileNotFoundError for one that isn't there, CacheError where the cache
    folder isn't safe (`ATTNGEN_CACHE_DIR` names another). ATTNGEN_TARGET=hopper asks for Hopper's own kernels,
    ATTNGEN_PRECISION=fast for approximate logistic functions and tanh in 16 bits on GPUs: see `attngen.build`.
    """
    return load_text(catalog.read(spec), {name: str(value) for name, value in statics.items()}, chosen_build())


def load_text(spec: catalog.SpecText, statics: dict[str, str], build: Build = DEFAULT) -> Callable[..., Any]:
    """As `load`, of a spec's text."""
    # Loading an op brings torch with it; `import attngen` alone does not.
    from attngen.runtime.loader import load_built
    from attngen.runtime.tiles import use_tuned

    name, module = load_built(request_digest(spec, statics, build), lambda: _compile(spec, statics, build))
    use_tuned(name, module)
    op: Callable[..., Any] = getattr(module, f"{name}_attention")
    return op


def _compile(spec: catalog.SpecText, statics: dict[str, str], build: Build) -> "Compilation":
    from attngen.pipeline import compile_spec

    return compile_spec(spec.text, spec.path, statics, build)


def request_digest(spec: catalog.SpecText, statics: dict[str, str], build: Build = DEFAULT) -> str:
    """What the generated text depends on, as a SHA-256: spec, statics, build, version, the compiler's own files."""
    settings = (f"{name}={statics[name]}" for name in sorted(statics))
    parts = [__version__, _compiler_digest(), repr(build), spec.text, *settings]
    return _digest(part.encode("utf-8") for part in parts)


@functools.cache
def _compiler_digest() -> str:
    """So that whoever edits the compiler never gets a module of the day before."""
    files = _tree(package_dir(), "*.py") + _tree(data_dir() / "templates", "*")
    return _digest(file.read_bytes() for file in files)


def _tree(root: Path, pattern: str) -> list[Path]:
    return sorted(
        file for file in root.rglob(pattern) if file.is_file() and "_data" not in file.relative_to(root).parts
    )


def _digest(parts: Iterable[bytes]) -> str:
    # Each part is hashed by itself first, so that text can't move from one part to its neighbour unseen.
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
