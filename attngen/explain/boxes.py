"""Typeset formulas as trees of boxes, in Unicode, before it is decided whether they become LaTeX or MathML."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Letter:
    """A name. `upright` as for words, otherwise slanted as for single letters."""

    text: str
    upright: bool = False


@dataclass(frozen=True, slots=True)
class Digits:
    text: str


@dataclass(frozen=True, slots=True)
class Sign:
    """An operator or a separator, with the space that its kind gets."""

    text: str


@dataclass(frozen=True, slots=True)
class Function:
    """The name of a function, before its argument."""

    name: str


@dataclass(frozen=True, slots=True)
class Row:
    items: tuple["Box", ...]


@dataclass(frozen=True, slots=True)
class Fraction:
    over: "Box"
    under: "Box"


@dataclass(frozen=True, slots=True)
class Root:
    body: "Box"


@dataclass(frozen=True, slots=True)
class Script:
    base: "Box"
    below: "Box | None" = None
    above: "Box | None" = None


@dataclass(frozen=True, slots=True)
class Fence:
    left: str
    body: "Box"
    right: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One value under a condition, another one otherwise."""

    condition: "Box"
    value: "Box"
    otherwise: "Box"


@dataclass(frozen=True, slots=True)
class Big:
    """A sum sign, or max and min, with the index that runs."""

    operator: str
    index: "Box"


Box = Letter | Digits | Sign | Function | Row | Fraction | Root | Script | Fence | Choice | Big


def row(*items: Box) -> Row:
    return Row(items)


def fenced(body: Box) -> Fence:
    return Fence("(", body, ")")
