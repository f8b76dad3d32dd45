"""The C++ target: `OpPlan` -> the context of `templates/cpp`.

What differs from Triton is where values live. A tile has lines and lanes, the forward's lines being queries and the
backward's keys; so what varies with the query or the key alone is computed once per block, a vector at a time, and kept
in arrays, from which a tile spreads or loads it. No mathematics is decided here.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from attngen import ir
from attngen.analysis.result import InputGradient, RowSum
from attngen.emit import cpp_context as ct
from attngen.emit.arrange import Place
from attngen.emit.channels import last_step
from attngen.emit.lines import computed
from attngen.emit.printers import CPP
from attngen.emit.statements import (
    OVER_KEYS,
    OVER_QUERIES,
    SUPPORT,
    InputUse,
    PassText,
    RootText,
    Scribe,
    split_uniform,
)
from attngen.schedule import OpPlan

SIZES = frozenset({"LOG2E", "scale", "head_dim", "query_count", "key_count"})  # what no input enters
_NAME = re.compile(r"[A-Za-z_]\w*")


def assemble_cpp(plan: OpPlan) -> ct.CppSource:
    """What `templates/cpp` prints for `plan`."""
    return _CppAssembly(plan).source()


def names_in(texts: Iterable[str]) -> frozenset[str]:
    """The identifiers of lines of C++."""
    return frozenset(name for text in texts for name in _NAME.findall(text))


@dataclass(frozen=True, slots=True)
class _Sorted:
    """The lines of a loop by what they vary with. Those of a head alone count among a query's."""

    constants: tuple[str, ...]
    row: tuple[str, ...]
    key: tuple[str, ...]
    pair: tuple[str, ...]


