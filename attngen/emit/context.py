"""The context of the module template: everything that it prints, from an `OpPlan`.

Formulas arrive here as trees and leave as text, statement by statement; the templates add structure alone. Its fields
are what the templates use, no more and no less, which a test holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from attngen.emit.channels import OutputGradient, Step
from attngen.emit.configs import Config, HopperTile, NativeTile
from attngen.emit.cpp_context import CppSource
from attngen.emit.statements import AccumulatorText, InputUse, PassText, Uses


@dataclass(frozen=True, slots=True)
class Term:
    """An accumulator, and the text of its factor in the output."""

    name: str
    factor: str


@dataclass(frozen=True, slots=True)
class Output:
    """What follows the last pass: lines, the weighted sum as a sum of terms, called `name`, and a step behind it."""

    lines: tuple[str, ...]
    terms: tuple[Term, ...]
    name: str
    step: Step | None


@dataclass(frozen=True, slots=True)
class Summand:
    name: str
    body: str


@dataclass(frozen=True, slots=True)
class Section:
    """One loop of a backward kernel: lines before and inside it, the tile's formulas, the row sums.

    Lines `leading` lead to `support`, if there is one: a tile on which it is nowhere positive adds nothing. `late` is
    the part of dqk to be multiplied by a row value that is known when the loop ends.
    """

    outer: tuple[str, ...]
    leading: tuple[str, ...]
    inner: tuple[str, ...]
    uses: Uses
    sums: tuple[Summand, ...] = ()
    support: str = ""
    dqk: str = ""
    late: str = ""
    weight: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class Epilogue:
    """What follows the loop of a backward kernel: lines, and the factors on dQ or dK and on its late part, as text."""

    lines: tuple[str, ...]
    factor: str
    late_factor: str = ""


@dataclass(frozen=True, slots=True)
class GradientText:
    """Text of an input's gradient. The last four say, of a pair-level one, how its own axes stand."""

    name: str
    text: str
    has_batch: bool = False
    head_axis: str = ""
    lacks: tuple[str, ...] = ()
    shape: str = ""


@dataclass(frozen=True, slots=True)
class KernelUse:
    """What a whole kernel reads beside query, key and value."""

    inputs: tuple[InputUse, ...]
    builtins: frozenset[str]


@dataclass(frozen=True, slots=True)
class RowValue:
    """What the key and pair kernels read per row, and the launcher's text for it."""

    name: str
    source: str


@dataclass(frozen=True, slots=True)
class InputText:
    """An input of the public function. `default` is Python text over head_dim, query_count and key_count, or empty."""

    name: str
    axes: tuple[str, ...]
    doc: str
    default: str
    default_text: str


@dataclass(frozen=True, slots=True)
class AuxText:
    """A field of what a call returns on request, its meaning, and its place among the forward's results."""

    name: str
    doc: str
    place: int


@dataclass(frozen=True, slots=True)
class Product:
    """A dot product with a saved accumulator; `position` is its place among the saved tensors."""

    name: str
    accumulator: str
    position: int


@dataclass(frozen=True, slots=True)
class ForwardText:
    passes: tuple[PassText, ...]
    output: Output
    kernel: KernelUse

    @property
    def has_late_factors(self) -> bool:
        """Whether it relies on a scale that isn't negative."""
        return any(pivot.factor for this in self.passes for pivot in this.pivots)


@dataclass(frozen=True, slots=True)
class QueryText:
    kernel: KernelUse
    prepass: Section | None
    main: Section
    epilogue: Epilogue
    gradients: tuple[GradientText, ...]


@dataclass(frozen=True, slots=True)
class KeyText:
    """`sums`: of gradients of inputs that are multiples of the gradients of q . k, the factor."""

    kernel: KernelUse
    main: Section
    epilogue: Epilogue
    gradients: tuple[GradientText, ...]
    sums: tuple[GradientText, ...] = ()


@dataclass(frozen=True, slots=True)
class HopperProduct:
    """An accumulator, and names: of a tile's weights, of these as an operand, of the sum while its product runs."""

    accumulator: AccumulatorText
    weights: str
    operand: str
    next: str


@dataclass(frozen=True, slots=True)
class HopperWalk:
    """A pass over the keys. Of a tile, `function` makes weights for the products, factors on the sums so far and what
    rows carry, the `state`, which it calls `kept` when it is new. `given` is what its formulas take from outside."""

    text: PassText
    function: str
    given: tuple[str, ...]
    state: tuple[str, ...]
    kept: tuple[str, ...]
    products: tuple[HopperProduct, ...]
    rescales: tuple[str, ...]

    @property
    def hides_scores(self) -> bool:
        """Whether a score of minus infinity may stand for a hidden one: the only pivot is their own maximum."""
        return [(pivot.exponent, pivot.neutral) for pivot in self.text.pivots] == [("qk", "0.0")]


