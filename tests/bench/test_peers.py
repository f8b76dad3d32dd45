"""Peers at small shapes: what they compute is the spec's formula, and what they can't they say."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from attngen import catalog, ir
from attngen.bench.contend import Ready, enter, expected, task_of
from attngen.bench.flex import emulation_of
from attngen.bench.grid import Cell, Direction
from attngen.bench.peer import Peer, Task, Unsupported, formula_of
from attngen.bench.peers import peers_for
from attngen.bench.subject import Benched
from attngen.bench.written_out import written_out
from attngen.spec.lower import read_spec
from attngen.verify.case import Case
from attngen.verify.reference import Operands, attention

SHIPPED = tuple(path.stem for path in catalog.shipped())
EMULATED = ("softmax", "softcap", "alibi", "sigmoid", "sigmoid_l1", "softplus_l1", "poly2", "softmax1", "sink",
            "affine_scaled")  # fmt: skip
SMALL = Case(batch=2, kv_heads=2, group=2, n_q=33, n_k=33, d=16, d_v=16)


def normalizer(name: str) -> ir.Normalizer:
    return read_spec(catalog.read(name).text, name)


def task(name: str, direction: Direction = "forward", **changes: Any) -> Task:
    fields = {name: getattr(SMALL, name) for name in ("batch", "kv_heads", "group", "n_q", "n_k", "d", "d_v")}
    case = Case(**(fields | changes))
    return task_of(Cell(name, case, direction), Benched(name, normalizer(name), lambda *a, **k: a[0]), "cpu")


def peer(name: str, device: str = "cpu") -> Peer:
    (found,) = (p for p in peers_for(device, quick=False) if p.name == name)
    return found


def entered(name: str, given: Task, device: str = "cpu") -> Any:
    return enter(peer(name, device), given, expected(given))


def has_root(name: str) -> bool:
    return any(isinstance(node, ir.Root) for node in ir.walk(normalizer(name).weights))


@pytest.mark.parametrize("name", list(filter(has_root, SHIPPED)))
def test_a_formula_with_a_root_is_not_written_out(name: str) -> None:
    assert "solves for a root" in entered("written out, eager", task(name, "both")).reason


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("name", [name for name in SHIPPED if not has_root(name)])
def test_the_formula_written_out(name: str, is_causal: bool) -> None:
    gain = 0.1 if name == "scaled_cosine" else 1.0  # it means unit vectors
    given = task(name, "both", is_causal=is_causal, gain=gain)
    ready = entered("written out, eager", given)
    assert isinstance(ready, Ready), ready
    assert ready.result.errors is not None
    assert set(ready.result.errors) == {"out", "grad query", "grad key", "grad value"}
    assert max(ready.result.errors.values()) < 2e-5


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_formula_compiled(direction: Direction) -> None:
    ready = entered("written out, compiled", task("softpick", direction, is_causal=True))
    assert isinstance(ready, Ready), ready
    assert max(ready.result.errors.values()) < 2e-5


@pytest.mark.parametrize("is_causal", [False, True])
def test_sdpa_is_softmax_alone(is_causal: bool) -> None:
    assert max(entered("SDPA", task("softmax", "both", is_causal=is_causal)).result.errors.values()) < 1e-5
    refused = entered("SDPA", task("sigmoid"))
    assert (refused.status, refused.reason) == ("unsupported", "softmax only")


def test_a_result_that_overflows_is_told() -> None:
    """exp of scores that are not subtracted a maximum from: the baseline takes the formula as it stands."""
    ready = entered("written out, eager", task("softmax", gain=1e4))
    assert ready.result.errors == {"out": None}


def test_a_wrong_contender_shows_its_error() -> None:
    given = task("softmax")
    wrong = Peer("wrong", lambda t: peer("SDPA").prepare(task("softmax", is_causal=True)))
    ready = enter(wrong, given, expected(given))
    assert isinstance(ready, Ready)
    assert ready.result.errors["out"] > 0.1


# ---------------------------------------------------------------- FlexAttention


def emulated(given: Task, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What Flex computes of an emulation: softmax of the changed score, its log-sum-exp, and what follows."""
    emulation, case = emulation_of(given), given.cell.case
    b, h, i, j = torch.meshgrid(*(torch.arange(n) for n in (*query.shape[:3], key.shape[2])), indexing="ij")
    s = query @ key.repeat_interleave(case.group, 1).mT * query.shape[-1] ** -0.5
    s = s if emulation.score_mod is None else emulation.score_mod(s, b, h, i, j)
    s = s.masked_fill(j > i, -torch.inf) if case.is_causal else s
    out, lse = torch.softmax(s, -1) @ value.repeat_interleave(case.group, 1), s.logsumexp(-1, keepdim=True)
    return out if emulation.finish is None else emulation.finish(out, lse, value)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("name", EMULATED)
