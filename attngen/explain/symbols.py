"""How each name of an explanation is written: as text, and typeset with the indices over which it varies.

Index i is the query's, j the key's; batch and head stay unwritten. Names that begin with "$" are the explanation's own:

    $q $k $v $o $do $dq $dk $dv     row vectors
    $p                              the weights
    $v_c $out                       a channel of a value, of the output behind an output formula
    $dqk                            the gradient of the dot product
    $r:NAME                         the reduction behind statistic NAME, if that is not the reduction itself
    $bar:NAME                       the adjoint of that reduction
    $grad:INPUT                     the gradient of an input
    $F:ROOT $F1:ROOT $F2:ROOT       the residual of a root, and its derivatives by the root
    $do_c $d_sum                    a channel of the gradients behind an output formula, before it
    $x1, $x2, ...                   subformulas that occur repeatedly
    $Hq $Nk ... $inf $T             sizes, infinity, the trials of all roots

and NAME@1, NAME@2 are a quantity in two partial results.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from attngen import ir
from attngen.explain.boxes import Box, Digits, Letter, Row, Script, Sign, fenced, row
from attngen.schedule import OpPlan

_GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "eps": "ε", "zeta": "ζ", "eta": "η",
    "theta": "θ", "iota": "ι", "kappa": "κ", "lambda": "λ", "lam": "λ", "mu": "μ", "nu": "ν", "xi": "ξ", "pi": "π",
    "rho": "ρ", "sigma": "σ", "tau": "τ", "upsilon": "υ", "phi": "φ", "chi": "χ", "psi": "ψ", "omega": "ω",
}  # fmt: skip
_SHORT = {"row_max": "m", "row_sum": "ℓ", "acc": "A", "z": "Z"}
_SIZES = {"B": ("B", ""), "Hq": ("H", "q"), "Hkv": ("H", "kv"), "Nq": ("N", "q"), "Nk": ("N", "k")}
_SIZES |= {"D": ("D", ""), "Dv": ("D", "v")}
AXIS_SIZES = {"batch": "$B", "head": "$Hq", "kv_head": "$Hkv", "query": "$Nq", "key": "$Nk"}


@dataclass(frozen=True, slots=True)
class Symbol:
    """`text` in plain text; `base`, `label`, `index` and `mark` make up the typeset form."""

    text: str
    base: Box
    label: str = ""
    index: str = ""
    mark: str = ""
    atomic: bool = True

    @property
    def box(self) -> Box:
        below = [part for part in (self.label, self.index) if part]
        if not below and not self.mark:
            return self.base
        parts = self.mark if self.mark.startswith("′") else (self.mark,)  # primes one by one
        marks = row(*(Letter(part, upright=True) for part in parts)) if self.mark else None
        return Script(self.base, _subscript(below), marks)


Symbols = dict[str, Symbol]


def _subscript(parts: list[str]) -> Box | None:
    boxes: list[Box] = []
    for part in parts:
        boxes += [Sign(",")] if boxes else []
        boxes += [Digits(part)] if part.isdigit() else _index_letters(part)
    return Row(tuple(boxes)) if boxes else None


def _index_letters(part: str) -> list[Box]:
    return [Letter(letter) for letter in part] if set(part) <= set("bhijc") else [Letter(part, upright=len(part) > 1)]


def symbols_of(plan: OpPlan) -> Symbols:
    """The symbols of everything that a plan's formulas name, and of the explanation's own names."""
    users = {i.name: _index(i.axes) for i in plan.normalizer.inputs}
    lets = {name: "i" if isinstance(body, ir.Root) else "ij" for name, body in plan.normalizer.lets}
    found = _builtin_symbols()
    for name, index in (users | lets).items():
        found[name] = _distinct(_named(name, index), found)
    for name in row_names(plan):
        found[name] = _distinct(_derived(name, users.keys() | lets.keys()), found)
    for this in plan.analysis.forward.passes:
        found |= {s.name: found[s.label] for s in this.statistics if this.root}
    scaled = relative(plan)
    for statistic in statistics(plan):
        if statistic in scaled:
            found[f"$r:{statistic}"] = _total_symbol(found[statistic], found)
        found[f"$bar:{statistic}"] = _prefixed("d", found.get(f"$r:{statistic}", found[statistic]))
    for name in merged(plan):
        found |= {f"{name}@{number}": _partial(found[name], number) for number in (1, 2)}
    found |= {f"$grad:{name}": _gradient_symbol(found[name]) for name in users}
    found |= _residual_symbols(plan, found) | _step_symbols(plan, found)
    found["$p"] = _weights_symbol(users.keys() | lets.keys())
    return found


def statistics(plan: OpPlan) -> tuple[str, ...]:
    return tuple(s.name for forward_pass in plan.analysis.forward.passes for s in forward_pass.statistics)


def relative(plan: OpPlan) -> frozenset[str]:
    """Statistics that don't stand for their reduction itself, but for its logarithm or for it relative to a pivot."""
    passes = plan.analysis.forward.passes
    logarithmic = {s.name for p in passes for s in p.statistics if s.logarithmic}
    return frozenset(logarithmic | {c.name for p in passes for c in p.carries if c.pivot is not None})


