"""Members of a module, a class or an object, exchanged for as long as a block of code runs."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def replaced(owner: Any, members: Mapping[str, Any]) -> Iterator[None]:
    """Within the block `owner` has these members. They must exist before; afterwards they are what they were."""
    before = {name: getattr(owner, name) for name in members}
    _assign(owner, members)
    try:
        yield
    finally:
        _assign(owner, before)


def _assign(owner: Any, members: Mapping[str, Any]) -> None:
    for name, value in members.items():
        setattr(owner, name, value)
