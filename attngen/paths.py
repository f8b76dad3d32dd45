"""Where the files that travel with the package lie: templates/, specs/ and generated/.

A wheel carries them as `attngen/_data/`; a checkout has them at its root. Nothing is read here.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def data_dir() -> Path:
    """The folder that holds `templates`, `specs` and `generated`."""
    shipped = _PACKAGE / "_data"
    return shipped if shipped.is_dir() else _PACKAGE.parent


def package_dir() -> Path:
    """The folder of the package's own sources."""
    return _PACKAGE
