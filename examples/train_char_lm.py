"""Train a small character-level GPT twice from one seed: with the generated op, and with the formula written out.

The text is the source of Python's standard library. Both runs see the same batches; what differs is the attention
alone. The two loss curves are printed side by side, and the exit code says whether they agree. The written-out formulas
stand here in plain torch, apart from everything that made the op; a spec that isn't among them is held against the
reference of `attngen.verify`.

    python examples/train_char_lm.py --spec softplus_l1 --steps 60 --png curves.png
"""

import argparse
import importlib.util
import math
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attngen

# Nats. After 120 steps two float32 spellings of one formula were 5e-7 apart, a key gradient that is 1 % wrong 2e-5.
TOLERANCE = 1e-5

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]  # causal; (batch, head, row, channel) each


@dataclass(frozen=True)
class Settings:
    spec: str
    steps: int
    layers: int
    width: int
    heads: int
    context: int
    batch: int
    seed: int


def masked_softmax(s: Tensor, seen: Tensor) -> Tensor:
    return torch.softmax(s.masked_fill(~seen, -math.inf), -1)


def masked_sigmoid(s: Tensor, seen: Tensor) -> Tensor:
    return torch.sigmoid(s - math.log(s.shape[-1])) * seen


def masked_softplus_l1(s: Tensor, seen: Tensor) -> Tensor:
    weights = F.softplus(s) * seen
    return weights / weights.sum(-1, keepdim=True)


FORMULAS = {"softmax": masked_softmax, "sigmoid": masked_sigmoid, "softplus_l1": masked_softplus_l1}


def reference_of(spec: str) -> Attention:
    """The meaning of any spec: slower, and attngen's own, but it shares no code with the compiler."""
    from attngen import catalog
    from attngen.spec.files import read_spec_file
    from attngen.verify.reference import Call, Operands, attention

    normalizer = read_spec_file(catalog.find(spec))
    call = Call(is_causal=True)
    return lambda query, key, value: attention(normalizer, Operands(query, key, value), call, query.dtype)


def written_out(spec: str) -> Attention:
    """The formula with all weights in memory."""
    if spec not in FORMULAS:
        return reference_of(spec)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        s = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        seen = torch.ones(s.shape[-2:], dtype=torch.bool, device=s.device).tril()
        return FORMULAS[spec](s, seen) @ value

    return attend


def generated(spec: str) -> Attention:
    op = attngen.load(spec)
    return lambda query, key, value: op(query, key, value, is_causal=True)


class Block(nn.Module):
    def __init__(self, settings: Settings, attention: Attention) -> None:
        super().__init__()
        self.heads, self.attention = settings.heads, attention
        self.before_attention, self.before_mlp = nn.LayerNorm(settings.width), nn.LayerNorm(settings.width)
        self.qkv = nn.Linear(settings.width, 3 * settings.width, bias=False)
        self.out = nn.Linear(settings.width, settings.width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(settings.width, 4 * settings.width), nn.GELU(), nn.Linear(4 * settings.width, settings.width)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, rows, width = x.shape
        qkv = self.qkv(self.before_attention(x)).view(batch, rows, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        o = self.attention(query, key, value).transpose(1, 2).reshape(batch, rows, width)
        x = x + self.out(o)
        return x + torch.as_tensor(self.mlp(self.before_mlp(x)))


class CharGPT(nn.Module):
    def __init__(self, settings: Settings, vocabulary: int, attention: Attention) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, settings.width)
        self.positions = nn.Embedding(settings.context, settings.width)
        self.blocks = nn.Sequential(*(Block(settings, attention) for _ in range(settings.layers)))
        self.head = nn.Sequential(nn.LayerNorm(settings.width), nn.Linear(settings.width, vocabulary))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        return torch.as_tensor(self.head(self.blocks(x)))


def library_text(characters: int = 2_000_000) -> str:
    """The standard library's modules, one after the other, ASCII only."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = "".join(file.read_text("utf-8", errors="ignore") for file in files)
    return text.encode("ascii", errors="ignore").decode("ascii")[:characters]


def tokenized(text: str) -> tuple[Tensor, int]:
    """The characters as numbers, and how many different ones there are."""
    alphabet = {character: index for index, character in enumerate(sorted(set(text)))}
    return torch.tensor([alphabet[character] for character in text]), len(alphabet)


def train(settings: Settings, attention: Attention, tokens: Tensor, vocabulary: int) -> list[float]:
    """The loss at each step. The same settings give the same weights at the start and the same batches."""
    torch.manual_seed(settings.seed)
    model = CharGPT(settings, vocabulary, attention)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    window = torch.arange(settings.context + 1)
    losses = []
    for _ in range(settings.steps):
        starts = torch.randint(len(tokens) - settings.context, (settings.batch, 1))
        batch = tokens[starts + window]
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses


def report(op: list[float], formula: list[float]) -> float:
    """Print both curves; the largest difference between them."""
    every = max(1, len(op) // 12)
    print(f"{'step':>6} {'generated op':>14} {'written out':>14} {'difference':>12}")
    for step in sorted({*range(0, len(op), every), len(op) - 1}):
        print(f"{step + 1:>6} {op[step]:>14.6f} {formula[step]:>14.6f} {abs(op[step] - formula[step]):>12.1e}")
    return max(abs(a - b) for a, b in zip(op, formula, strict=True))


def save_png(path: Path, spec: str, op: list[float], formula: list[float]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    axes.plot(formula, label="formula written out", linewidth=3, alpha=0.4)
    axes.plot(op, label="generated op", linewidth=1)
    axes.set(xlabel="step", ylabel="loss (nats per character)", title=f"character-level GPT, {spec} attention")
    axes.legend()
    figure.savefig(path, dpi=150)


def parsed_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", default="sigmoid", help="a shipped spec or a path; its inputs need defaults")
    sizes = {"steps": 200, "layers": 2, "width": 128, "heads": 4, "context": 128, "batch": 16, "seed": 0}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="of the loss; default: %(default)s")
    parser.add_argument("--png", type=Path, help="also draw the curves (needs matplotlib)")
    arguments = parser.parse_args()
    if arguments.png and importlib.util.find_spec("matplotlib") is None:
        parser.error("--png needs matplotlib")
    return arguments


def main() -> int:
    arguments = parsed_arguments()
    settings = Settings(**{name: getattr(arguments, name) for name in Settings.__dataclass_fields__})
    tokens, vocabulary = tokenized(library_text())
    op = train(settings, generated(settings.spec), tokens, vocabulary)
    formula = train(settings, written_out(settings.spec), tokens, vocabulary)
    difference = report(op, formula)
    agree = difference <= arguments.tolerance
    verdict = "agree" if agree else "DISAGREE"
    print(f"largest difference {difference:.1e}, allowed {arguments.tolerance:.0e}: the curves {verdict}")
    if arguments.png:
        save_png(arguments.png, settings.spec, op, formula)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
