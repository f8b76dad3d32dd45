"""A `RawSpec` into the `ir.Normalizer` that it means: every formula resolved in its scope, lets replaced by their
formulas, static inputs by their numbers. All mistakes of the file are raised together.

It doesn't know YAML, and it doesn't judge formulas: whether weights can be compiled is the analysis' business.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from attngen.diagnostics import Diagnostic, SpecError
from attngen.ir import Claims, Expr, Input, Name, Normalizer, Number, Root, Static, apply, names, substitute
from attngen.spec import constants, limits, roots, scopes
from attngen.spec.parse import parse
from attngen.spec.raw import Formula, RawClaims, RawInput, RawLet, RawRoot, RawSpec
from attngen.spec.resolve import Scope, resolve
from attngen.spec.size import Size, measure

_SCORE = apply("mul", Name("scale"), Name("qk"))
_WEIGHTED_SUM = Name("o")
_UNREAD = Number(Fraction(0))  # in the place of a formula with a mistake; no normalizer leaves this module with it


def read_spec(text: str, path: str, statics: Mapping[str, str] | None = None) -> Normalizer:
    """The normalizer that a spec's text describes. Raises SpecError with all of its mistakes.

    `path` is the name that messages give to the text. `statics` are values for static inputs, in place of defaults.
    """
    return lower(parse(text, path), statics or {})


def lower(raw: RawSpec, statics: Mapping[str, str]) -> Normalizer:
    """The normalizer that a spec means. Raises SpecError with the mistakes of `raw` and those found here."""
    lowering = _Lowering(raw, list(raw.mistakes), unsure=set(raw.refused), keyed=scopes.keyed(raw))
    normalizer = lowering.normalizer(statics)
    if lowering.mistakes:
        raise SpecError(_in_order(lowering.mistakes), raw.path, raw.read.text)
    return normalizer


@dataclass(slots=True)
class _Lowering:
    """The mistakes, static numbers and lets so far; `unsure` are names with a mistake of their own."""

    raw: RawSpec
    mistakes: list[Diagnostic]
    unsure: set[str]
    keyed: set[str]
    numbers: dict[str, Number] = field(default_factory=dict)
    lets: dict[str, Expr] = field(default_factory=dict)
    sizes: dict[str, Size] = field(default_factory=dict)

    def normalizer(self, given: Mapping[str, str]) -> Normalizer:
        raw = self.raw
        self.take_statics(given)
        inputs = tuple(self.input(entry) for entry in raw.inputs if not entry.static)
        score = self.formula(raw.score, scopes.score_scope(raw, self.numbers, self.unsure)) or _SCORE
        lets = tuple((let.name, self.let(let)) for let in raw.lets)
        scope = scopes.weights_scope(raw, self.numbers, self.unsure, self.lets)
        weights = self.inlined(self.formula(raw.weights, scope), raw.weights) or _UNREAD
        statics = tuple(Static(name, number.value) for name, number in self.numbers.items())
        named = raw.name, raw.title, raw.reference
        output = self.output()
        return Normalizer(*named, inputs, statics, score, lets, weights, self.claims(output), output)

    def take_statics(self, given: Mapping[str, str]) -> None:
        static = [entry for entry in self.raw.inputs if entry.static]
        unknown = given.keys() - {entry.name for entry in static} - self.unsure
        self.mistakes += [constants.no_static(name, self.raw.inputs) for name in sorted(unknown)]
        for entry in static:
            value = self.static(entry, given.get(entry.name))
            if value is None:
                self.unsure.add(entry.name)
            else:
                self.numbers[entry.name] = Number(value)

    def static(self, entry: RawInput, given: str | None) -> Fraction | None:
        default = self.constant(entry.default, f"the default of static input '{entry.name}'")
        if given is None:
            if entry.default is None:
                message = f"static input '{entry.name}' has no value"
                self.mistake(message, entry, "default: NUMBER, or a value given to the build")
            return default
        value = constants.given(entry.name, str(given))
        if isinstance(value, Diagnostic):
            self.mistakes.append(value)
            return None
        return value

    def constant(self, formula: Formula | None, what: str) -> Fraction | None:
        if formula is None or formula.tree is None:
            return None
        value = constants.constant(formula.tree)
        if value is None:
            self.mistake(f"{what} is not a number", formula, "a number, such as 1 or -0.5")
        return value

    def input(self, entry: RawInput) -> Input:
        scope = scopes.default_scope(self.raw, self.numbers, self.unsure)
        return Input(entry.name, entry.axes, self.formula(entry.default, scope), entry.grad)

    def let(self, let: RawLet) -> Expr:
        scope = scopes.let_scope(self.raw, self.numbers, self.unsure, self.lets, let.name)
        written = self.written(let, scope)
        inlined = self.inlined(written, let if isinstance(let.formula, RawRoot) else let.formula)
        if written is None or inlined is None:
            self.unsure.add(let.name)
            return _UNREAD
        self.sizes[let.name] = measure(written, self.sizes)
        self.lets[let.name] = inlined
        self.keyed |= {let.name} if roots.varies(written, self.keyed) else set()
        return written

    def written(self, let: RawLet, scope: Scope) -> Expr | None:
        if isinstance(let.formula, Formula):
            return self.formula(let.formula, scope)
        return self.root(let, let.formula, scope)

    def root(self, let: RawLet, formulas: RawRoot, scope: Scope) -> Root | None:
        """The root as written, None if it can't be relied on."""
        bound = scopes.bound_scope(scope, let.name)
        residual = self.formula(formulas.residual, scopes.residual_scope(scope, let.name))
        low, high = (self.formula(each, bound) for each in (formulas.low, formulas.high))
        if residual is None or low is None or high is None:
            return None
        root = Root(let.name, residual, low, high, let.span)
        wrong = list(roots.mistakes(root, self.keyed, formulas.residual.span))
        self.mistakes += wrong
        return None if wrong else root

    def output(self) -> Expr:
        """The formula of `output`, the weighted sum itself where there is none."""
        formula = self.raw.output
        output = self.formula(formula, scopes.output_scope(self.raw, self.numbers, self.unsure))
        if output is None or formula is None:
            return _WEIGHTED_SUM
        if "o" not in names(output):
            expected = "a formula of the weighted sum `o`, such as o / sqrt(csum(o ** 2))"
            self.mistake("the output doesn't use 'o'", formula, expected)
        return output

    def formula(self, formula: Formula | None, scope: Scope) -> Expr | None:
        """The formula as written, None if there is none or if it can't be relied on."""
        if formula is None or formula.tree is None:
            return None
        resolved = resolve(formula.tree, scope)
        self.mistakes += resolved.mistakes
        return None if resolved.unsure else resolved.expr

    def inlined(self, written: Expr | None, place: Formula | RawLet | None) -> Expr | None:
        """The formula with lets replaced by theirs, None if that would be too large."""
        if written is None or place is None:
            return None
        size = measure(written, self.sizes)
        if size.too_large:
            message = f"with its lets written out, this formula has {size.nodes} parts, nested {size.depth} deep"
            expected = f"at most {limits.INLINED_NODES} parts, nested at most {limits.INLINED_NESTING} deep"
            self.mistake(message, place, expected)
            return None
        return substitute(written, self.lets)

    def claims(self, output: Expr) -> Claims:
        claims = self.raw.claims
        if output != _WEIGHTED_SUM:
            self.check_claims(claims)
        total = self.constant(claims.rows_sum_to, "rows_sum_to")
        return Claims(total, claims.shift_invariant, claims.nonnegative, claims.sparse)

    def check_claims(self, claims: RawClaims) -> None:
        """Verification reads weights off the op's results, which is only possible if these are sums of values."""
        hidden = {"rows_sum_to": claims.rows_sum_to, "nonnegative": claims.nonnegative, "sparse": claims.sparse}
        for name, span in claims.places:
            if hidden.get(name):
                message = f"the claim '{name}' is one of the weights, and `output` hides them"
                self.mistakes.append(Diagnostic(message, span, "shift_invariant alone, or no `output`"))

    def mistake(self, message: str, place: Formula | RawInput | RawLet, expected: str) -> None:
        self.mistakes.append(Diagnostic(message, place.span, expected))


def _in_order(mistakes: list[Diagnostic]) -> tuple[Diagnostic, ...]:
    """From the top of the file down, those without a place first; no more than a person reads."""
    ordered = sorted(dict.fromkeys(mistakes), key=_place)
    shown, more = ordered[: limits.MISTAKES_SHOWN], len(ordered) - limits.MISTAKES_SHOWN
    rest = (Diagnostic(f"{more} more mistakes are not shown"),) if more > 0 else ()
    return (*shown, *rest)


def _place(mistake: Diagnostic) -> tuple[int, int]:
    return (mistake.span.line, mistake.span.column) if mistake.span else (0, 0)
