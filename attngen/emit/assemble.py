"""Assembly: `OpPlan` -> the context of the module template, kernel by kernel.

Each kernel's formulas are arranged and printed for it alone, since what can leave a loop depends on which side of the
tile stays. Decides no mathematics; what is summed, saved and handed over stands in the plan.
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from attngen import ir, notation
from attngen.analysis.result import InputGradient, RowSum
from attngen.build import DEFAULT, Build
from attngen.emit import context as ct
from attngen.emit import glossary as gl
from attngen.emit.channels import last_step, output_gradient
from attngen.emit.configs import NATIVE_TILES, configs, is_steady, rows_behind
from attngen.emit.cpp import assemble_cpp
from attngen.emit.fast import FUNCTIONS, printers_for
from attngen.emit.hopper import hopper_text, is_served, without_input_gradients, without_support
from attngen.emit.hopper_backward import backward_text
from attngen.emit.hopper_sums import KeySum, sums_by_keys
from attngen.emit.printers import TORCH, Printer, searching
from attngen.emit.statements import (
    OVER_KEYS,
    OVER_QUERIES,
    SUPPORT,
    Lines,
    Scribe,
    Uses,
    split_uniform,
)
from attngen.schedule import ROOT_TRIALS, OpPlan, has_pairs, sums_of
from attngen.version import __version__

# log(1 + u) / u on [0, 1], highest power first: Chebyshev's fit of degree 9, relative error below 6e-9.
LOG1P_POLYNOMIAL = (
    -0.003176057018,
    0.01954252726,
    -0.05637361283,
    0.105436238,
    -0.1526966707,
    0.1966327426,
    -0.2495161626,
    0.333297105,
    -0.4999989265,
    0.9999999947,
)


def assemble(plan: OpPlan, digest: str, build: Build = DEFAULT) -> ct.ModuleContext:
    """The template's context for `plan`; `digest` identifies the spec in the module's header and its op's name."""
    return _Assembly(plan, build).module(digest)


