"""Readable names for the quantities that the analysis introduced.

Inside the analysis they begin with "%", which no user can write. Here "%lse1" becomes `lse`, or `lse1` beside `lse2`,
or gets an underscore if the spec has an input or a root of that name. "%%tau1", a root's, is `tau1`.
"""

import dataclasses
import re
from typing import Any, TypeVar

from attngen import ir
from attngen.analysis.result import Analysis

T = TypeVar("T")
# A root is called as the spec calls it if that is one of these, which an op needs for nothing of its own. Other roots
# get an underscore, in which no user's name ends.
FREE = re.compile(r"(alpha|beta|gamma|theta|kappa|mu|nu|rho|sigma|tau|phi|omega)(_?\d+)?")


def readable_names(analysis: Analysis, normalizer: ir.Normalizer) -> Analysis:
    """The same analysis, with names that neither the spec's inputs nor the builtins have."""
    taken = {i.name for i in normalizer.inputs} | set(ir.BUILTINS)
    return _renamed(analysis, _choose(sorted(_found(analysis)), taken))


def _choose(marked: list[str], taken: set[str]) -> dict[str, str]:
    roots = [name[2:] for name in marked if name.startswith("%%")]
    chosen = {f"%%{name}": name if FREE.fullmatch(name) else f"{name}_" for name in roots}
    taken |= set(chosen.values())
    numbered = [name for name in marked if name not in chosen]
    stems = [re.sub(r"\d+$", "", name) for name in numbered]
    for name, stem in zip(numbered, stems, strict=True):
        candidate = stem[1:] if stems.count(stem) == 1 else name[1:]
        while candidate in taken:
            candidate += "_"
        taken.add(candidate)
        chosen[name] = candidate
    return chosen


def _found(node: Any) -> set[str]:
    if isinstance(node, str):
        return {node} if node.startswith("%") else set()
    if isinstance(node, tuple):
        return set().union(*map(_found, node))
    if dataclasses.is_dataclass(node):
        return set().union(*(_found(getattr(node, f.name)) for f in dataclasses.fields(node)))
    return set()


def _renamed(node: T, names: dict[str, str]) -> T:
    if isinstance(node, str):
        return names.get(node, node)  # type: ignore[return-value]
    if isinstance(node, tuple):
        return tuple(_renamed(child, names) for child in node)  # type: ignore[return-value]
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        changed = {f.name: _renamed(getattr(node, f.name), names) for f in dataclasses.fields(node) if f.init}
        return dataclasses.replace(node, **changed)
    return node
