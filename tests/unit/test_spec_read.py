"""What specs mean: formulas as trees, fields, statics, and where spans point."""

from fractions import Fraction
from pathlib import Path

import pytest

from attngen.diagnostics import Span, SpecError
from attngen.ir import Apply, Claims, Expr, Input, Name, Number, Reduce, Static, apply, number, walk
from attngen.spec import limits
from attngen.spec.files import read_spec_file, spec_text
from attngen.spec.lower import lower, read_spec
from attngen.spec.parse import parse

S, N, I = Name("s"), Name("n"), Name("i")  # noqa: E741
SPECS = Path(__file__).parents[2] / "specs"


def weights(formula: str) -> Expr:
    return read_spec(f"name: x\nweights: {formula}\n", "x.yaml").weights


@pytest.mark.parametrize(
    ("formula", "tree"),
    [
        ("-s ** 2", apply("neg", apply("pow", S, number(2)))),
        ("s ** -2", apply("pow", S, apply("neg", number(2)))),
        ("s ** 2 ** n", apply("pow", S, apply("pow", number(2), N))),
        ("-s * n", apply("mul", apply("neg", S), N)),
        ("s - n - 1", apply("sub", apply("sub", S, N), number(1))),
        ("s / n / 2", apply("div", apply("div", S, N), number(2))),
        ("s / n * 2", apply("mul", apply("div", S, N), number(2))),
        ("s + n + 1 - 2", apply("sub", apply("add", S, N, number(1)), number(2))),
        ("s * n * 2", apply("mul", S, N, number(2))),
        ("s + (n + 1)", apply("add", S, apply("add", N, number(1)))),
        ("+s", S),
        ("0.1 + .5 + 2. + 1e-3 + 2.5E2", apply("add", *(number(x) for x in ("0.1", "0.5", "2", "0.001", "250")))),
        ("sum(mean(s))", Reduce("sum", Reduce("mean", S))),
        ("count() + amax(s) + amin(s)", apply("add", Reduce("count", None), Reduce("amax", S), Reduce("amin", S))),
        ("detach(s)", apply("detach", S)),
        ("sum(1) == n", None),
        (
            "where(not i < 3 and s >= 0 or n != 1, 1, 0)",
            apply(
                "where",
                apply(
                    "or",
                    apply("and", apply("not", apply("lt", I, number(3))), apply("ge", S, number(0))),
                    apply("ne", N, number(1)),
                ),
                number(1),
                number(0),
            ),
        ),
        ("pi", Name("pi")),
        ("1", number(1)),
    ],
)
def test_formulas(formula: str, tree: Expr | None) -> None:
    if tree is None:
        with pytest.raises(SpecError):
            weights(formula)
    else:
        assert weights(formula) == tree


@pytest.mark.parametrize("kind", ["lt", "le", "gt", "ge", "eq", "ne"])
def test_comparisons(kind: str) -> None:
    symbol = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}[kind]
    assert weights(f"where(s {symbol} n, 1, 0)") == apply("where", apply(kind, S, N), number(1), number(0))