def test_emulations_are_the_formula(name: str, is_causal: bool) -> None:
    given = task(name, is_causal=is_causal)
    old = given.drawn.operands
    tensors = (old.query.double(), old.key.double(), old.value.double())
    exact = attention(given.normalizer, Operands(*tensors, old.inputs), given.cell.case.call, torch.float64)
    torch.testing.assert_close(emulated(given, *tensors), exact, rtol=1e-5, atol=1e-6)  # inputs are float32


@pytest.mark.parametrize("name", sorted(set(SHIPPED) - set(EMULATED)))
def test_what_has_no_emulation_says_why(name: str) -> None:
    with pytest.raises(Unsupported, match=r"no emulation( is known|: weights may be (zero|negative))"):
        emulation_of(task(name))


def test_flex_on_the_cpu() -> None:
    assert "no backward" in entered("FlexAttention", task("softmax", "both")).reason
    assert "log-sum-exp" in entered("FlexAttention", task("sigmoid")).reason
    ready = entered("FlexAttention", task("softplus_l1", is_causal=True, n_q=128, n_k=128))
    assert isinstance(ready, Ready), ready
    assert ready.result.note == "log-domain emulation"
    assert max(ready.result.errors.values()) < 1e-4


# ---------------------------------------------------------------- packages of others


def in_layout(given: Task) -> Callable[..., Tensor]:
    """The right answer, for a package that wants (batch, length, heads, head dim)."""
    attend = written_out(given)
    return lambda q, k, v, **options: _swap(attend, q, k, v)


def _swap(attend: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    assert all(tensor.is_contiguous() for tensor in tensors)
    return attend(*(tensor.transpose(1, 2) for tensor in tensors)).transpose(1, 2)


@pytest.mark.parametrize(
    ("contender", "spec", "module", "function"),
    [
        ("triton-sigmoid", "sigmoid", "triton_sigmoid", "sigmoid_attention"),
        ("flash-attn 3", "softmax", "flash_attn_interface", "flash_attn_func"),
        ("flash-attn 2", "softmax", "flash_attn", "flash_attn_func"),
    ],
)
def test_packages_get_their_own_layout(
    contender: str, spec: str, module: str, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = task(spec, "both", group=1, is_causal=True, dtype="bfloat16")
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{function: in_layout(given)}))
    ready = entered(contender, given, "cuda")
    assert isinstance(ready, Ready), ready
    assert max(ready.result.errors.values()) < 0.05


def test_packages_that_are_missing_or_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton_sigmoid", None)
    missing = entered("triton-sigmoid", task("sigmoid", group=1), "cuda")
    assert missing.status == "not installed"
    assert "triton_sigmoid" in missing.reason
    assert entered("triton-sigmoid", task("sigmoid"), "cuda").reason == "no grouped heads"
    assert entered("adasplash", task("softmax"), "cuda").reason == "entmax only"
    assert entered("flash-attn 3", task("softmax"), "cuda").reason == "no float32"


def test_a_backend_that_is_not_there_is_a_failure_with_its_message() -> None:
    failed = entered("SDPA cuDNN", task("softmax"), "cuda")
    assert failed.status == "failed"
    assert "kernel" in failed.reason.lower()


def test_the_two_paths_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """An op that has both is timed on both, forward and backward, with the variable set for as long as it runs."""
    monkeypatch.delenv("ATTNGEN_CPU", raising=False)
    seen: list[str | None] = []
    right = written_out(task("softmax"))
    given = task("softmax", "backward")
    assert entered("attngen native", given).reason == "the op has one path for CPUs"

    def op(q: Tensor, k: Tensor, v: Tensor, **options: object) -> Tensor:
        seen.append(os.environ.get("ATTNGEN_CPU"))
        out = right(q, k, v)
        out.register_hook(lambda grad: seen.append(os.environ.get("ATTNGEN_CPU")))
        return out

    names = {"_on_native": lambda query: os.environ.get("ATTNGEN_CPU") == "native", "out": op}
    exec("def both(q, k, v, **options):\n    return out(q, k, v, **options)", names)
    given = replace(given, op=names["both"])
    for path in ("native", "portable"):
        seen.clear()
        ready = entered(f"attngen {path}", given)
        assert isinstance(ready, Ready), ready
        assert seen == [path, path]
    assert entered("attngen", given).result.note == "plain torch"
    assert entered("attngen", given).result.precision == "exact"
    assert "ATTNGEN_CPU" not in os.environ
    monkeypatch.setitem(names, "_on_native", lambda query: False)
    assert "can't be built" in entered("attngen native", given).reason


def test_the_fast_form_takes_part_where_there_is_one() -> None:
    found = entered("attngen, fast", task("sigmoid"), "cuda")
    assert (found.status, found.reason) == ("unsupported", "there is no fast form of this formula or type")


def test_formulas_are_compared_not_names() -> None:
    mine = read_spec("name: mine\nlet:\n  e: exp(s)\nweights: e / sum(e)\n", "mine")
    other = read_spec("name: softmax\nweights: exp(s) / sum(exp(2 * s))\n", "other")
    assert formula_of(mine) == "softmax"
    assert formula_of(other) is None
