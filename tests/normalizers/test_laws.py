"""Laws of every shipped spec: partial results merge as a monoid, any split of the keys gives the same, and gradients
are what finite differences say."""

import inspect
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from random import Random

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from attngen.analysis.result import ForwardPass
from attngen.catalog import read, shipped
from attngen.pipeline import compile_spec
from attngen.schedule import OpPlan
from attngen.selfcheck.case import Case, draw
from attngen.selfcheck.execute import Execution, Partial, identity, merge
from attngen.selfcheck.formula import Formula, OnCase
from tests.normalizers.formulas import FORMULAS
from tests.normalizers.test_implicit import FORMULAS as IMPLICIT
from tests.ops.subject import Load

NAMES = tuple(path.stem for path in shipped())
CHANNELS = 2


@cache
def plan_of(name: str) -> OpPlan:
    spec = read(name)
    return compile_spec(spec.text, spec.path).plan


# ------------------------------------------------------------------------------------------------------ merging


def passes(name: str) -> Iterator[tuple[ForwardPass, tuple[Partial, ...]]]:
    """Each pass, with three partial results of it: any numbers will do, and one of them has seen no key."""
    forward, random = plan_of(name).analysis.forward, Random(7)
    for one_pass in forward.passes:
        accumulators = forward.accumulators if one_pass is forward.passes[-1] else ()
        nothing = identity(one_pass, accumulators, CHANNELS)
        yield one_pass, (*(_partial(one_pass, nothing, random) for _ in range(3)), nothing)


def _partial(one_pass: ForwardPass, nothing: Partial, random: Random) -> Partial:
    pivots = {p.name: random.uniform(0.1 if p.kind == "power" else -40.0, 40.0) for p in one_pass.pivots}
    return Partial(pivots, {name: [random.uniform(-2, 2) for _ in start] for name, start in nothing.carried.items()})


def same(a: Partial, b: Partial) -> bool:
    pairs = zip([a.pivots, *a.carried.values()], [b.pivots, *b.carried.values()], strict=True)
    return a.pivots == b.pivots and all(
        math.isclose(x, y, rel_tol=1e-12, abs_tol=1e-300)
        for one, other in list(pairs)[1:]
        for x, y in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
def test_partial_results_are_a_monoid(name: str) -> None:
    forward = plan_of(name).analysis.forward
    for one_pass, (a, b, c, nothing) in passes(name):
        accumulators = forward.accumulators if one_pass is forward.passes[-1] else ()

        def joined(x: Partial, y: Partial, one_pass: ForwardPass = one_pass, also: tuple = accumulators) -> Partial:
            return merge(x, y, one_pass, also)

        assert same(joined(joined(a, b), c), joined(a, joined(b, c)))
        assert same(joined(a, b), joined(b, a))
        assert same(joined(nothing, a), a)
        assert same(joined(a, nothing), a)
        assert same(joined(nothing, nothing), nothing)


def case_of(name: str) -> Case:
    """The first case on which the formula is finite."""
    plan, random = plan_of(name), Random(3)
    formula = Formula(plan.normalizer)
    cases = (draw(plan.normalizer.inputs, random, attempt) for attempt in range(80))
    return next(case for case in cases if OnCase(formula, case).is_finite())


def splits(n_k: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """All keys at once, one by one, backwards, in halves with nothing between them, and interleaved."""
    keys = tuple(range(n_k))
    yield (keys,)
    yield tuple((key,) for key in keys)
    yield tuple((key,) for key in reversed(keys))
    yield (keys[: n_k // 2], (), keys[n_k // 2 :])
    yield (keys[1::2], keys[::2])


@pytest.mark.parametrize("name", NAMES)
def test_any_split_of_the_keys_gives_the_formula(name: str) -> None:
    plan, case = plan_of(name), case_of(name)
    execution, truth = Execution(plan), OnCase(Formula(plan.normalizer), case)
    for blocks in splits(len(case.value)):
        for row, weights in enumerate(truth.base):
            found = execution.forward(replace(case, blocks=blocks), row).output
            for got, wanted in zip(found, truth.outputs[row], strict=True):
                assert math.isclose(got, wanted, rel_tol=1e-9, abs_tol=1e-9 * max(map(abs, weights)))


# ---------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("name", [name for name in NAMES if plan_of(name).analysis.output is None])
def test_gradcheck(name: str, load: Load) -> None:
    formula, random = (FORMULAS | IMPLICIT)[name], torch.Generator().manual_seed(2)
    op = load(formula.spec, **formula.statics)
    module = inspect.getmodule(op)
    assert module is not None
    sizes = {"batch": 1, "head": 2, "kv_head": 1, "query": 3, "key": 4}

    def drawn(shape: list[int], low: float, high: float) -> Tensor:
        values = torch.rand(shape, generator=random, dtype=torch.float64)
        return (low + (high - low) * values).requires_grad_()

    shapes = ([1, 2, 3, 2], [1, 1, 4, 2], [1, 1, 4, 2])
    leaves = [drawn(list(shape), -1.5, 1.5) for shape in shapes]
    inputs = {
        given: drawn([sizes[axis] for axis in axes], *formula.between.get(given, (-1.0, 1.0)))
        for given, axes in formula.axes.items()
    }
    held = {given: inputs.pop(given).detach() for given in formula.fixed}

    def function(query: Tensor, key: Tensor, value: Tensor, *rest: Tensor) -> Tensor:
        given = dict(zip(inputs, rest, strict=True)) | held
        return op(query, key, value, **given, is_causal=True, alignment="lower_right")

    module.OVERRIDES["portable"] = module.Tile(2, 3, 0, 0)
    try:
        assert gradcheck(function, [*leaves, *inputs.values()])
    finally:
        module.OVERRIDES.clear()
