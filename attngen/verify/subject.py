"""What is verified: an op together with the normalizer that it claims to compute, and how it is called on a case.

It turns operands into one call of the op, checks the form of what comes back, and varies the tiles of a generated
module. Whether the numbers are right is not decided here.
"""

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor

from attngen import ir
from attngen.build import Precision, precision_of
from attngen.verify.case import Case
from attngen.verify.draw import Drawn, draw
from attngen.verify.reference import Call, Operands
from attngen.verify.tolerance import Expectation, Results, Violation, differentiable, expect, results

Op = Callable[..., Tensor]
TILES = ((16, 16), (32, 16), (16, 64), (64, 32), (128, 128))  # BLOCK_M, BLOCK_N
_TILED = ("forward", "backward_query", "backward_key", "backward_pair", "portable", "native")


@dataclass(frozen=True, slots=True)
class Subject:
    """An op, the module that it comes from if that is a generated one, and its device."""

    op: Op
    normalizer: ir.Normalizer
    module: ModuleType | None = None
    device: str = "cpu"

    def draw(self, case: Case) -> Drawn:
        return draw(case, self.normalizer, self.device)

    def expect(self, drawn: Drawn, call: Call) -> Expectation:
        """What the results should be. Raises Undecided where the formula gives nothing finite."""
        return expect(self.normalizer, drawn, call, self.precision(drawn))

    def precision(self, drawn: Drawn) -> Precision:
        """Of the call: CPUs are exact, and so is float32, whatever the module was built for."""
        if self.module is None or precision_of(self.module) == "exact":
            return "exact"
        on_kernels = self.device == "cuda" or self.module._interpreted()
        return "fast" if on_kernels and self.module._takes_fast_forms(drawn.operands.query) else "exact"

    def results(self, drawn: Drawn, call: Call) -> Results:
        """The op's output and gradients. Raises Violation if they don't have the form that they should have."""
        try:
            found = results(self.run, drawn, call, differentiable(self.normalizer))
        except Violation:
            raise
        except Exception as error:  # the forward's errors became violations in `run`
            raise Violation(f"the op's backward raised {type(error).__name__}: {error}") from error
        leaves = {"query": drawn.operands.query, "key": drawn.operands.key, "value": drawn.operands.value}
        for name, leaf in leaves.items():
            _check_form(f"grad {name}", found[f"grad {name}"], tuple(leaf.shape), leaf)
        return found

    def run(self, operands: Operands, call: Call) -> Tensor:
        """The op's output, (B, Hq, Nq, Dv) in the query's dtype."""
        query, key, value = operands.query, operands.key, operands.value
        arguments = {
            "is_causal": call.is_causal, "scale": call.scale, "window": call.window, "alignment": call.alignment,
        }  # fmt: skip
        given = {name: value for name, value in arguments.items() if value != getattr(Call(), name)}
        try:
            out = self.op(query, key, value, **operands.inputs, **given)
        except Exception as error:
            raise Violation(f"the op raised {type(error).__name__}: {error}") from error
        _check_form("out", out, (*query.shape[:3], value.shape[3]), query)
        return out

    @contextlib.contextmanager
    def tiled(self, block_m: int, block_n: int) -> Iterator[None]:
        """Within the block, every kernel of the generated module uses this tile."""
        if self.module is None:
            raise ValueError("an op that is not a generated module's has no tiles to vary")
        overrides: dict[str, Any] = self.module.OVERRIDES
        before = dict(overrides)
        tile = self.module.Tile(block_m=block_m, block_n=block_n, num_warps=4, num_stages=1)
        try:
            overrides.update(dict.fromkeys(_TILED, tile))
            yield
        finally:
            overrides.clear()
            overrides.update(before)


def subject_of(op: Op | ModuleType, normalizer: ir.Normalizer, device: str = "cpu") -> Subject:
    """The subject for an op or a generated module; an op knows its module by itself."""
    if isinstance(op, ModuleType):
        return Subject(getattr(op, f"{normalizer.name}_attention"), normalizer, op, device)
    module = sys.modules.get(getattr(inspect.unwrap(op), "__module__", ""))
    return Subject(op, normalizer, module if hasattr(module, "OVERRIDES") else None, device)


def _check_form(name: str, tensor: object, shape: tuple[int, ...], like: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise Violation(f"{name} is a {type(tensor).__name__}, should be a tensor")
    if tuple(tensor.shape) != shape:
        raise Violation(f"{name} has the shape {tuple(tensor.shape)}, should be {shape}")
    if tensor.dtype != like.dtype or tensor.device != like.device:
        raise Violation(f"{name} is {tensor.dtype} on {tensor.device}, should be {like.dtype} on {like.device}")
