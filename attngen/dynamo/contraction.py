"""Products of two tensors, however they are written, as letters per dimension: matmul, `@`, bmm, mm, einsum, and with
something added baddbmm and addmm.

A letter that both operands have and the output lacks is summed over. Nothing is said here about attention.
"""

from dataclasses import dataclass
from typing import Any

from torch import fx

from attngen.dynamo.nodes import NotAttention, NotLifted, name_of, tensor_of

_SUMS = {"baddbmm", "addmm"}
MATMULS = {"matmul", "bmm", "mm", "__matmul__", "linalg_matmul", *_SUMS}
CONTRACTIONS = MATMULS | {"einsum"}
Letters = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contraction:
    """out[letters] = sum over `summed` of a[letters] * b[letters]."""

    a: fx.Node
    b: fx.Node
    a_letters: Letters
    b_letters: Letters
    out: Letters
    summed: str

    @property
    def by_one_matrix(self) -> bool:
        """Whether a batch is multiplied with one matrix, as with a layer's weights."""
        common = [letter for letter in self.a_letters if letter in self.b_letters and letter in self.out]
        return len(self.out) > 2 and not common and min(len(self.a_letters), len(self.b_letters)) == 2


def is_contraction(node: fx.Node) -> bool:
    """Products that give a tensor of their own; into one that is there already they are changes like any other."""
    return name_of(node) in CONTRACTIONS and "out" not in node.kwargs


def operands(node: fx.Node) -> tuple[fx.Node, ...]:
    """The tensors that are multiplied."""
    args: tuple[Any, ...] = node.args
    if name_of(node) == "einsum":
        args = args[1:]
        args = tuple(args[0]) if len(args) == 1 and isinstance(args[0], tuple | list) else args
    if name_of(node) in _SUMS:
        args = args[1:]
    named = ("mat1", "other", "mat2", "batch1", "batch2")
    more = [node.kwargs[name] for name in named if name in node.kwargs]
    return tuple(arg for arg in (*args, *more) if isinstance(arg, fx.Node))


def added(node: fx.Node) -> fx.Node | None:
    """The tensor that is added to the product."""
    if name_of(node) not in _SUMS or node.kwargs.get("beta", 1) == 0:
        return None
    tensor = node.kwargs.get("input", node.args[0] if node.args else None)
    return tensor if isinstance(tensor, fx.Node) else None


def with_added(node: fx.Node, product: Any, tensor: Any) -> Any:
    """The node's result from its product and what is added to it."""
    alpha, beta = node.kwargs.get("alpha", 1), node.kwargs.get("beta", 1)
    if isinstance(alpha, fx.Node) or isinstance(beta, fx.Node):
        raise NotLifted(f"{name_of(node)} with a factor of dynamic size")
    product = product if alpha == 1 else product * alpha
    if tensor is None:
        return product
    return tensor + product if beta == 1 else tensor * beta + product


def read(node: fx.Node) -> Contraction:
    """The node's letters. Raises NotLifted if it isn't a sum over one letter of two tensors."""
    tensors = operands(node)
    if len(tensors) != 2:
        raise NotLifted(f"{name_of(node)} of {len(tensors)} tensors")
    a, b = tensors
    ranks = (tensor_of(a).dim(), tensor_of(b).dim())
    a_letters, b_letters, out = _einsum(node, ranks) if name_of(node) == "einsum" else _matmul(*ranks)
    summed = [letter for letter in a_letters if letter in b_letters and letter not in out]
    lost = [letter for letter in (*a_letters, *b_letters) if letter not in out and letter not in summed]
    if len(summed) != 1 or lost or len(set(a_letters)) < len(a_letters) or len(set(b_letters)) < len(b_letters):
        raise NotAttention(f"{name_of(node)} is not a sum over one axis of two tensors")
    return Contraction(a, b, a_letters, b_letters, out, summed[0])


def _matmul(a_rank: int, b_rank: int) -> tuple[Letters, Letters, Letters]:
    if min(a_rank, b_rank) < 2:
        raise NotLifted("a product with a vector")
    leading = tuple(f"L{i}" for i in range(max(a_rank, b_rank) - 2, 0, -1))
    a_lead, b_lead = (leading[len(leading) - rank + 2 :] for rank in (a_rank, b_rank))
    return (*a_lead, "row", "sum"), (*b_lead, "sum", "column"), (*leading, "row", "column")


def _einsum(node: fx.Node, ranks: tuple[int, int]) -> tuple[Letters, Letters, Letters]:
    equation = node.args[0]
    if not isinstance(equation, str):
        raise NotLifted("einsum without an equation")
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != 2:
        raise NotLifted(f"einsum {equation!r}")
    if not arrow:
        letters = "".join(terms).replace(".", "")
        right = ("..." if "..." in left else "") + "".join(sorted(x for x in set(letters) if letters.count(x) == 1))
    dots = max(rank - len(term.replace("...", "")) for rank, term in zip(ranks, terms, strict=True))
    a, b = (_letters(term, rank - len(term.replace("...", ""))) for term, rank in zip(terms, ranks, strict=True))
    return a, b, _letters(right, dots)


def _letters(term: str, dots: int) -> Letters:
    """Letters one by one; those of an ellipsis count from its end, so that they line up."""
    before, ellipsis, after = term.partition("...")
    between = tuple(f"L{i}" for i in range(dots, 0, -1)) if ellipsis else ()
    return (*before, *between, *after)
