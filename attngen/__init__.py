"""attngen compiles the formula of an attention normalizer into a fused attention op."""

from attngen.api import load
from attngen.version import __version__

__all__ = ["__version__", "load"]
