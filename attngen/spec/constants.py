"""Numbers that a spec or a caller must give as such: values of static inputs, and what rows sum to.

Exact arithmetic of literals, a sign and one quotient; everything else is a formula and no number.
"""

from fractions import Fraction

from attngen import ir
from attngen.diagnostics import Diagnostic
from attngen.spec import grammar
from attngen.spec.lexer import FormulaMistake
from attngen.spec.near import near, quoted
from attngen.spec.raw import RawInput
from attngen.spec.source import refused, source
from attngen.spec.syntax import Literal, Operation, Syntax


def constant(tree: Syntax) -> Fraction | None:
    """The value of `3`, `-0.5` or `-1/2`, None for what is not a number that float32 can hold."""
    value = _exact(tree)
    return value if value is not None and ir.in_range(value) else None


def _exact(tree: Syntax) -> Fraction | None:
    match tree:
        case Literal(value):
            return value
        case Operation("neg", (body,)):
            positive = _exact(body)
            return None if positive is None else -positive
        case Operation("div", (above, below)):
            top, bottom = _exact(above), _exact(below)
            return None if top is None or not bottom else top / bottom
        case _:
            return None


def given(name: str, text: str) -> Fraction | Diagnostic:
    """The number that a caller gives to a static input, as text."""
    wrong = Diagnostic(f"the value {quoted(text)} of static input '{name}' is not a number", None, "such as 15 or -0.5")
    if refused(text) is not None:
        return wrong
    try:
        value = constant(grammar.formula(source(text), 0, len(text)))
    except FormulaMistake:
        return wrong
    return wrong if value is None else value


def no_static(name: str, inputs: tuple[RawInput, ...]) -> Diagnostic:
    """The mistake of giving a value to what is not a static input."""
    statics = tuple(entry.name for entry in inputs if entry.static)
    if name in (entry.name for entry in inputs):
        expected = "an argument of the call, or `kind: static` in the spec"
        return Diagnostic(f"input '{name}' is a tensor; it takes no value here", None, expected)
    listed = "one of " + ", ".join(statics) if statics else "no such value: the spec has no static inputs"
    return Diagnostic(f"there is no static input {quoted(name)}", None, listed, near(name, statics))
