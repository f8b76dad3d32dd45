"""A spec file into a normalizer: the one place that opens a file, bounded and decoded before anything reads it."""

from collections.abc import Mapping
from pathlib import Path

from attngen.diagnostics import Diagnostic, SpecError
from attngen.ir import Normalizer
from attngen.spec import limits
from attngen.spec.lower import read_spec
from attngen.spec.parse import check_size


def read_spec_file(path: str | Path, statics: Mapping[str, str] | None = None) -> Normalizer:
    """The normalizer that a spec file describes. Raises SpecError, also for a file that can't be read."""
    return read_spec(spec_text(path), str(path), statics)


def spec_text(path: str | Path) -> str:
    """The text of a spec file. Raises SpecError if it is missing, too large, or not UTF-8."""
    try:
        return _decoded(_content(path))
    except SpecError as error:
        raise error.located(str(path), "") from None


def _content(path: str | Path) -> bytes:
    try:
        check_size(Path(path).stat().st_size)
        with Path(path).open("rb") as file:
            content = file.read(limits.FILE_BYTES + 1)  # what grows or has no size, such as a pipe, is bounded as well
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SpecError((Diagnostic(f"the spec can't be read: {reason}"),)) from None
    check_size(len(content))
    return content


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"byte {content[error.start]:#04x} in line {line} is not UTF-8"
        raise SpecError((Diagnostic(message, None, "text in UTF-8"),)) from None
