"""Whether one formula is a multiple of another, and the factor between them."""

import pytest

from attngen import notation
from attngen.emit.multiples import multiple
from attngen.ir import Expr
from attngen.spec.lower import read_spec


def formula(text: str) -> Expr:
    return read_spec(
        f"name: one\ninputs: {{a: {{shape: []}}, b: {{shape: []}}}}\nweights: {text}\n", "one.yaml"
    ).weights


@pytest.mark.parametrize(
    ("expr", "of", "factor"),
    [
        ("exp(qk) * (a - b)", "exp(qk) * (a - b)", "1"),
        ("(b - a) * exp(qk)", "exp(qk) * (a - b)", "-1"),
        ("d * exp(qk) * (0.5 * b - 0.5 * a)", "2 * exp(qk) * (a - b)", "-0.25 * d"),
        ("a * exp(qk) / b", "exp(qk) / (2 * b)", "2 * a"),
        ("qk * (a / b + 1)", "-qk * (1 + a / b) / d", "-1 * d"),
        ("exp(qk) * (a - b)", "exp(qk) * (a - 2 * b)", None),
        ("exp(qk)", "a * exp(qk)", None),  # a may be zero
        ("exp(qk) / b", "exp(qk)", None),
        ("qk", "exp(qk)", None),
        ("qk", "0 * qk", None),
    ],
)
def test_multiples(expr: str, of: str, factor: str | None) -> None:
    found = multiple(formula(expr), formula(of))
    assert (found and notation.text(found)) == factor
