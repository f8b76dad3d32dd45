"""Ahead-of-time packages: an op inside of one finds its implementation where the op's module was imported."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor
import torch._inductor.config
from torch import Tensor

import generated.sigmoid
import generated.softmax

LENGTHS = ((9, 12), (17, 40))
ELSEWHERE = """
import sys
import torch

for name in sys.argv[3:]:
    __import__(f"generated.{name}")
query, key, value, right = torch.load(sys.argv[2])
out = torch._inductor.aoti_load_package(sys.argv[1])(query, key, value)
torch.testing.assert_close(out, right)
print("right")
"""


class Layer(torch.nn.Module):
    """Two ops, one with an input and its default."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out: Tensor = generated.softmax.softmax_attention(query, key, value, is_causal=True)
        return out + generated.sigmoid.sigmoid_attention(query, key, value, bias=-1.0)


def tensors(n_q: int, n_k: int) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(n_q)
    query, key, value = (torch.randn(2, 4, n, 16, generator=random) for n in (n_q, n_k, n_k))
    return query, key, value


def exported() -> Any:
    n_q, n_k = torch.export.Dim("n_q", min=2, max=512), torch.export.Dim("n_k", min=2, max=512)
    with torch.no_grad():
        return torch.export.export(Layer(), tensors(9, 12), dynamic_shapes=({2: n_q}, {2: n_k}, {2: n_k}))


def test_an_exported_op_keeps_nothing_for_a_backward() -> None:
    """Exported without gradients, it is asked for its output alone."""
    calls = [node for node in exported().graph.nodes if "attngen" in str(node.target)]
    assert [(node.target.namespace, node.args[-1]) for node in calls] == [("attngen", 1), ("attngen", 1)]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("package") / "layer.pt2"
    quick = {"aot_inductor.compile_wrapper_opt_level": "O0", "cpp_cache_precompile_headers": False}
    torch._inductor.aoti_compile_and_package(exported(), package_path=str(path), inductor_configs=quick)
    return path


def test_package_with_dynamic_lengths(package: Path) -> None:
    run = torch._inductor.aoti_load_package(str(package))
    for lengths in LENGTHS:
        torch.testing.assert_close(run(*tensors(*lengths)), Layer()(*tensors(*lengths)))


def test_package_in_another_process(package: Path, tmp_path: Path) -> None:
    torch.save((*tensors(9, 12), Layer()(*tensors(9, 12))), tmp_path / "call.pt")
    assert elsewhere(package, tmp_path / "call.pt", "sigmoid", "softmax").stdout == "right\n"
    assert "Could not find schema for attngen::softmax_" in elsewhere(package, tmp_path / "call.pt", "sigmoid").stderr


def elsewhere(package: Path, call: Path, *modules: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ELSEWHERE, str(package), str(call), *modules]
    return subprocess.run(command, env=environment, capture_output=True, text=True)
