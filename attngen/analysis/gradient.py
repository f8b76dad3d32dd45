"""Gradients: the row adjoints, the gradient of the dot product and of every input.

With dP_j = dO . v_j, statistics r_k = sum_j g_k and weights w:

    dr_k  = sum_j dP_j dw/dr_k + sum_{l>k} dr_l sum_j dg_l/dr_k          (last to first)
    dqk_j = dP_j dw/dqk + sum_k dr_k dg_k/dqk

The first sum is found without a pass over the keys wherever algebra allows: if w = h(r) f then it is (d log h / dr_k)
delta, delta = dO . O; if w = sum_t h_t(r) f_t then it is a combination of dO . A_t, A_t being an accumulator that the
forward saves. What is left becomes a sum of the backward's prepass.

# Note [No elimination]
With several terms one product could be had from delta = sum_t h_t (dO . A_t) and the others. It isn't: where beta of an
affine-scaled softmax outweighs alpha, the difference cancels, all the more if O was rounded to bf16.

# Note [Relative adjoints]
A statistic that is carried relative to a pivot may itself be far beyond fp32's range, and so may its adjoint. So what
is summed over the keys is dg_l/dr_k u_k / u_l with the statistics' units u (`Carries.unit`), and what stands outside of
the sum is dr_l u_l / u_k: each of ordinary size.
"""

from dataclasses import dataclass, field

from attngen.analysis import functions as fn
from attngen.analysis import symbolic as sy
from attngen.analysis.carries import Carries
from attngen.analysis.functions import HALF, ONE, ZERO, Sym
from attngen.analysis.passes import Staged
from attngen.analysis.separate import Scope
from attngen.analysis.symbolic import Statistic

DP = sy.DP
DELTA = sy.symbol("%delta")


@dataclass
class Gradients:
    """`products`: symbol -> index of the accumulator whose dot product with dO it is; `prepass`: symbol -> summand."""

    scope: Scope
    adjoints: dict[Sym, Sym] = field(default_factory=dict)
    products: dict[Sym, int] = field(default_factory=dict)
    prepass: dict[Sym, Sym] = field(default_factory=dict)

    def sum_over_keys(self, summand: Sym) -> Sym:
        """The sum of `summand`, which may use dP, over the keys of a row: a symbol, unless all keys have the same."""
        if self.scope.is_row(summand) and not sy.uses(summand, [DP]):
            return sy.atom("n") * summand
        for symbol, known in self.prepass.items():
            if known == summand:
                return symbol
        symbol = sy.symbol(f"%adj{len(self.prepass) + 1}")
        self.prepass[symbol] = summand
        return symbol

    def fold_products(self, carries: Carries) -> None:
        """Let a prepass that is needed anyway sum dP f as well, so that no accumulator has to be saved."""
        self.prepass |= {symbol: DP * carries.accumulators[index].body for symbol, index in self.products.items()}
        self.products.clear()


def derive_adjoints(staged: Staged, carries: Carries) -> Gradients:
    """The adjoint of every statistic, in terms of delta, products and prepass sums."""
    result = Gradients(staged.scope)
    for index in reversed(range(len(staged.statistics))):
        symbol = staged.statistics[index].symbol
        known, summand = _direct(symbol, staged, carries, result)
        for later in staged.statistics[index + 1 :]:
            outside, influence = _influence(later, symbol, carries, result)
            if sy.uses(outside, result.prepass):
                known += outside * result.sum_over_keys(influence) / carries.unit(symbol)
            else:  # what is known before the walk needs no sum of its own
                summand += outside * influence
        if summand != 0:
            known += result.sum_over_keys(summand) / carries.unit(symbol)
        result.adjoints[symbol] = sy.attach(known)
    if len(result.prepass) > 1 and not any(sy.uses(body, result.products) for body in result.prepass.values()):
        result.fold_products(carries)
    return result


def _influence(statistic: Statistic, symbol: Sym, carries: Carries, result: Gradients) -> tuple[Sym, Sym]:
    """dr_l, and the summand of dg_l/dr_k, of a later statistic. See Note [Relative adjoints]."""
    summand = sy.attach(_unshared_slope(statistic, symbol))
    if summand == 0:
        return ZERO, ZERO
    later = carries.unit(statistic.symbol)
    outside = sy.expand_mul(result.adjoints[statistic.symbol] * later) / _ties(statistic, result)
    return outside, summand * carries.unit(symbol) / later


def slope(statistic: Statistic, variable: Sym, result: Gradients) -> Sym:
    """Summand of d statistic / d variable. Ties of amax and amin share it, as in torch."""
    summand = _unshared_slope(statistic, variable)
    return summand if summand == 0 else summand / _ties(statistic, result)


