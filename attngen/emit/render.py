"""Rendering: a module's context and the templates -> source text. The one user of jinja2.

An undefined name is an error. Blank lines come out as the formatter would have them: never more than two, none at the
beginning of a block, none at the end.
"""

import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import jinja2
from jinja2 import meta

from attngen.emit.context import ModuleContext
from attngen.paths import data_dir

TEMPLATE = "module.py.jinja"
WIDTH = 120  # characters of a line
_STATEMENT = re.compile(r" +([\w\[\]*, ]+ = |\w+\(.*\)$)")  # an assignment, or a call


def templates_dir() -> Path:
    """The folder of the templates."""
    return data_dir() / "templates"


def environment() -> jinja2.Environment:
    """The jinja2 environment of all templates."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates_dir()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    env.filters["as_tuple"] = as_tuple
    return env


def as_tuple(items: Iterable[object]) -> str:
    """Source text of a tuple of expressions."""
    texts = [str(item).replace("'", '"') for item in items]
    return f"({texts[0]},)" if len(texts) == 1 else f"({', '.join(texts)})"


def render(context: ModuleContext) -> str:
    """The module's source text."""
    values = {field.name: getattr(context, field.name) for field in fields(context)}
    return unbroken(tidy(environment().get_template(TEMPLATE).render(values)))


def variables(template: str) -> frozenset[str]:
    """The names that a template takes from its context."""
    env = environment()
    source = (templates_dir() / template).read_text(encoding="utf-8")
    return frozenset(meta.find_undeclared_variables(env.parse(source)))


def tidy(text: str) -> str:
    """Blank lines as a formatter leaves them, and no blanks at the ends of lines."""
    lines = [line.rstrip() for line in text.splitlines()]
    kept: list[str] = []
    for number, line in enumerate(lines):
        if line or _keeps_blank(kept, _next_line(lines, number)):
            kept.append(line)
    return "\n".join(kept).rstrip("\n") + "\n"


def unbroken(text: str) -> str:
    """Statements that the names of a spec make longer than a line keep to one: formatters are told to leave them."""
    lines, quoted = text.split("\n"), False
    for number, line in enumerate(lines):
        if not quoted and len(line) > WIDTH and _STATEMENT.match(line) and line.count("(") == line.count(")"):
            lines[number] = f"{line}  # fmt: skip"
        quoted ^= line.count('"""') % 2 == 1
    return "\n".join(lines)


def _next_line(lines: list[str], number: int) -> str:
    return next((line for line in lines[number:] if line), "")


def _keeps_blank(kept: list[str], following: str) -> bool:
    """Two before something at the left margin, one inside functions, none behind an opening line."""
    if not kept or not following:
        return False
    blanks = len(kept) - len([*_stripped(kept)])
    outside = not re.match(r"[\s#]", following)
    if blanks >= (2 if outside or following.startswith("#") else 1):
        return False
    return not re.search(r"[:\[({,]$", kept[-1] or "x")


def _stripped(kept: list[str]) -> list[str]:
    end = len(kept)
    while end and not kept[end - 1]:
        end -= 1
    return kept[:end]