@dataclass(frozen=True, slots=True)
class TileStep:
    """Formulas of a tile: the vectors of rows that they read, what else they take from outside, lines, and a result."""

    rows: tuple[str, ...]
    given: tuple[str, ...]
    lines: tuple[str, ...]
    result: str


@dataclass(frozen=True, slots=True)
class HopperBackward:
    """The backward kernel for Hopper.

    The warpgroup that loads reads `row_inputs` and `row_values`, and computes `before_rows`, `rows` and from them
    `through`, which are vectors of rows that the others get. `weights` come before the second product is there,
    `gradients` after; they read `kept` of what those computed. Up to head dim `early_to`, or `early_beside_sums` where
    gradients of inputs are summed up, that product runs while the weights are computed; beyond it starts behind them
    and, if it `is_apart`, nothing runs beside it. `dq_factor` is what the sum of dQ's shares is to be multiplied by, as
    Python text over scale, head_dim, query_count and key_count. In tiles of few queries the second product starts early
    at any head dim if `early_if_short`.
    """

    key: KeyText
    before_rows: tuple[str, ...]
    row_inputs: tuple[InputUse, ...]
    row_values: tuple[str, ...]
    rows: tuple[str, ...]
    through: tuple[str, ...]
    weights: TileStep
    gradients: TileStep
    kept: tuple[str, ...]
    early_to: int
    early_if_short: bool
    early_beside_sums: int
    is_apart: bool
    dq_factor: str


@dataclass(frozen=True, slots=True)
class HopperText:
    """The kernels for Hopper. `uniform`: accumulators whose weight is the same for all pairs, which need no product.
    `at_end`: what the output alone needs. `solo`: there is also a forward of one warpgroup that loads itself.
    `resting`: sums that tell whether pivots may rest, see `OpPlan.telling`, where there is one walk alone. `types`:
    torch's names of the types of query, key and value that are served. There is no backward of inputs with a query and
    a key axis, nor of formulas that registers don't hold."""

    forward: ForwardText
    walks: tuple[HopperWalk, ...]
    uniform: tuple[AccumulatorText, ...]
    at_end: KernelUse
    solo: bool
    resting: tuple[str, ...]
    backward: HopperBackward | None
    types: tuple[str, ...]
    tiles: tuple[HopperTile, ...]
    backward_tiles: tuple[HopperTile, ...]
    log1p_polynomial: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PairText:
    kernel: KernelUse
    main: Section
    gradient: GradientText


@dataclass(frozen=True, slots=True)
class PortableText:
    forward: ForwardText
    prepass: Section | None
    main: Section
    uses: KernelUse
    epilogue: tuple[str, ...]
    row_gradients: tuple[GradientText, ...]
    key_gradients: tuple[GradientText, ...]
    pair_gradients: tuple[GradientText, ...]
    saved_texts: tuple[str, ...]
    returns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModuleContext:
    """Everything that `templates/module.py.jinja` uses."""

    name: str
    version: str
    digest: str
    title: str
    formula: str
    reference: str
    score: str
    glossary: tuple[str, ...]
    forward_formulas: tuple[str, ...]
    backward_formulas: tuple[str, ...]
    functions: frozenset[str]
    fast: bool  # whether kernels have fast forms
    portable_functions: frozenset[str]
    log1p_polynomial: tuple[float, ...]
    dp: str
    delta: str | None
    aux: tuple[AuxText, ...]
    saved_rows: tuple[str, ...]
    saved_accumulators: tuple[str, ...]
    handed_over: tuple[str, ...]
    products: tuple[Product, ...]
    row_values: tuple[RowValue, ...]
    forward: ForwardText
    query: QueryText
    key: KeyText
    pairs: tuple[PairText, ...]
    portable: PortableText
    cpp: CppSource
    native_tiles: tuple[NativeTile, ...]
    hopper: HopperText | None  # None unless the module is built for it and its kernels serve the plan
    kernel_names: tuple[str, ...]
    configs: Mapping[str, tuple[Config, ...]]
    behind: tuple[tuple[str, int, int], ...]  # (architecture, width, itemsize) of the forward's rows that are
    resting: tuple[str, ...]  # `OpPlan.telling`, if registers are left for a second walk
    inputs: tuple[InputText, ...]
    input_axes: tuple[tuple[str, ...], ...]
    gradient_places: tuple[tuple[int, str], ...]  # (input, level) of each result of the backward behind dV
    output_gradient: OutputGradient | None
    root_trials: int
    uses_math: bool
