"""The text of a spec file into a `RawSpec`: characters, YAML, fields, and the syntax of the formulas.

Only what makes the file unreadable as a whole is raised here; every other mistake is kept with the `RawSpec`, to be
told together with those that `lower` finds.
"""

from attngen.diagnostics import Diagnostic, SpecError
from attngen.spec import fields, limits, yaml_tree
from attngen.spec.raw import RawSpec
from attngen.spec.source import source, without_byte_order_mark


def parse(text: str, path: str) -> RawSpec:
    """The fields of a spec. Raises SpecError for text that is too large, not YAML, or empty."""
    text = without_byte_order_mark(text)
    try:
        check_size(len(text))
        read = source(text)
        root = yaml_tree.compose(read)
        if root is None:
            raise SpecError((Diagnostic("the spec is empty", None, "at least `name: ...` and `weights: ...`"),))
        return fields.raw_spec(read, path, root)
    except SpecError as error:
        raise error.located(path, text) from None


def check_size(size: int) -> None:
    """Raises SpecError for a spec that is larger than `limits.FILE_BYTES`."""
    if size > limits.FILE_BYTES:
        message = f"the spec has {size} bytes"
        raise SpecError((Diagnostic(message, None, f"at most {limits.FILE_BYTES} bytes"),))
