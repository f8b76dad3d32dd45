"""What modules are built for where nobody says so: ATTNGEN_TARGET, read here alone.

`hopper` adds the kernels for Hopper, which a call then takes on such a GPU. They are compiled and their machine code is
read, but they have not been run: so they are never the default.
"""

import os
from typing import get_args

from attngen.emit.hopper import Target as Target

VARIABLE = "ATTNGEN_TARGET"


def chosen_target() -> Target:
    """The target that the environment asks for. Raises ValueError for one that isn't known."""
    asked = os.environ.get(VARIABLE, "any")
    for target in get_args(Target):
        if asked == target:
            return target  # type: ignore[no-any-return]
    raise ValueError(f"{VARIABLE} is '{asked}'; it should be one of {', '.join(get_args(Target))}")