STYLES = {
    "plain": "exp(s)\n  / sum(exp(t))",
    "single": "'exp(s)\n  / sum(exp(t))'",
    "double": '"exp(s)\n  / sum(exp(t))"',
    "literal": "|-\n  exp(s)\n  / sum(exp(t))",
    "folded": "> # a comment\n  exp(s)\n    / sum(exp(t))\n\n",
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_spans_are_exact_in_every_style(style: str, line_end: str) -> None:
    text = f"name: x\nweights: {STYLES[style]}\n".replace("\n", line_end)
    with pytest.raises(SpecError) as raised:
        read_spec(text, "x.yaml")
    (mistake,) = raised.value.diagnostics
    assert mistake.span is not None
    line = text.splitlines()[mistake.span.line - 1]
    assert line[mistake.span.column - 1] == "t"
    assert mistake.span.length == 1


@pytest.mark.parametrize("style", STYLES)
def test_styles_mean_the_same(style: str) -> None:
    text = f"name: x\ninputs: {{t: {{shape: []}}}}\nweights: {STYLES[style]}\n"
    assert read_spec(text, "x.yaml").weights == apply("div", apply("exp", S), Reduce("sum", apply("exp", Name("t"))))


def test_every_node_of_a_formula_knows_its_place() -> None:
    tree = weights("exp(s) / sum(exp(s) * 2)")
    assert all(node.span is not None for node in walk(tree))
    assert tree.span == Span(2, 10, 24)
    assert isinstance(tree, Apply)
    assert tree.args[1].span == Span(2, 19, 15)


def test_all_fields() -> None:
    text = """
name: all_of_it
title: >
  Everything at
  once
reference: 'arXiv:1'
inputs:
  bias: {shape: [batch, head, query, key], default: -log(n_k) * power, grad: false}
  slope: {shape: [kv_head], kind: tensor}
  power: {kind: static, default: -1/2}
let:
  a: softplus(s) + slope
  b: a / sum(a)
score: scale * qk + bias ** power
weights: b * b
claims: {rows_sum_to: 0.5, shift_invariant: false, nonnegative: true, sparse: true}
"""
    spec = read_spec(text, "x.yaml")
    half = Number(Fraction(-1, 2))
    a = apply("add", apply("softplus", S), Name("slope"))
    b = apply("div", a, Reduce("sum", a))
    assert (spec.name, spec.title, spec.reference) == ("all_of_it", "Everything at once", "arXiv:1")
    default = apply("mul", apply("neg", apply("log", Name("n_k"))), half)
    assert spec.inputs == (
        Input("bias", ("batch", "head", "query", "key"), default, False),
        Input("slope", ("kv_head",)),
    )
    assert spec.statics == (Static("power", Fraction(-1, 2)),)
    assert spec.lets == (("a", a), ("b", apply("div", Name("a"), Reduce("sum", Name("a")))))
    assert spec.score == apply("add", apply("mul", Name("scale"), Name("qk")), apply("pow", Name("bias"), half))
    assert spec.weights == apply("mul", b, b)
    assert spec.claims == Claims(Fraction(1, 2), False, True, True)


def test_what_is_left_out() -> None:
    spec = read_spec("weights: 1\nname: x", "x.yaml")
    assert spec.score == apply("mul", Name("scale"), Name("qk"))
    assert (spec.title, spec.reference, spec.inputs, spec.statics, spec.lets) == ("", "", (), (), ())
    assert spec.claims == Claims()


STATIC = "name: x\ninputs:\n  power: {kind: static, default: 2}\n  b: {shape: []}\nweights: relu(s + b) ** power\n"


@pytest.mark.parametrize(
    ("given", "value"),
    [("3", Fraction(3)), ("-0.5", Fraction(-1, 2)), ("1/3", Fraction(1, 3)), ("1e-3", Fraction(1, 1000))],
)
def test_given_statics(given: str, value: Fraction) -> None:
    spec = read_spec(STATIC, "x.yaml", {"power": given})
    assert spec.statics == (Static("power", value),)
    assert isinstance(spec.weights, Apply)
    assert spec.weights.args[1] == Number(value)


def test_a_static_without_default_takes_the_given_number() -> None:
    text = STATIC.replace(", default: 2", "")
    assert read_spec(text, "x.yaml", {"power": "7"}).statics == (Static("power", Fraction(7)),)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"powr": "3"},
            "x.yaml: error: there is no static input 'powr'\n  expected: one of power\n  did you mean 'power'?",
        ),
        ({"b": "3"}, "x.yaml: error: input 'b' is a tensor; it takes no value here"),
        ({"power": "n"}, "x.yaml: error: the value 'n' of static input 'power' is not a number"),
        ({"power": ""}, "is not a number"),
        ({"power": "1e999999999"}, "is not a number"),
        ({"power": "1e30/1e-30"}, "is not a number"),
        ({"power": "1e60"}, "is not a number"),
        ({"power": "__import__('os')"}, "is not a number"),
        ({"power": "nan"}, "is not a number"),
        ({"power": "\x00"}, "is not a number"),
    ],
)
def test_wrong_statics(given: dict[str, str], message: str) -> None:
    with pytest.raises(SpecError) as raised:
        read_spec(STATIC, "x.yaml", given)
    assert message in str(raised.value)
    assert len(raised.value.diagnostics) == 1


def test_large_but_allowed() -> None:
    terms = " + ".join(["s"] * (limits.FORMULA_NODES - 1))
    nested = "exp(" * (limits.FORMULA_NESTING - 1) + "s" + ")" * (limits.FORMULA_NESTING - 1)
    assert isinstance(weights(terms), Apply)
    assert isinstance(weights(nested), Apply)


def test_mistakes_come_in_the_order_of_the_file() -> None:
    with pytest.raises(SpecError) as raised:
        read_spec("weights: a + b\nscore: c\ninputs: {x: {shape: [d]}}\n", "x.yaml")
    spans = [mistake.span for mistake in raised.value.diagnostics]
    assert spans == [None, Span(1, 10, 1), Span(1, 14, 1), Span(2, 8, 1), Span(3, 22, 1)]


def test_parse_then_lower_is_read() -> None:
    text = (SPECS / "affine_scaled.yaml").read_text()
    assert lower(parse(text, "x.yaml"), {}) == read_spec(text, "x.yaml")


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_specs(path: Path) -> None:
    spec = read_spec_file(path)
    assert spec.name == path.stem
    assert spec.title


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"missing.yaml: error: the spec can't be read: No such file or directory"):
        read_spec_file(tmp_path / "missing.yaml")
    with pytest.raises(SpecError, match="the spec can't be read"):
        read_spec_file(tmp_path)
    with pytest.raises(SpecError, match="the spec can't be read"):
        read_spec_file("a\x00b")
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (limits.FILE_BYTES + 1))
    with pytest.raises(SpecError, match="at most 65536 bytes"):
        spec_text(large)
