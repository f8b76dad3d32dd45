"""`attngen lift`: what it writes is a spec, and the spec's op computes what the function does."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import attngen
from attngen.cli import main

FUNCTION = """
import torch
from neighbour import floor

def attention(q, k, v, slope):
    places = torch.arange(q.shape[2])
    distance = places[:, None] - places[None, :]
    s = q @ k.mT * 0.3 - slope[:, None, None] * distance.abs()
    s = s.masked_fill(distance < 0, float("-inf"))
    return torch.relu(s.softmax(-1) - floor) @ v

def plain(x):
    return x + 1

def fails(x):
    return x @ x

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = torch.nn.Embedding(2, 16)
        layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, 2)

    def forward(self, tokens):
        return self.encoder(self.tokens(tokens))
"""
SHAPE = "2,4,12,8"


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("floor = 0.01\n")
    path = tmp_path / "model_to_lift.py"
    path.write_text(FUNCTION)
    return path


def lift(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["lift", *(str(argument) for argument in arguments)], catch_exceptions=False)


def test_round_trip(code: Path, tmp_path: Path) -> None:
    done = lift(f"{code}:attention", SHAPE, SHAPE, SHAPE, "4", "-o", tmp_path / "specs")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("1 fused, 0 left as they were\n")
    (path,) = (tmp_path / "specs").iterdir()
    assert f"{path} written" in done.stdout
    text = path.read_text()
    assert text.startswith(f"# From {code}:10, window (-1, 0), upper_left, scale 0.3, x0 = ")
    function = __import__("model_to_lift").attention
    q, k, v = (torch.randn(2, 4, 12, 8) for _ in range(3))
    slope = torch.rand(4)
    out = attngen.load(path)(q, k, v, x0=slope, is_causal=True, scale=0.3)
    torch.testing.assert_close(out, function(q, k, v, slope), rtol=1e-5, atol=1e-5)


def test_a_model_whose_layers_are_alike(code: Path, tmp_path: Path) -> None:
    done = lift(f"{code}:Model()", "2,6:int64", "-o", tmp_path / "specs")
    assert done.exit_code == 0, done.output
    (path,) = (tmp_path / "specs").iterdir()
    assert path.read_text().count("# From ") == 2
    assert "weights: exp(s) / sum(exp(s))\n" in path.read_text()


def test_nothing_found(code: Path, tmp_path: Path) -> None:
    done = lift(f"{code}:plain", "2,6", "-o", tmp_path / "specs")
    assert done.exit_code == 1
    assert done.stdout == "0 fused, 0 left as they were\n"
    assert not (tmp_path / "specs").exists()


@pytest.mark.parametrize(
    ("name", "shape", "why"),
    [
        ("Model", "2,6", "is no function and no model; 'Model()' would call it first"),
        ("other", "2,6", "there is no 'other'"),
        ("plain", "2,six", "'2,six' should be sizes such as 2,4,128,64"),
        ("plain", "2,6:int99", "'2,6:int99' should be sizes"),
        ("fails", "2,6", "fails with these tensors"),
    ],
)
def test_wrong_use(code: Path, name: str, shape: str, why: str) -> None:
    done = lift(f"{code}:{name}", shape)
    assert done.exit_code == 2
    assert why in done.stderr


def test_no_file() -> None:
    assert lift("nowhere.py:f", "2,6").exit_code == 2
    assert lift("no_such_module:f", "2,6").exit_code == 2
    assert lift("nowhere", "2,6").exit_code == 2
