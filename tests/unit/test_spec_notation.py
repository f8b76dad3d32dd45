"""Formulas printed and read again are the same formulas."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attngen.ir import ARITY as ARITIES
from attngen.ir import BUILTINS, CONDITIONS, FUNCTIONS, VARIADIC, Apply, Expr, Name, Number, Reduce
from attngen.notation import text
from attngen.spec.lower import read_spec

ARITHMETIC = ("add", "sub", "mul", "div", "pow", "neg", *FUNCTIONS)


def flattened(expr: Expr) -> Expr:
    """The formula with a + (b + c) as one sum of three, and the same of products and conditions."""
    match expr:
        case Apply(op, args):
            new = [flattened(arg) for arg in args]
            if op in VARIADIC:
                parts = [arg.args if isinstance(arg, Apply) and arg.op == op else (arg,) for arg in new]
                return Apply(op, tuple(part for group in parts for part in group))
            return Apply(op, tuple(new))
        case Reduce(kind, body) if body is not None:
            return Reduce(kind, flattened(body))
        case _:
            return expr


def decimals() -> st.SearchStrategy[Expr]:
    return st.builds(lambda n, e: Number(Fraction(n) * Fraction(10) ** e), st.integers(0, 10**6), st.integers(-12, 12))


def conditions(numbers: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    pairs = st.tuples(numbers, numbers)
    compared = st.builds(Apply, st.sampled_from(sorted(CONDITIONS - {"and", "or", "not", "attains"})), pairs)
    return st.recursive(
        compared,
        lambda inner: st.one_of(
            st.builds(Apply, st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3).map(tuple)),
            st.builds(lambda body: Apply("not", (body,)), inner),
        ),
        max_leaves=4,
    )


def applications(numbers: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    def one(op: str) -> st.SearchStrategy[Expr]:
        if op == "where":
            return st.builds(lambda c, a, b: Apply("where", (c, a, b)), conditions(numbers), numbers, numbers)
        most = 4 if op in VARIADIC else ARITIES[op]
        return st.builds(Apply, st.just(op), st.lists(numbers, min_size=ARITIES[op], max_size=most).map(tuple))

    return st.sampled_from(ARITHMETIC).flatmap(one)


def reductions(numbers: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    return st.builds(Reduce, st.sampled_from(["sum", "mean", "amax", "amin"]), numbers)


FORMULAS = st.recursive(
    st.one_of(decimals(), st.sampled_from([Name(name) for name in BUILTINS]), st.just(Reduce("count", None))),
    lambda inner: st.one_of(applications(inner), reductions(inner)),
    max_leaves=12,
)


def read(formula: str) -> Expr:
    return read_spec(f"name: x\nweights: |\n  {formula}\n", "x.yaml").weights


@given(FORMULAS)
def test_printed_formulas_read_back(expr: Expr) -> None:
    assert flattened(read(text(expr))) == flattened(expr)


@pytest.mark.parametrize(
    "formula",
    [
        "exp(s) / sum(exp(s))",
        "-s ** 2",
        "(-s) ** 2",
        "s ** -2 ** n",
        "(s ** 2) ** n",
        "s - (n - 1)",
        "s / (n / 2)",
        "s / (n * 2)",
        "s * (n / 2)",
        "s - n - 1",
        "-(s * n)",
        "-s * n",
        "relu(n * s - where(i < 3, 0, 1)) ** 15",
        "where(not (i < 3 or j > 2) and i != j, 1, 0.25)",
        "where((i < 3 or j > 2) and i == j, 1, 1e-08)",
        "count() * 1e38",
    ],
)
def test_no_needless_parentheses(formula: str) -> None:
    assert text(read(formula)) == formula.replace("1e-08", "1e-8")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Fraction(3), "3"),
        (Fraction(-3), "-3"),
        (Fraction(1, 4), "0.25"),
        (Fraction(1, 3), "1/3"),
        (Fraction(-1, 3), "-1/3"),
        (Fraction(1, 10**9), "1e-9"),
        (Fraction(0), "0"),
        (Fraction(1000), "1000"),
    ],
)
def test_numbers(value: Fraction, written: str) -> None:
    assert text(Number(value)) == written


@pytest.mark.parametrize(("value", "written"), [(Fraction(-3), "(-3) ** s"), (Fraction(1, 3), "(1/3) ** s")])
def test_numbers_as_a_base(value: Fraction, written: str) -> None:
    assert text(Apply("pow", (Number(value), Name("s")))) == written
