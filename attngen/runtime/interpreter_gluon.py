"""Kernels for Hopper on the CPU: as much of Gluon as they use, on top of Triton's interpreter.

Within `emulating_hopper(module)`, inside `interpreting(module)`, a module takes its kernels for Hopper on CPU tensors.
What a program would see of asynchrony it sees here, in an order that a seed decides: a copy arrives any time after it
was started and makes its destination unreadable until then, and a product's operands must not change while it is in
flight. Layouts mean nothing, and registers, warps and speed are not modelled.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import TensorHandle

from attngen.runtime.hopper_schedule import Schedule
from attngen.runtime.interpreter_precision import decode
from attngen.runtime.replaced import replaced

_TORCH = {tl.bfloat16: torch.bfloat16, tl.float16: torch.float16, tl.float32: torch.float32}
_TRITON = {dtype: name for name, dtype in _TORCH.items()}
_LAYOUTS = ("BlockedLayout", "DotOperandLayout", "NVMMADistributedLayout", "SliceLayout", "SwizzledSharedLayout")


class RaceError(RuntimeError):
    """Something was read or overwritten too early."""


@dataclass
class Shared:
    """Shared memory: a view of a tensor. `written` tells of ordinary stores to the tile that it is, or is a part of."""

    data: Tensor
    written: Callable[[int], None]
    home: int

    @property
    def dtype(self) -> Any:
        return _TRITON[self.data.dtype]

    @property
    def shape(self) -> list[int]:
        return list(self.data.shape)

    def index(self, place: Any) -> "Shared":
        tile = self.data[int(place)]
        return replace(self, data=tile, home=tile.data_ptr())

    def reshape(self, shape: Any) -> "Shared":
        return replace(self, data=self.data.view([int(size) for size in shape]))

    def permute(self, order: Any) -> "Shared":
        return replace(self, data=self.data.permute(*order))

    def slice(self, first: Any, length: Any, dim: int = 0) -> "Shared":
        return replace(self, data=self.data.narrow(dim, int(first), int(length)))

    def load(self, layout: Any) -> Any:
        """As it is now, in float32, whatever may still be on its way."""
        return _tensor(self.data.float().clone(), tl.float32)

    def store(self, value: Any) -> None:
        self.data.copy_(torch.from_numpy(decode(value.handle)))
        self.written(self.home)


def _corner(tile: Shared, found: Tensor) -> Tensor:
    """The part of a copied tile that exists in the tensor."""
    rows, columns = found.shape
    return tile.data[0, 0, :rows, :columns]


def _reinterpret(tile: Shared, dtype: Any, shape: Any, layout: Any) -> Shared:
    """A tile as one of another shape and the same size."""
    return tile.reshape(shape)


def _tensor(value: Tensor, dtype: Any) -> Any:
    return tl.core.tensor(TensorHandle(value.numpy(), dtype), tl.block_type(dtype, list(value.shape)))


@dataclass
class Barrier:
    """An mbarrier. `count` arrivals, and all bytes that were announced, complete a phase."""

    count: int = 0
    arrivals: int = 0
    bytes: int = 0
    phase: int = 0

    def update(self, arrivals: int, size: int) -> None:
        self.arrivals, self.bytes = self.arrivals + arrivals, self.bytes + size
        if self.arrivals > self.count:
            raise RaceError("a barrier has more arrivals than a phase of it can take")
        if self.arrivals == self.count and self.bytes == 0:
            self.arrivals, self.phase = 0, self.phase + 1


@dataclass
class Barriers:
    """What `allocate_shared_memory` gives for barriers."""

    barriers: list[Barrier]

    def index(self, place: Any) -> Barrier:
        return self.barriers[int(place)]


@dataclass(frozen=True)
class Descriptor:
    """What the copy engine knows of a tensor; tiles have all columns, and zeros up to a power of two, or some.
    `block_type` is as kernels read it."""

    tensor: Tensor
    rows: int
    columns: int = 0
    layout: Any = None

    @property
    def dtype(self) -> Any:
        return _TRITON[self.tensor.dtype]

    @property
    def block_type(self) -> Any:
        shape = [1, 1, self.rows, self.columns or triton.next_power_of_2(self.tensor.shape[-1])]
        return SimpleNamespace(shape=shape, nbytes=shape[2] * shape[3] * self.tensor.element_size())

    def window(self, place: list[Any]) -> Tensor:
        """As much of a tile as exists."""
        batch, head, first, column = map(int, place)
        across = slice(column, column + self.block_type.shape[3])
        return self.tensor[batch, head, min(max(first, 0), self.tensor.shape[2]) : max(first + self.rows, 0), across]


@dataclass
class Pending:
    """A product in flight: its operands as they were, what they are read from, and what comes out."""

    operands: list[tuple[Tensor, Tensor]]
    result: Any
    is_done: bool = False


class Emulation:
    """What the kernels use of Gluon, for programs that run one after the other."""

    def __init__(self, seed: int) -> None:
        self.schedule = Schedule(seed)
        self.flights: dict[int, list[Pending]] = {}  # by partition, in the order in which they were started
        self.dirty: dict[int, int] = {}  # tiles that ordinary stores wrote and no fence showed, by partition
        self.leaving: Counter[int] = Counter()  # by partition, copies from shared memory that are under way

    # ------------------------------------------------------------------------------------------------ barriers

    def init(self, barrier: Barrier, count: int) -> None:
        barrier.count = count

    def expect(self, barrier: Barrier, size: int, pred: Any = True) -> None:
        if pred:
            barrier.bytes += int(size)
            barrier.update(1, 0)
            self.schedule.wait()

    def arrive(self, barrier: Barrier, count: int = 1) -> None:
        barrier.update(count, 0)
        self.schedule.wait()

    def wait(self, barrier: Barrier, parity: Any) -> None:
        self.schedule.wait(lambda: barrier.phase % 2 != int(parity))

    # -------------------------------------------------------------------------------------------------- copies

    def load(
        self, descriptor: Descriptor, place: list[Any], barrier: Barrier, destination: Shared, pred: Any = True
    ) -> None:
        if not pred:
            return
        found = descriptor.window(place)
        destination.data.fill_(float("nan"))  # until it arrives

        def arrive() -> None:
            destination.data.zero_()
            _corner(destination, found).copy_(found)
            barrier.update(0, -descriptor.block_type.nbytes)

        self.schedule.copies.append(arrive)

    def store(self, descriptor: Descriptor, place: list[Any], source: Shared) -> None:
        self._leave(descriptor, place, source, lambda rows, tile: rows.copy_(tile))

    def add(self, descriptor: Descriptor, place: list[Any], source: Shared) -> None:
        self._leave(descriptor, place, source, lambda rows, tile: rows.add_(tile))

    def _leave(
        self, descriptor: Descriptor, place: list[Any], source: Shared, write: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        if source.home in self.dirty:
            raise RaceError("the copy engine reads what it may not see yet: a fence is missing")
        found = descriptor.window(place)
        partition = self.schedule.current
        self.leaving[partition] += 1

        def leave() -> None:
            write(found, _corner(source, found))
            self.leaving[partition] -= 1

        self.schedule.copies.append(leave)

    def store_wait(self, pendings: int) -> None:
        assert pendings == 0
        partition = self.schedule.current
        self.schedule.wait(lambda: not self.leaving[partition])

    def write(self, tile: int) -> None:
        self.dirty[tile] = self.schedule.current

    def fence(self) -> None:
        """What this partition wrote can be seen from now on."""
        self.dirty = {tile: writer for tile, writer in self.dirty.items() if writer != self.schedule.current}

    # ------------------------------------------------------------------------------------------------ products

    def product(self, a: Any, b: Shared, acc: Any, use_acc: bool = True, is_async: bool = False) -> Pending:
        """acc + a b, in float32. `a` is a tensor of the interpreter or shared memory."""
        if any(x.home in self.dirty for x in (a, b) if isinstance(x, Shared)):
            raise RaceError("a product reads what it may not see yet: a fence is missing")
        left = a.data if isinstance(a, Shared) else torch.from_numpy(decode(a.handle))
        value = left.float() @ b.data.float()
        if use_acc:
            before = acc.result if isinstance(acc, Pending) else acc  # products follow one another
            value = value + torch.from_numpy(decode(before.handle))
        reads = [b.data, *([a.data] if isinstance(a, Shared) else [])]
        pending = Pending([(data, data.clone()) for data in reads], _tensor(value, tl.float32))
        self._flights().append(pending)
        self.schedule.wait()
        return pending

    def product_wait(self, allowed: int, deps: tuple[Pending, ...]) -> Any:
        """Wait until `allowed` products are in flight at most, the latest ones."""
        flights = self._flights()
        while len(flights) > allowed:
            flight = flights.pop(0)
            for data, before in flight.operands:
                if not torch.equal(data.nan_to_num(7.0), before.nan_to_num(7.0)):
                    raise RaceError("an operand changed while its product was in flight")
            flight.is_done = True
        if not all(pending.is_done for pending in deps):
            raise RaceError("a product's result is used while it may be in flight")
        return deps[0].result if len(deps) == 1 else tuple(pending.result for pending in deps)

    def _flights(self) -> list[Pending]:
        return self.flights.setdefault(self.schedule.current, [])

    # ------------------------------------------------------------------------------------------------ programs

    def allocate(self, dtype: Any, shape: Any, layout: Any) -> Shared | Barriers:
        sizes = [int(size) for size in shape]
        if dtype is tl.int64:
            return Barriers([Barrier() for _ in range(sizes[0])])
        data = torch.full(sizes, float("nan"), dtype=_TORCH[dtype])
        first, end = data.data_ptr(), data.data_ptr() + data.nbytes
        # The program before this one may have had its own tiles in the same place.
        self.dirty = {tile: writer for tile, writer in self.dirty.items() if not first <= tile < end}
        return Shared(data, self.write, first)

    def warp_specialize(self, partitions: list[Any], warps: list[int], registers: list[int]) -> None:
        def body(function: Callable[..., None], arguments: tuple[Any, ...]) -> Callable[[], None]:
            return lambda: function(*arguments)

        self.schedule.run([body(*partition) for partition in partitions])

    def language(self) -> Any:
        """What stands for `gl`: Triton's own language, and beside it what knows of layouts and shared memory."""
        return _Language(
            allocate_shared_memory=self.allocate,
            warp_specialize=self.warp_specialize,
            static_range=range,
            arange=lambda first, end, layout: tl.arange(first, end),
            full=lambda shape, value, dtype, layout: tl.full(shape, value, dtype),
            zeros=lambda shape, dtype, layout: tl.full(shape, 0.0, dtype),
            convert_layout=lambda tensor, layout: tensor,
            NVMMASharedLayout=SimpleNamespace(get_default_for=lambda shape, dtype: None),
            **dict.fromkeys(_LAYOUTS, lambda *a, **k: None),
        )

    def names(self) -> dict[str, Any]:
        """The globals of a module that are exchanged."""
        return {
            "gl": self.language(),
            "mbarrier": SimpleNamespace(
                init=self.init, expect=self.expect, arrive=self.arrive, wait=self.wait, MBarrierLayout=lambda: None
            ),
            "tma": SimpleNamespace(store_wait=self.store_wait),
            "_reinterpret": _reinterpret,
            "_tma_load": self.load,
            "_tma_store": self.store,
            "_tma_add": self.add,
            "fence_async_shared": self.fence,
            "warpgroup_mma": self.product,
            "warpgroup_mma_wait": self.product_wait,
            "_descriptor": Descriptor,
            "_is_hopper": lambda: True,
            "_BRANCHES": tl.constexpr(False),
        }


class _Language(SimpleNamespace):
    def __getattr__(self, name: str) -> Any:
        return getattr(tl, name)


@contextlib.contextmanager
def emulating_hopper(module: ModuleType, seed: int = 0) -> Iterator[None]:
    """Within the block, which has to be inside of `interpreting(module)`, the module's kernels for Hopper run."""
    emulation = Emulation(seed)
    names = emulation.names()
    with replaced(module, {name: names[name] for name in names if hasattr(module, name)}):
        yield
    if emulation.schedule.copies:
        raise RaceError("a program ended while a copy to its shared memory was under way")
