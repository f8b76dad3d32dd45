"""Which axes of the model's tensors are attention's: batch, heads, queries, keys, channels.

The letters of the two contractions say it: the axis that the second one sums over is that of the keys.
"""

from dataclasses import dataclass

from torch import fx

from attngen.dynamo.contraction import Contraction
from attngen.dynamo.layout import Dim, Dims, Layout
from attngen.dynamo.lift import atom_of
from attngen.dynamo.nodes import Hints, NotAttention, NotLifted, tensor_of


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor of the model and the axes of its dimensions."""

    node: fx.Node
    dims: Dims


@dataclass(frozen=True, slots=True)
class Geometry:
    """Axes are dimensions: no atom where the model has none, several where it has several head axes.

    `kv_heads` are the outer ones of `heads`: keys and values have no more.
    """

    query: Operand
    key: Operand
    value: Operand
    scores: Dims
    output: Dims
    batch: Dim
    heads: Dim
    kv_heads: Dim
    rows: Dim
    keys: Dim
    depth: Dim
    channel: Dim

    @property
    def query_dims(self) -> Dims:
        return (self.batch, self.heads, self.rows, self.depth)

    @property
    def key_dims(self) -> Dims:
        return (self.batch, self.kv_heads, self.keys, self.depth)

    @property
    def value_dims(self) -> Dims:
        return (self.batch, self.kv_heads, self.keys, self.channel)

    @property
    def output_dims(self) -> Dims:
        return (self.batch, self.heads, self.rows, self.channel)

    @property
    def pair_dims(self) -> Dims:
        return (self.batch, self.heads, self.rows, self.keys)


def score_dims(scores: fx.Node, product: Contraction, hints: Hints) -> tuple[Dims, tuple[Dim, Dim]]:
    """The scores' dimensions, and the two that one operand has alone."""
    sizes = hints.shape(tensor_of(scores))
    dims = tuple(atom_of(letter, size) for letter, size in zip(product.out, sizes, strict=True))
    alone = (
        [letter for letter in product.a_letters if letter not in product.b_letters],
        [letter for letter in product.b_letters if letter not in product.a_letters],
    )
    if not all(alone):
        raise NotAttention("scores without an axis of queries or without one of keys")
    # Further axes that one operand has alone stand before it: broadcast ones of a matmul, groups of query heads.
    first, second = (dims[max(product.out.index(letter) for letter in letters)] for letters in alone)
    return dims, (first, second)


def _operand_dims(node: fx.Node, letters: tuple[str, ...], dims: dict[str, Dim], hints: Hints) -> Operand:
    sizes = hints.shape(tensor_of(node))
    return Operand(node, tuple(dims[letter] if size != 1 else () for letter, size in zip(letters, sizes, strict=True)))


def second_dims(second: fx.Node, weights: Dims, product: Contraction, hints: Hints) -> tuple[dict[str, Dim], Dim, Dims]:
    """Dimensions of the second contraction by letter, its channel, and its output's dimensions.

    `product.a` are the weights here, `product.b` the values.
    """
    letters = dict(zip(product.a_letters, weights, strict=True))
    new = [letter for letter in product.b_letters if letter not in letters]
    if len(new) != 1 or new[0] not in product.out:
        raise NotAttention("values without exactly one axis of channels")
    channel = atom_of("channel", hints.size(tensor_of(product.b).shape[product.b_letters.index(new[0])]))
    letters[new[0]] = channel
    return letters, channel, tuple(letters[letter] for letter in product.out)


def weights_first(second: fx.Node, product: Contraction, weights: fx.Node) -> Contraction:
    """The same product with the weights as its first operand."""
    if product.a is weights and product.b is not weights:
        return product
    return Contraction(product.b, product.a, product.b_letters, product.a_letters, product.out, product.summed)


def read_geometry(
    layout: Layout,
    nodes: tuple[fx.Node, fx.Node],
    products: tuple[Contraction, Contraction],
    weights: Dims,
    hints: Hints,
) -> Geometry:
    """All axes, from the contractions (first, second) and the axes of the weights."""
    first, second = products
    raw, raw_ends = score_dims(nodes[0], first, hints)
    scores, ends = layout.resolved(raw), tuple(layout.resolve(end) for end in raw_ends)
    letters, channel, output = second_dims(nodes[1], layout.resolved(weights), second, hints)
    keys = letters[second.summed]
    if len(keys) != 1 or keys not in ends or ends[0] == ends[1]:
        raise NotLifted("the second product sums over another axis than the keys, as a mix of heads does")
    flipped = keys == ends[0]
    rows = ends[1] if flipped else ends[0]
    if len(rows) > 1:
        raise NotLifted("a view that splits the queries")
    lead = tuple(atom for dim in scores for atom in dim if atom not in (*rows, *keys))
    depth = atom_of("depth", hints.size(tensor_of(first.a).shape[first.a_letters.index(first.summed)]))
    by_letter = {**dict(zip(first.out, scores, strict=True)), first.summed: depth}
    a = _operand_dims(first.a, first.a_letters, by_letter, hints)
    b = _operand_dims(first.b, first.b_letters, by_letter, hints)
    query, key = (b, a) if flipped else (a, b)
    value = _operand_dims(second.b, second.b_letters, letters, hints)
    if any(atom in rows for dim in value.dims for atom in dim):
        raise NotLifted("values that differ from query to query, as behind a mix of heads")
    if any(atom not in {atom for dim in layout.resolved(weights) for atom in dim} for atom in lead):
        raise NotLifted("weights that lack an axis of the scores")
    kv_heads = shared_heads(lead[1:], key, value)
    return Geometry(
        query, key, value, scores, output, lead[:1], lead[1:], kv_heads, rows, keys, depth, channel
    )  # fmt: skip


def shared_heads(heads: Dim, key: Operand, value: Operand) -> Dim:
    """The outer head axes that keys or values have: further ones are groups of queries that share them."""
    present = {atom for operand in (key, value) for dim in operand.dims for atom in dim}
    count = max((place + 1 for place, atom in enumerate(heads) if atom in present), default=0)
    return heads[:count]