class _Assembly:
    def __init__(self, plan: OpPlan, build: Build = DEFAULT) -> None:
        self.plan, self.normalizer, self.backward = plan, plan.normalizer, plan.analysis.backward
        self.printers = printers_for(plan, build.precision)
        self.hopper = self.hopper_text() if build.target == "hopper" and is_served(plan) else None
        self.positions = {i.name: n for n, i in enumerate(self.normalizer.inputs)}

    def module(self, digest: str) -> ct.ModuleContext:
        plan, normalizer = self.plan, self.normalizer
        forward, query, key, portable = self.forward(), self.query(), self.key(), self.portable()
        back = output_gradient(plan)
        pairs = tuple(self.pair(g) for g in plan.pair_gradients)
        functions = _device_functions((forward, query, key, pairs, self.hopper))
        return ct.ModuleContext(
            name=normalizer.name,
            version=__version__,
            digest=digest,
            title=gl.docstring_text((normalizer.title or f"{normalizer.name} attention").rstrip(".")),
            formula=gl.docstring_text(gl.formula(plan)),
            reference=gl.docstring_text(normalizer.reference),
            score=notation.text(normalizer.score),
            glossary=gl.glossary(plan),
            forward_formulas=gl.forward_formulas(plan),
            backward_formulas=gl.backward_formulas(plan),
            functions=functions,
            fast=not functions.isdisjoint(FUNCTIONS),
            portable_functions=_device_functions((portable, back)),
            log1p_polynomial=LOG1P_POLYNOMIAL,
            dp=self.backward.dp,
            delta=self.backward.delta,
            aux=tuple(ct.AuxText(a.name, gl.aux_doc(plan, a), 1 + plan.saved_rows.index(a.row)) for a in plan.aux),
            saved_rows=plan.saved_rows,
            saved_accumulators=plan.saved_accumulators,
            handed_over=plan.handed_over,
            products=self.products(),
            row_values=self.row_values(),
            forward=forward,
            query=query,
            key=key,
            pairs=pairs,
            portable=portable,
            cpp=assemble_cpp(plan),
            native_tiles=NATIVE_TILES,
            hopper=self.hopper,
            kernel_names=self.kernel_names(),
            configs=configs(plan),
            behind=rows_behind(plan),
            resting=plan.telling if is_steady(plan) else (),
            inputs=tuple(self.input_text(i) for i in normalizer.inputs),
            input_axes=tuple(i.axes for i in normalizer.inputs),
            gradient_places=tuple((self.positions[g.name], g.level) for g in self.gradient_order()),
            output_gradient=back,
            root_trials=ROOT_TRIALS,
            uses_math=any(
                p.root or p.pivots or any(c.kind != "sum" for c in p.carries) for p in plan.analysis.forward.passes
            ),
        )

    def gradient_order(self) -> tuple[InputGradient, ...]:
        return self.plan.row_gradients + self.plan.key_gradients + self.plan.pair_gradients

    def kernel_names(self) -> tuple[str, ...]:
        name = self.normalizer.name
        pairs = (f"{name}_backward_pair_{g.name}" for g in self.plan.pair_gradients)
        hopper = [f"{name}_forward_hopper"] if self.hopper else []
        hopper += [f"{name}_forward_hopper_solo"] if self.hopper and self.hopper.solo else []
        hopper += [f"{name}_backward_hopper"] if self.hopper and self.hopper.backward else []
        return f"{name}_forward", f"{name}_backward_query", f"{name}_backward_key", *pairs, *hopper

    def hopper_text(self) -> ct.HopperText:
        forward = _Assembly(without_support(self.plan)).forward(self.printers.hopper, searching(self.printers.hopper))
        if has_pairs(self.plan):  # which the backward kernel doesn't bring
            return hopper_text(forward, None, self.plan.telling)
        plan = without_input_gradients(without_support(self.plan))
        key = _Assembly(plan).key(self.printers.hopper_keys, sums_by_keys(self.plan))
        rows, dq_factor = [value.name for value in self.row_values()], split_uniform(self.backward.dqk)[0]
        backward = backward_text(key, self.backward.dp, rows, _uniform_text(self.plan, dq_factor))
        return hopper_text(forward, backward, self.plan.telling)

    def products(self) -> tuple[ct.Product, ...]:
        saved = (*self.plan.saved_rows, *self.plan.saved_accumulators)
        return tuple(ct.Product(p.name, p.accumulator, saved.index(p.accumulator)) for p in self.backward.products)

    def row_values(self) -> tuple[ct.RowValue, ...]:
        """What the key and pair kernels read per row: saved by the forward or handed over by the query kernel."""
        saved = tuple(ct.RowValue(name, f"saved[{n}]") for n, name in enumerate(self.plan.saved_rows))
        return saved + tuple(ct.RowValue(name, name) for name in self.plan.handed_over)

    def input_text(self, spec_input: ir.Input) -> ct.InputText:
        default = "" if spec_input.default is None else _uniform_text(self.plan, spec_input.default)
        shown = "" if spec_input.default is None else notation.text(spec_input.default)
        return ct.InputText(spec_input.name, spec_input.axes, gl.input_doc(spec_input), default, shown)

    def kernel_use(self, uses: Iterable[Uses]) -> ct.KernelUse:
        total = Uses(frozenset(), ())
        for use in uses:
            total |= use
        return ct.KernelUse(tuple(sorted(total.inputs, key=lambda i: i.position)), total.builtins)

    def forward(self, given: Printer | None = None, searching: Printer | None = None) -> ct.ForwardText:
        """`searching` prints the trials of searches, if not the same printer does."""
        printer = given or _forward_printer(self.printers.forward, self.normalizer)
        scribe, of_trials = (Scribe(self.plan, p, OVER_KEYS) for p in (printer, searching or printer))
        passes = tuple(
            (of_trials if this.root else scribe).forward_pass(n)
            for n, this in enumerate(self.plan.analysis.forward.passes)
        )
        lines = scribe.output()
        terms = tuple(
            ct.Term(a.name, _factor(lines.text[f"{a.name}_factor"], self.is_row(f), printer))
            for a, f in zip(self.plan.analysis.forward.accumulators, self.plan.analysis.forward.factors, strict=True)
        )
        last = last_step(self.plan, printer)
        step, uses = last if last else (None, lines.uses)
        kernel = self.kernel_use([*(p.uses for p in passes), lines.uses, uses])
        name = self.plan.analysis.output.name if self.plan.analysis.output else "out"
        return ct.ForwardText(passes, ct.Output(lines.outer + lines.inner, terms, name, step), kernel)

    def is_row(self, expr: ir.Expr) -> bool:
        """Whether a row-level formula really varies from row to row."""
        rows = {i.name for i in self.normalizer.inputs if "query" in i.axes} | {"i", "n"}
        for forward_pass in self.plan.analysis.forward.passes:
            rows |= {c.name for c in forward_pass.carries} | {p.name for p in forward_pass.pivots}
            rows |= {s.name for s in forward_pass.statistics}
        return not rows.isdisjoint(ir.names(expr))

    def query(self) -> ct.QueryText:
        scribe, deferred = Scribe(self.plan, self.printers.rows, OVER_KEYS), self.plan.deferred
        factor, dqk = split_uniform(deferred.own if deferred else self.backward.dqk)
        rows = deferred.inputs if deferred else self.plan.row_gradients
        prepass, targets, factors = self.backward.prepass, {"dqk": dqk}, {"factor": factor}
        if deferred:
            late_factor, targets["late"] = split_uniform(deferred.slope)
            factors["late_factor"] = ir.apply("mul", late_factor, ir.Name(deferred.late))
        main = self.section(scribe, targets, (prepass if deferred else ()) + sums_of(rows))
        first = self.section(scribe, {}, prepass, "a") if prepass and not deferred else None
        last = self.row_epilogue(scribe, factors, rows)
        uses = [main.uses, last.uses] + ([first.uses] if first else [])
        gradients = tuple(ct.GradientText(g.name, last.text[_value(g)]) for g in rows)
        epilogue = ct.Epilogue(last.outer + last.inner, last.text["factor"], last.text.get("late_factor", ""))
        return ct.QueryText(self.kernel_use(uses), first, main, epilogue, gradients)

    def row_epilogue(self, scribe: Scribe, factors: dict[str, ir.Expr], gradients: tuple[InputGradient, ...]) -> Lines:
        sums = {s.name: scribe.loop.row for s in sums_of(gradients)}
        return scribe.lines(factors | {_value(g): g.value for g in gradients}, sums, "u")

    def section(
        self, scribe: Scribe, targets: dict[str, ir.Expr], sums: tuple[RowSum, ...], prefix: str = "t"
    ) -> ct.Section:
        """A loop that may pass over tiles."""
        lines = scribe.lines(scribe.support() | targets | {_term(s): s.body for s in sums}, None, prefix)
        texts = {name: lines.tile[name] for name in ("dqk", "late", "weight", "value") if name in targets}
        summands = tuple(ct.Summand(s.name, lines.tile[_term(s)]) for s in sums)
        support = lines.tile.get(SUPPORT, "")
        return ct.Section(lines.outer, lines.leading, lines.inner, lines.uses, summands, support, **texts)

    def key(self, given: Printer | None = None, sums: tuple[KeySum, ...] = ()) -> ct.KeyText:
        """`sums` are gradients of inputs beside those of the plan."""
        scribe = Scribe(self.plan, given or self.printers.keys, OVER_QUERIES)
        factor, dqk = split_uniform(self.backward.dqk)
        targets = {"weight": self.backward.weights, "dqk": dqk}
        values = {_value(g): g.value for g in self.plan.key_gradients} | {_value(s): s.factor for s in sums}
        lines = scribe.lines(scribe.support() | targets | values)
        texts = {name: lines.tile[name] for name in targets}
        support = lines.tile.get(SUPPORT, "")
        main = ct.Section(lines.outer, lines.leading, lines.inner, lines.uses, (), support, **texts)
        last = scribe.lines({"factor": factor}, None, "u")
        gradients = tuple(ct.GradientText(g.name, lines.tile[_value(g)]) for g in self.plan.key_gradients)
        kernel = self.kernel_use([lines.uses, last.uses])
        epilogue = ct.Epilogue(last.outer + last.inner, last.text["factor"])
        factors = tuple(ct.GradientText(s.name, lines.text[_value(s)]) for s in sums)
        return ct.KeyText(kernel, main, epilogue, gradients, factors)

    def pair(self, gradient: InputGradient) -> ct.PairText:
        scribe = Scribe(self.plan, self.printers.rows, OVER_KEYS)
        main = self.section(scribe, {"value": gradient.value}, ())
        return ct.PairText(self.kernel_use([main.uses]), main, self.pair_gradient(gradient, ""))

    def pair_gradient(self, gradient: InputGradient, text: str) -> ct.GradientText:
        axes = self.normalizer.inputs[self.positions[gradient.name]].axes
        sizes = {"batch": "batch", "head": "heads", "kv_head": "kv_heads", "query": "n_q", "key": "n_k"}
        head = next((axis for axis in axes if axis in ("head", "kv_head")), "")
        lacks = tuple(axis for axis, here in (("batch", "batch" in axes), ("head", bool(head))) if not here)
        shape = ", ".join(sizes[axis] for axis in axes)
        return ct.GradientText(gradient.name, text, "batch" in axes, head, lacks, shape)

    def portable(self) -> ct.PortableText:
        scribe = Scribe(self.plan, TORCH, OVER_KEYS)
        columns, pairs = self.plan.key_gradients, self.plan.pair_gradients
        targets = {"weight": self.backward.weights, "dqk": self.backward.dqk}
        targets |= {_value(g): g.value for g in columns + pairs}
        targets |= {_term(s): s.body for s in self.plan.row_sums}
        lines = scribe.lines(targets)
        sums = tuple(ct.Summand(s.name, lines.tile[_term(s)]) for s in self.plan.row_sums)
        texts = {name: lines.tile[name] for name in ("weight", "dqk")}
        main = ct.Section(lines.outer, (), lines.inner, lines.uses, sums, **texts)
        prepass = self.section(scribe, {}, self.backward.prepass, "a") if self.backward.prepass else None
        last = self.row_epilogue(scribe, {}, self.plan.row_gradients)
        return ct.PortableText(
            forward=self.forward(TORCH),
            prepass=prepass,
            main=main,
            uses=self.kernel_use([lines.uses, last.uses] + ([prepass.uses] if prepass else [])),
            epilogue=last.outer + last.inner,
            row_gradients=tuple(ct.GradientText(g.name, last.text[_value(g)]) for g in self.plan.row_gradients),
            key_gradients=tuple(ct.GradientText(g.name, lines.tile[_value(g)]) for g in columns),
            pair_gradients=tuple(self.pair_gradient(g, lines.tile[_value(g)]) for g in pairs),
            saved_texts=tuple(f"{name}[..., 0]" for name in self.plan.saved_rows) + self.plan.saved_accumulators,
            returns=tuple(self.portable_return(g) for g in self.gradient_order()),
        )

    def portable_return(self, gradient: InputGradient) -> str:
        name = f"d_{gradient.name}"
        if gradient.level == "row":
            return f"torch.cat({name}_rows, dim=2)"
        if gradient.level == "key":
            return f"torch.cat({name}_keys, dim=-1).squeeze(2)"
        return f"_own_axes(torch.cat({name}_rows, dim=2), INPUT_AXES[{self.positions[gradient.name]}], group)"


def _value(gradient: InputGradient | KeySum) -> str:
    return f"{gradient.name}_gradient"


def _term(row_sum: RowSum) -> str:
    return f"{row_sum.name}_term"


def _forward_printer(printer: Printer, normalizer: ir.Normalizer) -> Printer:
    """Where formulas know scale and qk as the score scale * qk alone, the signs of both can change."""
    used = ir.names(normalizer.weights) | ir.names(normalizer.output)
    is_product = normalizer.score == ir.Apply("mul", (ir.Name("scale"), ir.Name("qk")))
    plain = is_product and used.isdisjoint({"scale", "qk"})
    return printer if plain else replace(printer, positive=frozenset())


def _factor(text: str, is_row: bool, printer: Printer) -> str:
    """A factor as it multiplies an accumulator of many channels."""
    return printer.column(text) if is_row else text


def _uniform_text(plan: OpPlan, expr: ir.Expr) -> str:
    """A formula of sizes alone, as Python text."""
    return Scribe(plan, TORCH, OVER_KEYS).inline(expr)


def _device_functions(texts: object) -> frozenset[str]:
    """The device functions that any printed line calls."""
    return frozenset(re.findall(r"(?<![\w.])(_\w+)\(", repr(texts)))