def _unshared_slope(statistic: Statistic, variable: Sym) -> Sym:
    inner = sy.derivative(statistic.body, variable)
    return inner if statistic.kind in ("sum", "root") else inner * _attained(statistic)


def _ties(statistic: Statistic, result: Gradients) -> Sym:
    """How many keys share the slope of an extremum: a row value, which stays outside of further sums."""
    return ONE if statistic.kind in ("sum", "root") else result.sum_over_keys(_attained(statistic))


def _attained(statistic: Statistic) -> Sym:
    """# Note [Attained extrema]: scores are recomputed, by products whose rounding may differ from the forward's. So a
    key attains the extremum if it comes within a few units in the last place of it. Where the extremum is near zero
    that is less than what rounding did to a product whose terms cancel. So there are added as many units of
    |d body / d qk| sqrt(d), the size of the terms' sum for queries and keys of unit variance.
    """
    body = sy.attach(statistic.body)
    unit = fn.absolute(sy.attach(sy.derivative(statistic.body, sy.atom("qk")))) * sy.atom("d") ** HALF
    return fn.where(fn.attains(body, statistic.symbol, unit), ONE, ZERO)


def _direct(symbol: Sym, staged: Staged, carries: Carries, result: Gradients) -> tuple[Sym, Sym]:
    """sum_j dP_j dw/dr, if it is known without a sum, and otherwise its summand."""
    change = sy.derivative(staged.weights, symbol)
    if change == 0:
        return ZERO, ZERO
    if any(sy.uses(term.f, [symbol]) for term in staged.terms):
        return ZERO, sy.attach(DP * change * carries.unit(symbol))
    return _by_terms(symbol, staged, carries, result), ZERO


def _by_terms(symbol: Sym, staged: Staged, carries: Carries, result: Gradients) -> Sym:
    """sum_t dh_t/dr (dO . A_t). See Note [No elimination]."""
    if len(staged.terms) == 1:
        ratio = log_derivative(staged.terms[0].h, symbol)
        if ratio is not None:
            return ratio * DELTA
    changes = [sy.factor_terms(sy.derivative(term.h, symbol)) for term in staged.terms]
    return sy.Add(*(c * _product(i, staged, carries, result) for i, c in enumerate(changes) if c != 0))


def _product(index: int, staged: Staged, carries: Carries, result: Gradients) -> Sym:
    """dO . A_t, from a saved accumulator, which is relative to its pivot."""
    accumulator, symbol = carries.accumulators[index], sy.symbol(f"%dot{index + 1}")
    result.products[symbol] = index
    return symbol * (accumulator.total / accumulator.symbol)


def log_derivative(h: Sym, variable: Sym) -> Sym | None:
    """d log h / dx if h depends on x, and without a pole that h lacks: alpha / Z gives -1 / Z, whatever alpha is."""
    total = ZERO
    for factor in sy.Mul.make_args(h):
        base, exponent = factor.as_base_exp()
        change = sy.derivative(base, variable)
        if sy.uses(exponent, [variable]):
            if factor.func is not sy.exp:
                return None
            total += sy.derivative(exponent, variable)
        elif change != 0:
            if not (exponent.is_negative or _stays_positive(base)):
                return None
            total += exponent * _relative_change(base, change, variable)
    return None if total == 0 else total


def _relative_change(base: Sym, change: Sym, variable: Sym) -> Sym:
    """change / base. A pole is squared by its change, and overflows, unless that is relative to the variable."""
    if not any(p.base == variable and p.exp.is_negative for p in base.atoms(sy.Pow)):
        return change / base
    return sy.expand_mul(change * variable) / base / variable


def _stays_positive(expr: Sym) -> bool:
    """Softplus underflows to zero, faster than its derivative would allow to divide by it."""
    return bool(expr.is_positive) and not expr.has(fn.softplus)


def gradient_wrt(variable: Sym, staged: Staged, result: Gradients) -> Sym:
    """The pair's share dP dw/dx + sum_k dr_k dg_k/dx of the gradient of `variable`."""
    total = DP * sy.derivative(staged.weights, variable)
    for statistic in staged.statistics:
        if result.adjoints[statistic.symbol] != 0:
            total += result.adjoints[statistic.symbol] * slope(statistic, variable, result)
    return sy.attach(total)


def row_share(variable: Sym, staged: Staged) -> Sym | None:
    """c if dw/dx = c(row) w and no statistic depends on x: then the gradient of x is c delta, with no sum at all."""
    if any(sy.uses(s.body, [variable]) for s in staged.statistics) or len(staged.terms) != 1:
        return None
    (term,) = staged.terms
    return None if sy.uses(term.f, [variable]) else log_derivative(term.h, variable)
