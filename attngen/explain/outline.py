"""Compilation -> document: all sections in order, and names for what their equations repeat."""

import dataclasses
from collections.abc import Callable, Iterator

from attngen import ir
from attngen.explain import backward, forward
from attngen.explain.boxes import Letter
from attngen.explain.costs import costs_section
from attngen.explain.document import Block, Document, Equation, Equations, Section
from attngen.explain.output import step_back_section
from attngen.explain.roots import search_section
from attngen.explain.shorten import Shared, is_long, key, replaced, share
from attngen.explain.symbols import Symbol, Symbols, levels
from attngen.explain.words import Words, words_of
from attngen.ir import Name
from attngen.schedule import OpPlan
from attngen.version import __version__

Builder = Callable[[Words], Section | None]
_TOLD: tuple[Builder, ...] = (
    forward.formula_section,
    forward.passes_section,
    search_section,
    forward.state_section,
    forward.merge_section,
    forward.saved_section,
)
# Their equations share names for what repeats.
_DERIVED: tuple[Builder, ...] = (
    forward.forward_section,
    step_back_section,
    backward.adjoints_section,
    backward.gradients_section,
)


def document_of(plan: OpPlan) -> Document:
    """The explanation of a plan."""
    words = words_of(plan)
    derived = _built(_DERIVED, words)
    shared = share(_by_earlier_names([e for section in derived for e in _equations(section)]))
    symbols = words.symbols | _shared_symbols(shared, words)
    sections = (*_built(_TOLD, words), *_rewritten(derived, shared), costs_section(words))
    normalizer = plan.normalizer
    title = normalizer.title or f"{normalizer.name} attention"
    return Document(title, normalizer.reference, f"attngen {__version__}", sections, symbols)


def _built(builders: tuple[Builder, ...], words: Words) -> list[Section]:
    return [section for build in builders if (section := build(words)) is not None]


def _equations(section: Section) -> list[Equation]:
    return [e for block in section.blocks if isinstance(block, Equations) for e in block.items]


def _by_earlier_names(equations: list[Equation]) -> list[ir.Expr]:
    """The right sides, with what an earlier equation found written by its name."""
    rights: list[ir.Expr] = []
    for equation in equations:
        right = equation.right
        for earlier in equations[: len(rights)]:
            if is_long(earlier.right) and key(earlier.left) != key(equation.left):
                right = replaced(right, earlier.right, earlier.left)
        rights.append(right)
    return rights


def _shared_symbols(shared: Shared, words: Words) -> Symbols:
    found: Symbols = {}
    taken = {i.name for i in words.plan.normalizer.inputs} | {name for name, _ in words.plan.normalizer.lets}
    letter = next(letter for letter in "xyuhX" if letter not in taken)
    for number, (name, body) in enumerate(shared.definitions, 1):
        index = levels(body, words.symbols | found)
        found[name] = Symbol(f"{letter}{number}", Letter(letter), str(number), index)
    return found


def _rewritten(sections: list[Section], shared: Shared) -> list[Section]:
    """The sections over the shared names, each defined before the first equation that uses it."""
    rights = iter(shared.formulas)
    waiting = dict(shared.definitions)
    return [
        dataclasses.replace(section, blocks=tuple(_block(block, rights, waiting) for block in section.blocks))
        for section in sections
    ]


def _block(block: Block, rights: Iterator[ir.Expr], waiting: dict[str, ir.Expr]) -> Block:
    if not isinstance(block, Equations):
        return block
    items: list[Equation] = []
    for equation in block.items:
        right = next(rights)
        items += [*_definitions(right, waiting), Equation(equation.left, right)]
    return Equations(tuple(items))


def _definitions(expr: ir.Expr, waiting: dict[str, ir.Expr]) -> list[Equation]:
    found: list[Equation] = []
    for name in sorted(ir.names(expr) & waiting.keys()):
        body = waiting.pop(name, None)
        if body is not None:
            found += [*_definitions(body, waiting), Equation(Name(name), body)]
    return found
