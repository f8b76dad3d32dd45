"""Logistic functions whose argument isn't a number for pairs that nobody sees: they may not share a reciprocal with
others. And what those that do share one are, in an emulation of the threads of products."""

import sys
from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl

import generated.sigmoid
from attngen.build import Build
from attngen.emit.arrange import lowered
from attngen.emit.finite import is_number
from attngen.emit.printers import TRITON
from attngen.pipeline import Compilation, compile_spec
from attngen.runtime.interpreter import interpreting
from attngen.spec.lower import read_spec
from attngen.verify.case import Case
from tests.kernels.test_hopper_emulated import CAUSAL, error_of
from tests.kernels.test_hopper_gradients import error_of_gradients

# The logarithm of a distance, which is negative for keys that come later; and what rows were summed up to, which is
# zero for rows that aren't there.
DISTANT = "sigmoid(s - log(1 + i - j))"
RELATIVE = "sigmoid(s / sqrt(sum(s ** 2)))"
SMALL = replace(CAUSAL, n_q=70, n_k=50, alignment="lower_right")


def compilation(weights: str) -> Compilation:
    return compile_spec(f"name: logistic\nweights: {weights}\n", "logistic.yaml", build=Build("hopper"))


@pytest.mark.parametrize(("weights", "case"), [(DISTANT, SMALL), (RELATIVE, replace(SMALL, n_q=3, is_causal=False))])
def test_pairs_that_nobody_sees_spoil_no_others(weights: str, case: Case) -> None:
    built = compilation(weights)
    assert "_logistic2_shared" not in built.source
    assert error_of(built, case) <= 1
    assert error_of_gradients(built, case)[0] <= 1


SHARING = ("s * slope - log(n)", "s * tanh(s) / sqrt(d) - log1p(abs(i - j))", "where(i > j, s, s ** 2 + 1)")
APART = ("s / slope", "exp(s)", "log(s) ** 2", "s - mean(s)", "sqrt(i)", "s - log(abs(slope))")


@pytest.mark.parametrize(("argument", "shares"), [*((x, True) for x in SHARING), *((x, False) for x in APART)])
def test_what_is_always_a_number_shares_a_reciprocal(argument: str, shares: bool) -> None:
    normalizer = read_spec(f"name: x\ninputs: {{slope: {{shape: [head]}}}}\nweights: {argument}", "x.yaml")
    assert is_number(lowered(normalizer.weights, TRITON.lower), frozenset({"slope"})) is shares


@triton.jit
def logistic(x_ptr, y_ptr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, FUNCTION: tl.constexpr):
    places = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    tl.store(y_ptr + places, FUNCTION(tl.load(x_ptr + places)))


def test_threads_share_neighbours_of_two_rows() -> None:
    x = torch.zeros(64, 64)
    x[18, 5] = float("nan")
    y = torch.empty_like(x)
    with interpreting(generated.sigmoid, sys.modules[__name__]):
        logistic[(1,)](x, y, 64, 64, lambda x: generated.sigmoid._logistic2_shared(x, 4, True))
    spoiled = [(18, 4), (18, 5), (26, 4), (26, 5)]
    assert list(map(tuple, y.isnan().nonzero().tolist())) == spoiled
    assert (y.nan_to_num(0.5) == 0.5).all()
