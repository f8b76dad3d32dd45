"""The fast form: kernels whose logistic functions and tanh err as much as PTX lets tanh.approx, run on the CPU.

What it makes of their machine code is compiled and read.
"""

from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch

from attngen.audit.compile import Case as AuditCase
from attngen.audit.compile import compile_launches
from attngen.audit.launch import launch_forward
from attngen.audit.module import row_of
from attngen.audit.targets import TARGETS
from attngen.build import Build, precision_of
from attngen.catalog import read
from attngen.pipeline import Compilation, compile_spec
from attngen.runtime.interpreter import interpreting
from attngen.runtime.interpreter_asm import INLINE_ASM
from attngen.runtime.interpreter_gluon import emulating_hopper
from attngen.runtime.loader import load_module
from attngen.verify import approximate
from attngen.verify.case import Case
from attngen.verify.reference import Manner
from attngen.verify.run import verify
from attngen.verify.subject import Subject, subject_of
from attngen.verify.tolerance import Violation, check, expect, reference_results

FEW = Case(kv_heads=1, n_q=33, n_k=40, d=16, d_v=16, dtype="float16", is_causal=True)
MANY = replace(FEW, n_q=2, n_k=2048, is_causal=False)
FAST = Build(precision="fast")
HOPPERS = replace(FEW, n_q=70, n_k=140, d=64, d_v=64, dtype="bfloat16")


@cache
def compilation(name: str, build: Build) -> Compilation:
    spec = read(name)
    return compile_spec(spec.text, spec.path, build=build)


def subject(name: str, build: Build) -> Subject:
    built = compilation(name, build)
    return subject_of(load_module(built), built.normalizer)


@pytest.mark.parametrize(
    ("name", "target", "case"),
    [
        ("sigmoid", "any", FEW),
        ("sigmoid", "any", replace(FEW, dtype="float32")),
        ("sigmoid", "hopper", HOPPERS),
        ("softcap", "any", FEW),
        ("softcap", "hopper", HOPPERS),
        ("softplus_l1", "any", FEW),  # a logistic function in the backward alone
    ],
)
def test_results(name: str, target: str, case: Case) -> None:
    tested = subject(name, Build(target, "fast"))  # type: ignore[arg-type]
    module = tested.module
    assert module is not None
    drawn = tested.draw(case)
    with ExitStack() as stack:
        stack.enter_context(interpreting(module))
        if target == "hopper":
            stack.enter_context(emulating_hopper(module))
        assert tested.precision(drawn) == ("exact" if case.dtype == "float32" else "fast")
        check(tested.results(drawn, case.call), tested.expect(drawn, case.call))
    assert tested.precision(drawn) == "exact"  # CPUs are


def test_small_weights_show_the_error_and_no_more_is_excused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of 1/2048, of which half may be lost."""
    tested = subject("sigmoid", FAST)
    drawn = tested.draw(MANY)
    assert tested.module is not None
    with interpreting(tested.module):
        expected = tested.expect(drawn, MANY.call)
        check(tested.results(drawn, MANY.call), expected)
        with pytest.raises(Violation):
            check(tested.results(drawn, MANY.call), expect(tested.normalizer, drawn, MANY.call))
    monkeypatch.setattr(approximate, "LARGEST_ERROR", 2.0**-8)
    worse = reference_results(tested.normalizer, drawn, MANY.call, torch.float64, Manner(approximate=2))
    with pytest.raises(Violation):
        check(worse, expected)


def test_the_emulation_errs_as_far_as_allowed() -> None:
    x = np.linspace(-9, 9, 20000, dtype=np.float32)
    error = np.abs(INLINE_ASM["tanh.approx"](x) / np.tanh(x.astype(np.float64)) - 1)
    assert 2**-11 * 0.99 < error.max() < 2**-11 * 1.01
    assert np.array_equal(INLINE_ASM["tanh.approx"](np.float32([0, np.inf, -np.inf])), np.float32([0, 1, -1]))


def test_a_formula_without_such_functions_is_built_the_same() -> None:
    assert compilation("softmax", FAST).source == compilation("softmax", Build()).source
    assert precision_of(subject("softmax", FAST).module) == "exact"


def test_a_search_for_a_root_stays_exact() -> None:
    text = 'name: searched\nlet:\n  t: {root: "sum(sigmoid(s - t)) - 0.5", between: [amax(s), amax(s) + 30]}\n'
    assert "tanh.approx" not in compile_spec(text + "weights: sigmoid(s - t)", "searched.yaml", build=FAST).source


def test_what_may_be_off_by_an_unknown_error_is_not_judged() -> None:
    built = compile_spec("name: spelled\nweights: 1 / (1 + exp(-s))", "spelled.yaml", build=FAST)
    with pytest.raises(ValueError, match="it names none of sigmoid, silu, softplus, tanh"):
        verify(load_module(built), built.normalizer)


def test_machine_code() -> None:
    """One special function per score, a third of the instructions less than the exact form has."""
    built = compilation("sigmoid", Build("hopper", "fast"))
    case = AuditCase(64)
    launch = partial(launch_forward, load_module(built), built.normalizer, case)
    (row,) = map(row_of, compile_launches(TARGETS["sm_90"], case, launch))
    need = row.resources
    assert need is not None
    assert (row.kernel, need.spills, need.special_per_score) == ("sigmoid_forward_hopper", 0, 1.0)
    assert need.instructions_per_tile <= 370