def _targets(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(map(computed, lines))


class _CppAssembly:
    def __init__(self, plan: OpPlan) -> None:
        self.plan, self.backward = plan, plan.analysis.backward
        self.over_keys, self.over_queries = Scribe(plan, CPP, OVER_KEYS), Scribe(plan, CPP, OVER_QUERIES)
        inputs = tuple(self.over_keys.inputs.values())
        self.row_inputs = tuple(i for i in inputs if i.level in ("row", "uniform"))
        self.key_inputs = tuple(i for i in inputs if i.level == "key")
        self.pair_inputs = tuple(i for i in inputs if i.level == "pair")
        self.uniform = frozenset(f"{i.name}_in" for i in inputs if i.level == "uniform")
        self.key_level = frozenset({"j", *(f"{i.name}_in" for i in self.key_inputs)})
        self.row_level = frozenset({"i", "n", *(f"{i.name}_in" for i in self.row_inputs), *self._row_values()})

    def _row_values(self) -> tuple[str, ...]:
        """Row values of forward and backward that a block of queries keeps in arrays."""
        forward = self.plan.analysis.forward
        names = [*self.plan.saved_rows, *([self.backward.delta] if self.backward.delta else [])]
        for this in forward.passes:
            names += [p.name for p in this.pivots] + [c.name for c in this.carries] + [s.name for s in this.statistics]
        names += [p.name for p in self.backward.products]
        names += [s.name for s in self.backward.prepass + self.plan.row_sums]
        return tuple(dict.fromkeys(names))

    def source(self) -> ct.CppSource:
        passes = tuple(self.forward_pass(n) for n in range(len(self.plan.analysis.forward.passes)))
        prepass = self.section({}, self.backward.prepass, (), "a") if self.backward.prepass else None
        support = self.over_queries.support()
        supported = self.section(support, (), (), "h") if support else None
        pairs = tuple(self.pair(g) for g in self.plan.pair_gradients)
        main, (epilogue, row_gradients), (output, terms) = self.main(), self.epilogue(), self.output()
        step = self.step()
        sections = (*(s for s in (supported, prepass) if s), main, *(p.section for p in pairs))
        tiles: tuple[ct.CppPass | ct.CppSection, ...] = (*passes, *sections)
        of_rows = [*(t.start for t in tiles), *(p.statistics for p in passes), output]
        used = names_in([repr((tiles, of_rows, pairs, epilogue, row_gradients, step))])
        return ct.CppSource(
            functions=used,
            row_names=self.row_names(of_rows, passes, used),
            key_names=_ordered(_stored(t.keys for t in tiles) | self.key_level & used),
            row_inputs=self.row_inputs,
            gradients=tuple(g.name for g in self.gradients()),
            stackable=self.stackable(passes),
            passes=passes,
            accumulators=passes[-1].accumulators,
            output=output,
            terms=terms,
            step=step,
            support=supported,
            prepass=prepass,
            main=main,
            pairs=pairs,
            epilogue=epilogue,
            row_gradients=row_gradients,
        )

    def gradients(self) -> tuple[InputGradient, ...]:
        return self.plan.row_gradients + self.plan.key_gradients + self.plan.pair_gradients

    def row_names(
        self, of_rows: Iterable[ct.Vectors], passes: tuple[ct.CppPass, ...], used: frozenset[str]
    ) -> tuple[str, ...]:
        names = _stored(of_rows) | set(self._row_values()) | {"i", "n"} & used
        names |= {rescale for this in passes for pivot in this.pivots for rescale, _ in pivot.rescales}
        names |= {f"{i.name}_in" for i in self.row_inputs} | {f"d_{g.name}_in" for g in self.plan.row_gradients}
        return _ordered(names)

    def stackable(self, passes: tuple[ct.CppPass, ...]) -> bool:
        """Whether queries of several heads may share a block: nothing that varies with the key does with the head."""
        by_head = any("head" in i.axes for i in self.key_inputs)
        return not by_head and not any(p.keys.spread or p.uniform_spread for p in passes)

    # Sorting lines by what they vary with

    def sort(self, lines: Iterable[str], places: Mapping[str, Place]) -> _Sorted:
        by_head = set(self.uniform)
        found: dict[str, list[str]] = {"constants": [], "row": [], "key": [], "pair": []}
        for line in lines:
            place = places[computed(line)]
            if place.row or place.key:
                level = "pair" if place.row and place.key else "row" if place.row else "key"
            else:
                level = "constants" if by_head.isdisjoint(names_in([line])) else "row"
                by_head |= {computed(line)} if level == "row" else set()
            found[level].append(line)
        return _Sorted(**{level: tuple(items) for level, items in found.items()})

    def vectors(self, lines: tuple[str, ...], stores: Iterable[ct.Named]) -> ct.Vectors:
        """Formulas of queries."""
        used = names_in([*lines, *(text for _, text in stores)])
        return ct.Vectors(
            used & SIZES, (), _ordered(used & self.row_level - set(_targets(lines))), lines, tuple(stores)
        )

    def arrays(self, split: _Sorted) -> tuple[ct.Vectors, ct.Vectors]:
        """What is computed per block of queries and per block of keys, and kept."""
        of_row, of_key = _targets(split.row), _targets(split.key)
        rows = self.vectors(split.constants + split.row, [(n, n) for n in of_row])
        lines = split.constants + split.key
        used = names_in(lines)
        spread = _ordered(used & (self.row_level | set(of_row)))
        loads = _ordered(used & self.key_level)
        keys = ct.Vectors(used & SIZES, spread, loads, lines, tuple((n, n) for n in of_key))
        return (rows if of_row else _NOTHING), (keys if of_key else _NOTHING)

    def levels(self, split: _Sorted) -> tuple[frozenset[str], frozenset[str]]:
        """What a loop's tiles find in arrays: names of queries, names of keys."""
        return self.row_level | set(_targets(split.row)), self.key_level | set(_targets(split.key))

    # Forward

    def forward_pass(self, index: int) -> ct.CppPass:
        text = self.over_keys.forward_pass(index)
        places = self.over_keys.pass_places(index)
        early, late = self.sort((*text.outer, *text.before), places), self.sort(text.after, places)
        start, keys = self.arrays(early)
        of_row, of_key = self.levels(early)
        pivoted = names_in([*early.pair, *(p.exponent for p in text.pivots)])
        summed = names_in([*_bodies(text), text.support]) | names_in([*early.pair, *late.row, *late.pair])
        inner = frozenset(_targets(late.row)) | {p.name for p in text.pivots}
        columns = names_in(a.column for a in text.accumulators if a.by_columns)
        return ct.CppPass(
            builtins=(pivoted | summed | names_in(early.constants) | _pivot_names(text)) & SIZES,
            constants=early.constants,
            start=start,
            keys=keys,
            key_inputs=self.used_inputs(self.key_inputs, summed | pivoted | names_in(early.key)),
            pair_inputs=self.used_inputs(self.pair_inputs, summed | pivoted),
            spread=_ordered((pivoted | summed) & of_row - inner),
            uniform_spread=_ordered(columns & of_row),
            pivot_loads=_ordered(pivoted & of_key),
            key_loads=_ordered(summed & of_key),
            column_loads=_ordered(columns & of_key),
            uses_qk="qk" in summed,
            before=early.pair,
            pivots=text.pivots,
            late=late.row,
            after=late.pair,
            carries=text.carries,
            accumulators=self.accumulators(text),
            support=text.support,
            search=self.search(text.root) if text.root else None,
            statistics=self.statistics(index, text.statistics),
        )

    def accumulators(self, text: PassText) -> tuple[ct.CppAccumulator, ...]:
        first = next((a.name for a in text.accumulators if not a.by_columns), None)
        return tuple(
            ct.CppAccumulator(a.name, a.body, a.column, a.rescale, a.by_columns, a.name == first)
            for a in text.accumulators
        )

    def statistics(self, index: int, lines: tuple[str, ...]) -> ct.Vectors:
        """What replaces a carry of the same name is stored as it is computed: a variable can't be of itself."""
        names = [s.name for s in self.plan.analysis.forward.passes[index].statistics]
        text = {computed(line): line.split(" = ", 1)[1] for line in lines}
        renewed = {name for name in names if name in text and name in names_in([text[name]])}
        others = tuple(line for line in lines if computed(line) not in renewed)
        return self.vectors(others, tuple((n, text[n] if n in renewed else n) for n in names if n in text))

    def search(self, root: RootText) -> ct.CppSearch:
        bounds = {"low": root.low, "high": root.high}
        trial = {what: getattr(root, what) for what in ("residual", "slope", "curvature", "magnitude", "size")}
        of_bounds, of_trial = (
            self.vectors(lines, [(f"{root.name}_search.{name}", text) for name, text in stores.items()])
            for lines, stores in ((root.bounds, bounds), (root.lines, trial))
        )
        return ct.CppSearch(root.name, root.direction, of_bounds, of_trial)

    def output(self) -> tuple[ct.Vectors, tuple[ct.CppTerm, ...]]:
        forward = self.plan.analysis.forward
        lines = self.over_keys.output()
        pairs = zip(forward.accumulators, forward.factors, strict=True)
        scaled = {a.name: factor != ir.number(1) for a, factor in pairs}
        stores = tuple((f"{n}_factor", lines.text[f"{n}_factor"]) for n, is_scaled in scaled.items() if is_scaled)
        return self.vectors(lines.outer + lines.inner, stores), tuple(ct.CppTerm(*item) for item in scaled.items())

    def step(self) -> ct.CppStep | None:
        last = last_step(self.plan, CPP)
        if last is None or self.plan.analysis.output is None:
            return None
        step, _ = last
        lines = [*(line for s in step.sums for line in s.lines), *step.lines]
        used = names_in([*lines, *(s.body for s in step.sums), step.value])
        rows = used & self.row_level - {*_targets(lines), *(s.name for s in step.sums)}
        return ct.CppStep(self.plan.analysis.output.name, used & SIZES, _ordered(rows), step)

    # Backward

    def main(self) -> ct.CppSection:
        targets = {"weight": self.backward.weights, "dqk": split_uniform(self.backward.dqk)[1]}
        return self.section(targets, self.plan.row_sums, self.plan.key_gradients, "t")

    def section(
        self,
        targets: dict[str, ir.Expr],
        sums: tuple[RowSum, ...],
        gradients: tuple[InputGradient, ...],
        prefix: str,
    ) -> ct.CppSection:
        terms = {f"{s.name}_term": s.body for s in sums} | {f"{g.name}_gradient": g.value for g in gradients}
        lines = self.over_queries.lines(targets | terms, None, prefix)
        split = self.sort((*lines.outer, *lines.leading, *lines.inner), lines.places)
        start, keys = self.arrays(split)
        of_row, of_key = self.levels(split)
        used = names_in([*split.pair, *lines.text.values()])
        return ct.CppSection(
            builtins=(used | names_in(split.constants)) & SIZES,
            constants=split.constants,
            start=start,
            keys=keys,
            key_inputs=self.used_inputs(self.key_inputs, used | names_in(split.key)),
            pair_inputs=self.used_inputs(self.pair_inputs, used),
            spread=_ordered(used & of_key),
            loads=_ordered(used & of_row),
            uses_qk="qk" in used,
            uses_dp=self.backward.dp in used,
            lines=split.pair,
            weight=lines.text.get("weight", ""),
            dqk=lines.text.get("dqk", ""),
            support=lines.text.get(SUPPORT, ""),
            sums=tuple(ct.CppText(s.name, lines.text[f"{s.name}_term"]) for s in sums),
            key_gradients=tuple(ct.CppText(g.name, lines.text[f"{g.name}_gradient"]) for g in gradients),
        )

    def pair(self, gradient: InputGradient) -> ct.CppPair:
        axes = self.over_keys.inputs[gradient.name].axes
        section = self.section({}, (), (gradient,), f"{gradient.name}_t")
        head_axis = next((axis for axis in axes if axis in ("head", "kv_head")), "")
        text = section.key_gradients[0].text
        shape = ct.CppPairGradient(gradient.name, text, head_axis, "batch" in axes)
        return ct.CppPair(replace(section, key_gradients=()), shape)

    def epilogue(self) -> tuple[ct.CppEpilogue, tuple[ct.CppText, ...]]:
        scribe, gradients = self.over_queries, self.plan.row_gradients
        sums = {s.name: scribe.loop.row for s in self.plan.row_sums}
        targets = {"factor": split_uniform(self.backward.dqk)[0]}
        lines = scribe.lines(targets | {f"{g.name}_gradient": g.value for g in gradients}, sums, "u")
        texts = tuple(ct.CppText(g.name, lines.text[f"{g.name}_gradient"]) for g in gradients)
        split = self.sort((*lines.outer, *lines.inner), lines.places)
        used = names_in([*split.row, *(t.body for t in texts)])
        loads = _ordered(used & self.row_level - set(_targets(split.row)))
        sizes = (used | names_in([*split.constants, lines.text["factor"]])) & SIZES
        return ct.CppEpilogue(sizes, split.constants, loads, split.row, lines.text["factor"]), texts

    def used_inputs(self, inputs: tuple[InputUse, ...], names: frozenset[str]) -> tuple[InputUse, ...]:
        return tuple(i for i in inputs if f"{i.name}_in" in names)


_NOTHING = ct.Vectors(frozenset(), (), (), (), ())


def _bodies(text: PassText) -> list[str]:
    return [c.body for c in text.carries] + [a.column if a.by_columns else a.body for a in text.accumulators]


def _pivot_names(text: PassText) -> frozenset[str]:
    return names_in(factor for p in text.pivots for _, factor in p.rescales)


def _stored(blocks: Iterable[ct.Vectors]) -> frozenset[str]:
    return frozenset(name for block in blocks for name, _ in block.stores)


def _ordered(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names))
