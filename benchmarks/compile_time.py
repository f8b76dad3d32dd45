"""What `torch.compile` costs with backend="attngen", against plain Inductor: python benchmarks/compile_time.py

Seconds are those of CPUs, the C++ compilers that Inductor starts included, so that a busy machine changes little. Two
models of 12 layers, forward and backward: one without attention, where the search finds nothing, and one with. The two
backends take turns; every compilation starts without Inductor's caches, and the first one of each is left out. With
attention the op is built on disk already, as it is from the second compilation on that a machine sees. A file of
results names the machine, its load and the versions, beside the seconds of every round.
"""

import json
import os
import shlex
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click
import torch
import torch._inductor.config
from torch import Tensor, nn

from attngen.bench.machine import environment

LAYERS, WIDTH, HEADS, LENGTH = 12, 64, 4, 64
BACKENDS = ("inductor", "attngen")


class Mixer(nn.Module):
    """Gates and two mixings of the positions: products with functions in between, and no attention after all."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.gate, self.down = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.mix, self.back = (nn.Parameter(torch.randn(LENGTH, LENGTH) / LENGTH) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        y = self.mix @ (torch.nn.functional.silu(self.gate(y)) * self.up(y))
        return x + self.down(self.back @ torch.relu(y).square())


class Attention(nn.Module):
    """Causal attention as written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = (y.view(b, n, HEADS, -1).transpose(1, 2) for y in self.qkv(self.norm(x)).chunk(3, -1))
        hidden = torch.ones(n, n, dtype=torch.bool).triu(1)
        weights = (q @ k.mT / (c // HEADS) ** 0.5).masked_fill(hidden, float("-inf")).softmax(-1)
        return x + self.out((weights @ v).transpose(1, 2).reshape(b, n, c))


def seconds(layer: Callable[[], nn.Module], backend: str) -> float:
    """One compilation, forward and backward, with the first run."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = torch.compile(nn.Sequential(*(layer() for _ in range(LAYERS))), backend=backend)
    x = torch.randn(2, LENGTH, WIDTH)
    start = sum(os.times()[:4])
    model(x).sum().backward()
    return sum(os.times()[:4]) - start


def measure(layer: Callable[[], nn.Module], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round by backend, without the first compilation of each."""
    for backend in BACKENDS:
        seconds(layer, backend)
    taken: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
    for _ in range(rounds):
        for backend in BACKENDS:
            taken[backend].append(round(seconds(layer, backend), 2))
        print({backend: times[-1] for backend, times in taken.items()}, flush=True)
    return taken


def summary(taken: dict[str, list[float]]) -> dict[str, object]:
    medians = {backend: statistics.median(times) for backend, times in taken.items()}
    return {"seconds": taken, "median": medians, "ratio": round(medians["attngen"] / medians["inductor"], 3)}


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--model", "models", type=click.Choice(("mixer", "attention")), multiple=True, help="Both by default.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A JSON file for the results.")
def main(rounds: int, models: tuple[str, ...], output: Path | None) -> None:
    torch._inductor.config.force_disable_caches = True
    torch._inductor.config.compile_threads = 1
    where = asdict(environment("cpu"))
    found: dict[str, object] = {}
    for layer in (Mixer, Attention):
        if not models or layer.__name__.lower() in models:
            found[layer.__name__.lower()] = result = summary(measure(layer, rounds))
            print(f"{LAYERS} x {layer.__name__}: {result}", flush=True)
            if output is not None:
                run = {"command": shlex.join(["python", *sys.argv]), "layers": LAYERS, "environment": where}
                output.write_text(json.dumps(run | {"models": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