def merged(plan: OpPlan) -> tuple[str, ...]:
    """What two partial results of a pass are merged in: pivots, carries, accumulators."""
    forward = plan.analysis.forward
    carried = [x.name for p in forward.passes for group in (p.pivots, p.carries) for x in group]
    return (*carried, *(a.name for a in forward.accumulators))


def row_names(plan: OpPlan) -> tuple[str, ...]:
    """Every quantity of one row that the analysis introduced, and dp."""
    forward, backward = plan.analysis.forward, plan.analysis.backward
    names = [x.name for p in forward.passes for group in (p.pivots, p.carries, p.statistics) for x in group]
    names += [a.name for a in forward.accumulators] + [backward.dp] + ([backward.delta] if backward.delta else [])
    names += [x.name for group in (backward.products, backward.prepass, plan.row_sums) for x in group]
    output = plan.analysis.output
    names += [x.name for group in (output.sums, output.adjoints) for x in group] if output else []
    return tuple(dict.fromkeys(names))


def _residual_symbols(plan: OpPlan, found: Symbols) -> Symbols:
    """F and its derivatives, with the root's name where there is more than one."""
    names = [this.root.name for this in plan.analysis.forward.passes if this.root]
    letter = next(letter for letter in ("F", "G", "R") if letter not in found)
    made: Symbols = {}
    for name in names:
        label = found[name].text if len(names) > 1 else ""
        for prefix, marks in (("F", ""), ("F1", "′"), ("F2", "′′")):
            text = f"{letter}{f'_{label}' if label else ''}{marks.replace('′', chr(39))}"
            made[f"${prefix}:{name}"] = Symbol(text, Letter(letter), label, "i", marks)
    return made


def _step_symbols(plan: OpPlan, found: Symbols) -> Symbols:
    """Names for the way back through the step behind the weighted sum."""
    output = plan.analysis.output
    if output is None:
        return {}
    made = {"$do_c": replace(found["o"], text="dout", base=row(Letter("d", upright=True), Letter("out", upright=True)))}
    made |= {output.d_out: made["$do_c"], "$d_sum": _prefixed("d", found["o"])}
    return made | ({} if output.name in found else {output.name: found["o"]})


def _index(axes: Iterable[str]) -> str:
    return "".join(letter for axis, letter in (("query", "i"), ("key", "j")) if axis in axes)


