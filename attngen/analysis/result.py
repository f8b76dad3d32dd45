"""What the analysis of a normalizer finds out: formulas again, no sympy objects.

Names in these formulas, beside the builtins and the spec's inputs: pivots, carries and statistics of the passes, `dp`
(dO . v of one pair), `delta` (dO . O of one row) and the backward's row sums. Nothing here knows of kernels.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from attngen import ir
from attngen.ir import Expr

Level = Literal["row", "key", "pair"]


@dataclass(frozen=True, slots=True)
class Pivot:
    """The maximum of `exponent` over the keys seen so far; what is carried relative to it can't overflow.

    Kernels may let it rest at that of some keys for as long as the sums in `OpPlan.telling` allow.


    "exponential": sums contain exp(power * (exponent - pivot)). "power": sums contain (exponent / pivot) ** power, the
    exponent, better called base, being nonnegative; a pivot of zero counts as one.
    """

    name: str
    exponent: Expr
    kind: Literal["exponential", "power"] = "exponential"


@dataclass(frozen=True, slots=True)
class Carry:
    """A row quantity reduced over the keys of one pass.

    A sum with a pivot is carried relative to it: when the pivot grows from m to M, what was carried so far is
    multiplied by exp(power * (m - M)) or, if the pivot is one of a power, by (m / M) ** power.
    """

    name: str
    kind: Literal["sum", "amax", "amin"]
    body: Expr
    pivot: str | None = None
    power: Fraction = Fraction(0)


@dataclass(frozen=True, slots=True)
class Accumulator:
    """A sum over the keys of body * v, one row of Dv channels per query."""

    name: str
    body: Expr
    pivot: str | None
    power: Fraction


@dataclass(frozen=True, slots=True)
class RowStatistic:
    """A row statistic by the name under which later passes and the backward use it.

    `symbol` stands for it in meanings and adjoints, which are mathematics. `meaning` is the reduction itself, `value`
    what it is made of when its pass ends. If `logarithmic`, the name stands for the logarithm of the reduction. `label`
    is what the spec calls what the name stands for, if it calls it anything.
    """

    name: str
    symbol: str
    meaning: Expr
    value: Expr
    logarithmic: bool
    label: str = ""

    @property
    def is_kept_from_zero(self) -> bool:
        """Whether it is the carry of the same name, or the least divisor where that is closer to zero."""
        return self.value == ir.apply("nonzero", ir.Name(self.name))


@dataclass(frozen=True, slots=True)
class Root:
    """A row value that is looked for between `low` and `high`, in several walks over the keys.

    Each walk sums the carries of its pass, whose bodies use the trial value by `name`. `residual`, which is to become
    zero, and its first two derivatives by the trial value are formulas of them and of the pivots. A residual that is
    less than rounding makes of terms of `magnitude` is zero. `size` has its sign and says at which bound it is nearer
    to zero. `direction` is 1 if the residual is known to fall as the value grows, -1 if to rise, 0 if the search has to
    find out.
    """

    name: str
    low: Expr
    high: Expr
    residual: Expr
    slope: Expr
    curvature: Expr
    magnitude: Expr
    size: Expr
    direction: int


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """One walk over the keys. `statistics` are known when it ends, one for each carry, in the same order.

    With a `root` it is walked for every trial, and the root is its one statistic.
    """

    pivots: tuple[Pivot, ...]
    carries: tuple[Carry, ...]
    statistics: tuple[RowStatistic, ...]
    root: Root | None = None


@dataclass(frozen=True, slots=True)
class Forward:
    """The last pass also holds the accumulators; the output is the sum of factor * accumulator."""

    passes: tuple[ForwardPass, ...]
    accumulators: tuple[Accumulator, ...]
    factors: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class RowSum:
    """A reduction over the keys in the backward; `body` may use `dp`."""

    name: str
    body: Expr


@dataclass(frozen=True, slots=True)
class RowProduct:
    """dO . A of one row, A being an accumulator that the forward saved."""

    name: str
    accumulator: str


@dataclass(frozen=True, slots=True)
class InputGradient:
    """The gradient of one input, before it is summed over the axes that its shape lacks.

    level "row": `value` is a row formula over `sums`; level "key": `value` is to be summed over the queries;
    level "pair": `value` is the gradient itself.
    """

    name: str
    level: Level
    value: Expr
    sums: tuple[RowSum, ...] = ()


@dataclass(frozen=True, slots=True)
class Deferred:
    """The query kernel's gradients if its one sum, called `late`, is known only when its walk ends.

    dqk = own + late * slope, so dQ_i = sum_j own k_j + late sum_j slope k_j. `inputs`: those of the row level.
    """

    late: str
    own: Expr
    slope: Expr
    inputs: tuple[InputGradient, ...]


@dataclass(frozen=True, slots=True)
class Backward:
    """dV_j = sum_i weights dO_i; dqk_ij is the gradient of the dot product, so dQ_i = sum_j dqk k_j.

    `dp` and `delta` are the names by which the formulas use them; `delta` is None if none does.
    `prepass` must be summed over the keys before `dqk` can be evaluated; it is empty when `delta` and `products` do. If
    it is one sum, `deferred` says how to do without a walk of its own.
    """

    weights: Expr
    dqk: Expr
    dp: str
    delta: str | None
    products: tuple[RowProduct, ...]
    prepass: tuple[RowSum, ...]
    inputs: tuple[InputGradient, ...]
    deferred: Deferred | None


@dataclass(frozen=True, slots=True)
class ChannelSum:
    """A sum over the channels of one row; `body` is of one channel."""

    name: str
    body: Expr


@dataclass(frozen=True, slots=True)
class Output:
    """What becomes of a channel of the weighted sum, called `name`: `value`, a formula of it and of `sums`.

    `gradient` is that of the weighted sum, from the gradient of the output, `d_out`, from `sums` and then `adjoints`,
    each of which may use those before it; the adjoint of a positive sum is that of its logarithm. `inputs`: sums that
    are the gradients of row-level inputs, as far as they come from this step. Formulas of the backward speak of the
    same sum: where its weights are known relative to a pivot, so is it.
    """

    name: str
    sums: tuple[ChannelSum, ...]
    value: Expr
    d_out: str
    adjoints: tuple[ChannelSum, ...]
    gradient: Expr
    inputs: tuple[ChannelSum, ...]


@dataclass(frozen=True, slots=True)
class Adjoint:
    """For people: the row adjoint of one statistic, as derived."""

    statistic: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Analysis:
    """All that the later stages know of a normalizer's mathematics.

    A tile of pairs on which `support` is nowhere positive adds nothing to the output and to any gradient. It is looked
    for in specs that claim to be sparse, and in those with roots; not where accumulators may be relative to a pivot, as
    a tile that adds nothing may raise it.
    """

    kind: str  # elementwise, ratio, shift-invariant ratio, affine, staged, implicit
    score: Expr
    forward: Forward
    backward: Backward
    adjoints: tuple[Adjoint, ...]
    support: Expr | None
    output: Output | None
