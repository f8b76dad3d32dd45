"""The context of the C++ templates: what `templates/cpp` prints of a plan. Formulas have become text; see `cpp`."""

from dataclasses import dataclass

from attngen.emit.channels import Step
from attngen.emit.statements import CarryText, InputUse, PivotText

Named = tuple[str, str]  # a name and the text of its value


@dataclass(frozen=True, slots=True)
class Vectors:
    """Formulas of queries or of keys alone, a vector at a time: `loads` from arrays, `stores` to arrays.

    `spread` names what a block of keys takes of its head; `builtins` are sizes and constants of the call.
    """

    builtins: frozenset[str]
    spread: tuple[str, ...]
    loads: tuple[str, ...]
    lines: tuple[str, ...]
    stores: tuple[Named, ...]


@dataclass(frozen=True, slots=True)
class CppAccumulator:
    """As `AccumulatorText`; the weights of one accumulator may take the place of the scores."""

    name: str
    body: str
    column: str
    rescale: str | None
    by_columns: bool
    in_place: bool


@dataclass(frozen=True, slots=True)
class CppSearch:
    """The search for the root `name`: its bounds, and what a walk's carries say of the residual."""

    name: str
    direction: float
    bounds: Vectors
    trial: Vectors


@dataclass(frozen=True, slots=True)
class CppPass:
    """One pass of the forward. Lines `before` lead to the pivots, those `late` and `after` need them.

    Of a tile, lines are queries and lanes are keys: `spread` names what a query has, the loads what keys have. A tile
    on which `support` is nowhere positive adds nothing to the accumulators. With a `search` there is a walk for every
    trial.
    """

    builtins: frozenset[str]
    constants: tuple[str, ...]
    start: Vectors
    keys: Vectors
    key_inputs: tuple[InputUse, ...]
    pair_inputs: tuple[InputUse, ...]
    spread: tuple[str, ...]
    uniform_spread: tuple[str, ...]
    pivot_loads: tuple[str, ...]
    key_loads: tuple[str, ...]
    column_loads: tuple[str, ...]
    uses_qk: bool
    before: tuple[str, ...]
    pivots: tuple[PivotText, ...]
    late: tuple[str, ...]
    after: tuple[str, ...]
    carries: tuple[CarryText, ...]
    accumulators: tuple[CppAccumulator, ...]
    support: str
    search: CppSearch | None
    statistics: Vectors


@dataclass(frozen=True, slots=True)
class CppTerm:
    """An accumulator of the output, and whether it has a factor."""

    name: str
    scaled: bool


@dataclass(frozen=True, slots=True)
class CppStep:
    """What becomes of the weighted sum `name` of a row, a vector of channels at a time; `spread` are row values."""

    name: str
    builtins: frozenset[str]
    spread: tuple[str, ...]
    step: Step


@dataclass(frozen=True, slots=True)
class CppSection:
    """One loop of the backward over tiles whose lines are keys and whose lanes are queries."""

    builtins: frozenset[str]
    constants: tuple[str, ...]
    start: Vectors
    keys: Vectors
    key_inputs: tuple[InputUse, ...]
    pair_inputs: tuple[InputUse, ...]
    spread: tuple[str, ...]
    loads: tuple[str, ...]
    uses_qk: bool
    uses_dp: bool
    lines: tuple[str, ...]
    weight: str
    dqk: str
    support: str
    sums: tuple["CppText", ...]
    key_gradients: tuple["CppText", ...]


@dataclass(frozen=True, slots=True)
class CppText:
    """A named formula: a summand, or an input's gradient."""

    name: str
    body: str

    @property
    def text(self) -> str:
        return self.body


@dataclass(frozen=True, slots=True)
class CppPairGradient:
    """The gradient of a pair-level input; `head_axis` and `has_batch` say which axes it has."""

    name: str
    text: str
    head_axis: str
    has_batch: bool


@dataclass(frozen=True, slots=True)
class CppPair:
    section: CppSection
    gradient: CppPairGradient


@dataclass(frozen=True, slots=True)
class CppEpilogue:
    """What follows the backward's loop: the factor on dQ and dK, and the lines of query-level gradients."""

    builtins: frozenset[str]
    constants: tuple[str, ...]
    loads: tuple[str, ...]
    lines: tuple[str, ...]
    factor: str


@dataclass(frozen=True, slots=True)
class CppSource:
    """Everything that `templates/cpp` uses beside the module's own context."""

    functions: frozenset[str]
    row_names: tuple[str, ...]
    key_names: tuple[str, ...]
    row_inputs: tuple[InputUse, ...]
    gradients: tuple[str, ...]
    stackable: bool
    passes: tuple[CppPass, ...]
    accumulators: tuple[CppAccumulator, ...]
    output: Vectors
    terms: tuple[CppTerm, ...]
    step: CppStep | None
    support: CppSection | None  # says which tiles the backward passes over
    prepass: CppSection | None
    main: CppSection
    pairs: tuple[CppPair, ...]
    epilogue: CppEpilogue
    row_gradients: tuple[CppText, ...]

    @property
    def early(self) -> tuple[CppSection, ...]:
        """The sections whose query-level lines come before the row adjoints."""
        return tuple(section for section in (self.support, self.prepass) if section)

    @property
    def late(self) -> tuple[CppSection, ...]:
        return (self.main, *(pair.section for pair in self.pairs))
