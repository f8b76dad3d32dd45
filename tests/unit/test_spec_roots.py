"""What a root and an output mean as trees."""

import pytest

from attngen.diagnostics import SpecError
from attngen.ir import Expr, Name, Normalizer, Reduce, Root, apply, number, walk
from attngen.spec import limits
from attngen.spec.lower import read_spec

S, TAU, O = Name("s"), Name("tau"), Name("o")  # noqa: E741
ENTMAX = """\
name: x
inputs: {power: {kind: static, default: 2}, total: {shape: [head]}}
let:
  half: s / 2
  tau: {root: "sum(relu(half - tau) ** power) - total", between: [amax(half) - 1, amax(half)]}
  w: relu(half - tau) ** power
weights: w / sum(w)
"""


def entmax_root() -> Root:
    half = apply("div", S, number(2))
    body = apply("pow", apply("relu", apply("sub", half, TAU)), number(2))
    top = Reduce("amax", half)
    return Root("tau", apply("sub", Reduce("sum", body), Name("total")), apply("sub", top, number(1)), top)


def output(formula: str) -> Expr:
    return read_spec(f"name: x\ninputs: {{g: {{shape: [query]}}}}\nweights: s\noutput: {formula}\n", "x").output


def roots(normalizer: Normalizer) -> set[Root]:
    return {node for node in walk(normalizer.weights) if isinstance(node, Root)}


def test_a_root_is_written_out_where_it_is_used() -> None:
    normalizer = read_spec(ENTMAX, "x")
    root = entmax_root()
    weight = apply("pow", apply("relu", apply("sub", apply("div", S, number(2)), root)), number(2))
    assert normalizer.weights == apply("div", weight, Reduce("sum", weight))
    assert roots(normalizer) == {root}


def test_lets_keep_the_root_as_written() -> None:
    lets = dict(read_spec(ENTMAX, "x").lets)
    top = Reduce("amax", Name("half"))
    assert isinstance(lets["tau"], Root)
    assert (lets["tau"].low, lets["tau"].high) == (apply("sub", top, number(1)), top)
    assert lets["w"] == apply("pow", apply("relu", apply("sub", Name("half"), TAU)), number(2))


def test_a_root_points_to_its_let() -> None:
    (root,) = roots(read_spec(ENTMAX, "x"))
    assert root.span is not None
    assert (root.span.line, root.span.column) == (5, 3)


def test_a_root_may_use_an_earlier_one() -> None:
    lets = "\n".join(
        (
            '  low: {root: "sum(relu(s - low)) - 1", between: [amax(s) - 1, amax(s)]}',
            '  tau: {root: "mean(relu(s - low - tau)) + 0 * low - tau", between: [low - 1, "max(low, 1)"]}',
        )
    )
    inner = roots(read_spec(f"name: x\nlet:\n{lets}\nweights: relu(s - low)\n", "x"))
    (outer,) = roots(read_spec(f"name: x\nlet:\n{lets}\nweights: relu(s - tau)\n", "x")) - inner
    assert len(inner) == 1
    assert inner < set(walk(outer.residual))
    assert inner < set(walk(outer.low)) & set(walk(outer.high)) | inner


def test_statistics_that_do_not_use_the_unknown_may_be_of_any_kind_and_depth() -> None:
    residual = "sum(relu(s - amax(s - mean(s)) - tau)) - where(n > 1, amin(s), detach(count()))"
    text = f'name: x\nlet:\n  tau: {{root: "{residual}", between: [-1, 1]}}\nweights: s - tau\n'
    assert len(roots(read_spec(text, "x"))) == 1


@pytest.mark.parametrize(
    ("formula", "tree"),
    [
        ("o", O),
        ("o / sqrt(csum(o ** 2))", apply("div", O, apply("sqrt", Reduce("csum", apply("pow", O, number(2)))))),
        ("o - csum(o / csum(1))", apply("sub", O, Reduce("csum", apply("div", O, Reduce("csum", number(1)))))),
        ("g * n ** d * o + where(i < n_q / n_k, pi, scale)", None),
    ],
)
def test_outputs(formula: str, tree: Expr | None) -> None:
    found = output(formula)
    assert found == tree or (tree is None and Name("g") in set(walk(found)))


def test_without_an_output_it_is_the_weighted_sum() -> None:
    assert read_spec("name: x\nweights: s\n", "x") == read_spec("name: x\nweights: s\noutput: o\n", "x")


def test_claims_stand_beside_an_output_that_changes_nothing() -> None:
    text = "name: x\nweights: exp(s) / sum(exp(s))\noutput: {}\nclaims: {{nonnegative: true}}\n"
    assert read_spec(text.format("o"), "x").claims.nonnegative
    with pytest.raises(SpecError, match="the claim 'nonnegative' is one of the weights"):
        read_spec(text.format("2 * o"), "x")


def test_a_root_counts_where_it_is_written_out() -> None:
    lets = ['  t0: {root: "sum(relu(s - t0)) - 1", between: [0, 1]}']
    lets += [f'  t{k}: {{root: "sum(relu(s - t{k} - t{k - 1})) - t{k - 1}", between: [0, 1]}}' for k in range(1, 20)]
    with pytest.raises(SpecError, match=f"at most {limits.INLINED_NODES} parts"):
        read_spec("name: x\nlet:\n" + "\n".join(lets) + "\nweights: relu(s - t19)\n", "x")
