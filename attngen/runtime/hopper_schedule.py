"""The partitions of an emulated warp-specialized program, and its copies, in an order that a seed decides.

One partition runs at a time, until it has to wait for a barrier or passes one; then any partition that can go on, or
any copy that is under way, may be next. A seed is one order of events; it also makes some partitions far quicker than
others, and copies quick or slow. A program in which nobody can go on is an error, as it would be endless on a GPU.
"""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field


class DeadlockError(RuntimeError):
    """No partition can go on, and no copy is under way."""


@dataclass
class _Partition:
    """A thread that runs while it has the turn. `ready` says whether it could go on, `haste` how often it would."""

    body: Callable[[], None]
    haste: float
    turn: threading.Event = field(default_factory=threading.Event)
    ready: Callable[[], bool] = lambda: True
    ended: bool = False
    failure: BaseException | None = None


class Schedule:
    """Runs partitions; `copies` are actions that may happen at any time from now on."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._haste_of_copies = self._haste()
        self._back = threading.Event()
        self._partitions: list[_Partition] = []
        self._current: _Partition | None = None
        self.copies: list[Callable[[], None]] = []

    @property
    def current(self) -> int:
        """Tells the partition that runs from the others."""
        return id(self._current)

    def wait(self, ready: Callable[[], bool] = lambda: True) -> None:
        """Called by a partition: others may run now; it goes on at some time when it is ready."""
        mine = self._current
        if mine is None:  # before and behind the partitions there is nothing to wait for but copies
            while not ready():
                self._step([])
            return
        mine.ready = ready
        self._back.set()
        mine.turn.wait()
        mine.turn.clear()

    def run(self, bodies: list[Callable[[], None]]) -> None:
        """Until all have ended, with all that they began."""
        self._partitions = [_Partition(body, self._haste()) for body in bodies]
        for partition in self._partitions:
            threading.Thread(target=self._thread, args=(partition,), daemon=True).start()
        while not all(partition.ended for partition in self._partitions):
            self._step([p for p in self._partitions if not p.ended and p.ready()])
        while self.copies:
            self._step([])

    def _haste(self) -> float:
        return 10 ** self._random.uniform(-1.5, 1.5)

    def _thread(self, mine: _Partition) -> None:
        mine.turn.wait()
        mine.turn.clear()
        try:
            mine.body()
        except BaseException as failure:  # raised where the program was started
            mine.failure = failure
        mine.ended = True
        self._back.set()

    def _step(self, able: list[_Partition]) -> None:
        if not able and not self.copies:
            raise DeadlockError("every partition waits for another one")
        chances = [*(partition.haste for partition in able), *(self._haste_of_copies for _ in self.copies)]
        (choice,) = self._random.choices(range(len(chances)), chances)
        if choice >= len(able):
            self.copies.pop(choice - len(able))()
            return
        self._current = able[choice]
        self._current.turn.set()
        self._back.wait()
        self._back.clear()
        failure, self._current = self._current.failure, None
        if failure is not None:
            raise failure