def _builtin_symbols() -> Symbols:
    transposed = row(Script(Letter("q"), Letter("i"), Letter("⊤")), Script(Letter("k"), Letter("j")))
    found = {name: _named(name, "") for name in ("scale", "d", "i", "j", "n_q", "n_k", "pi")}
    found |= {"s": _named("s", "ij"), "n": _named("n", "i"), "qk": Symbol("qk", transposed, atomic=False)}
    found["$dqk"] = Symbol("dqk", row(Letter("d", upright=True), fenced(transposed)))
    for vector, index in {"q": "i", "k": "j", "v": "j", "o": "i"}.items():
        symbol = Symbol(f"{vector}[{index}]", Letter(vector), index=index)
        found |= {f"${vector}": symbol, f"$d{vector}": _prefixed("d", symbol)}
    found |= {"o": _named("o", "ic"), "$out": _named("out", "ic"), "$v_c": Symbol("v", Letter("v"), index="jc")}
    for name, (letter, label) in _SIZES.items():
        found[f"${name}"] = Symbol(name, Letter(letter), label)
    found["$inf"], found["$T"] = Symbol("inf", Letter("∞")), _named("T", "")
    return found


def _named(name: str, index: str) -> Symbol:
    """A name as people would write it: alpha_2 is a Greek letter with a label."""
    stem, _, label = name.rstrip("_").partition("_")
    digits = re.fullmatch(r"([A-Za-z]+)(\d+)", stem)
    if digits and not label:
        stem, label = digits.groups()
    letter = _GREEK.get(stem, stem)
    primes = "′" * (len(name) - len(name.rstrip("_")))
    return Symbol(name, Letter(letter, upright=len(letter) > 1), label.replace("_", " "), index, primes)


def _derived(name: str, users: Iterable[str]) -> Symbol:
    """A name that the analysis chose. Those of the backward that begin with d are gradients."""
    stem, digits = re.fullmatch(r"(.*?)(\d*)_*", name, re.DOTALL).groups()  # type: ignore[union-attr]
    if stem in _SHORT and _SHORT[stem] not in users and not name.endswith("_"):
        return Symbol(name, Letter(_SHORT[stem]), digits, "i")
    if stem == "dp":
        return replace(_prefixed("d", _named("p", "ij")), text=name)
    if name.startswith("d_"):
        return replace(_prefixed("d", _named(name[2:], "i")), text=name)
    return _named(name, "i")


def _total_symbol(symbol: Symbol, found: Symbols) -> Symbol:
    """The reduction itself, where the statistic is its logarithm or relative to a pivot."""
    letter = next(letter for letter in ("Z", "R", "S", "T") if letter not in found)
    return Symbol(f"{letter}{symbol.label}", Letter(letter), symbol.label, "i")


def _gradient_symbol(symbol: Symbol) -> Symbol:
    return replace(_prefixed("∇", symbol), text=f"grad({symbol.text})")


def _prefixed(prefix: str, symbol: Symbol) -> Symbol:
    return replace(symbol, text=prefix + symbol.text, base=row(Letter(prefix, upright=True), symbol.base))


def _weights_symbol(users: Iterable[str]) -> Symbol:
    taken = set(users)
    return _named(next(name for name in ("p", "w", "weight", "weights") if name not in taken), "ij")


def _distinct(symbol: Symbol, found: Symbols) -> Symbol:
    """Two names must not look the same: the later one is spelled out."""
    if all(symbol.box != other.box or symbol.text == other.text for other in found.values()):
        return symbol
    return replace(symbol, base=Letter(symbol.text, upright=True), label="", mark="")


def _partial(symbol: Symbol, number: int) -> Symbol:
    """A quantity in one of two partial results."""
    return replace(symbol, text=f"{symbol.text}[{number}]", mark=f"({number})")


def levels(expr: ir.Expr, symbols: Symbols) -> str:
    """The indices over which a formula varies."""
    match expr:
        case ir.Name("qk" | "$dqk"):
            return "ij"
        case ir.Name("i" | "j" as name):
            return name
        case ir.Name(name):
            return symbols[name].index if name in symbols else ""
        case ir.Reduce() | ir.Root():
            return "i"
    inner = "".join(levels(child, symbols) for child in ir.children(expr))
    return "".join(letter for letter in "ij" if letter in inner)
