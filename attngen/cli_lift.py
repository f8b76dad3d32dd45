"""`attngen lift`: attention in a function or a model of the user's, as spec files.

The user's file is run, as Python would run it. It imports torch; what attention is, is `attngen.dynamo`'s business.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn

from attngen.dynamo.backend import explain_compile
from attngen.dynamo.report import CompileReport, Replaced
from attngen.files import write_atomically

_TOKENS = 2  # whole numbers are drawn below it, so that they are tokens of any vocabulary


def run(target: str, shapes: tuple[str, ...], folder: Path) -> bool:
    """Write the specs and print the report; whether anything was lifted. Raises ValueError for what can't be run."""
    function = found(target)
    torch.manual_seed(0)
    tensors = [tensor(shape) for shape in shapes]
    if isinstance(function, nn.Module):
        function.eval()  # dropout would be left alone
    try:
        report = explain_compile(function, *tensors)
    except Exception as error:
        raise ValueError(f"{target} fails with these tensors: {type(error).__name__}: {error}") from error
    click.echo(report)
    for path, text in outputs(report, folder).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
        click.echo(f"{path} written")
    return bool(report.replaced)


def found(target: str) -> Callable[..., Any]:
    """What FILE.py:NAME or MODULE:NAME names; NAME() is called first."""
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise ValueError(f"'{target}' should be FILE.py:NAME or MODULE:NAME")
    made = getattr(_imported(place), name.removesuffix("()"), None)
    if made is None:
        raise ValueError(f"there is no '{name.removesuffix('()')}' in {place}")
    made = made() if name.endswith("()") else made
    if not callable(made) or isinstance(made, type):
        raise ValueError(f"{target} is no function and no model; '{name}()' would call it first")
    return made  # type: ignore[no-any-return]


def _imported(place: str) -> Any:
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path = Path(place).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {place}")
    sys.path.insert(0, str(path.parent))  # as for a script: its neighbours can be imported
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tensor(shape: str) -> Tensor:
    """2,4,128,64 or 2,128:int64, filled at random."""
    sizes, _, name = shape.partition(":")
    dtype = getattr(torch, name or "float32", None)
    if not isinstance(dtype, torch.dtype) or not all(size.isdigit() for size in sizes.split(",")):
        raise ValueError(f"'{shape}' should be sizes such as 2,4,128,64, with :TYPE if it isn't float32")
    numbers = tuple(int(size) for size in sizes.split(","))
    if dtype == torch.bool:
        return torch.rand(numbers) > 0.2
    return torch.randn(numbers).to(dtype) if dtype.is_floating_point else torch.randint(_TOKENS, numbers, dtype=dtype)


def outputs(report: CompileReport, folder: Path) -> dict[Path, str]:
    """One file for each formula, with the places that it came from and the calls that compute the same."""
    texts: dict[Path, str] = {}
    for entry in report.replaced:
        path = folder / f"{entry.name}.yaml"
        if path not in texts:
            texts[path] = entry.spec_text
        texts[path] = f"# {_call(entry)}\n{texts[path]}"
    return texts


def _call(entry: Replaced) -> str:
    arguments = [part for part in (entry.mask, f"scale {entry.scale}" if entry.scale else "") if part]
    arguments += [f"{name} = {source}" for name, source in entry.inputs]
    return ", ".join([f"From {entry.where}", *arguments])
