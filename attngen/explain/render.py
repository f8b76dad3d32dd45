"""Compilation -> explanation, in the format that was asked for."""

from attngen.explain.html import as_html
from attngen.explain.latex import as_latex
from attngen.explain.outline import document_of
from attngen.explain.text import as_text
from attngen.pipeline import Compilation

FORMATS = {"text": as_text, "latex": as_latex, "html": as_html}


def render(compilation: Compilation, form: str) -> str:
    """How a spec's formula was compiled, for people. `form` is one of `FORMATS`; anything else is a ValueError."""
    if form not in FORMATS:
        raise ValueError(f"no format is called {form!r}; there are {', '.join(FORMATS)}")
    return FORMATS[form](document_of(compilation.plan))
