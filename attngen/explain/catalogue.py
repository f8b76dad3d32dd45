"""The page of all shipped normalizers, `docs/normalizers.md`: from their specs and plans to one Markdown document.

A table of what each costs, then each spec with the comments in it. Formulas stand as their specs have them; nothing is
derived here.
"""

import re
from collections.abc import Iterable

from attngen import ir
from attngen.pipeline import Compilation
from attngen.schedule import OpPlan, formulas_of_output_gradient, root_passes

_INTRODUCTION = """# Normalizers

Made from `specs/` by `attngen list --markdown`; a test holds it current. The language is that of `docs/language.md`.

- **Class**: *elementwise*, a weight depends on its own score alone; *ratio*, over a sum of the row; *shift-invariant
  ratio*, one with exponentials, relative to a maximum; *affine*, several weighted sums with factors of the row;
  *staged*, a nonlinearity behind a normalization; *implicit*, with a row value that is the root of an equation.
- **Passes** over the keys in the forward kernel. The scores are computed anew in each. A root's pass is walked once for
  each trial.
- **Products** (GEMMs) over all pairs of query and key: of the forward kernel, and of the backward's query and key
  kernels, with one more kernel for each input that has a query and a key axis. Written-out attention takes 2 and 5,
  with all weights in memory. A weight that is the same for all rows takes no product on wholly visible tiles. *T*
  is the number of walks that the search for a root takes.
- **Saved** for the backward beside query, key, value and inputs: `out`, the output itself; a float32 number of each row
  by its name; `acc`, a float32 tensor as large as the output; `o`, such a tensor as well, the weighted sum where a step
  follows it.

| normalizer | class | passes | products forward | backward | saved |
|---|---|---|---|---|---|
"""


def catalogue(compilations: Iterable[Compilation]) -> str:
    """The page, with the specs in the order given."""
    made = tuple(compilations)
    rows = "\n".join(map(_row, made))
    sections = "\n\n".join(map(_section, made))
    return f"{_INTRODUCTION}{rows}\n\n{sections}\n"


def _row(compilation: Compilation) -> str:
    plan = compilation.plan
    name, costs = plan.normalizer.name, plan.costs
    backward = [costs.backward_query, costs.backward_key, *(costs.backward_pair for _ in plan.pair_gradients)]
    cells = (
        f"[`{name}`](#{name})",
        plan.analysis.kind,
        str(len(plan.analysis.forward.passes)),
        forward_products(plan),
        " + ".join(map(str, backward)),
        ", ".join(f"`{saved}`" for saved in saved_tensors(plan)) or "nothing",
    )
    return f"| {' | '.join(cells)} |"


def forward_products(plan: OpPlan) -> str:
    """How many products the forward takes, `T` being the trials of its roots."""
    trials = root_passes(plan)
    return f"{plan.costs.forward - trials} + {'' if trials == 1 else trials}T" if trials else str(plan.costs.forward)


def saved_tensors(plan: OpPlan) -> tuple[str, ...]:
    """What the forward stores for the backward alone: the output, row values, accumulators."""
    backward = plan.analysis.backward
    exprs = [backward.weights, backward.dqk, *(p.body for p in backward.prepass)]
    exprs += [g.value for g in backward.inputs] + [s.body for g in backward.inputs for s in g.sums]
    exprs += formulas_of_output_gradient(plan.analysis.output) if plan.analysis.output else []
    used = frozenset().union(*map(ir.names, exprs))
    output = ("out",) if backward.delta and not plan.analysis.output else ()
    return (*output, *(name for name in plan.saved_rows if name in used), *plan.saved_accumulators)


def _section(compilation: Compilation) -> str:
    """Heading, title with reference, the spec's comments as text, and the spec without them."""
    normalizer = compilation.normalizer
    title = f"**{normalizer.title}.**" + (f" {_reference(normalizer.reference)}." if normalizer.reference else "")
    lines = compilation.text.splitlines()
    comments = " ".join(line[1:].strip() for line in lines if line.startswith("#"))
    formula = "\n".join(line for line in lines if not re.match(r"#|(name|title|reference|claims):", line))
    parts = [f"## {normalizer.name}", title, comments, f"```yaml\n{formula}\n```"]
    return "\n\n".join(part for part in parts if part)


def _reference(text: str) -> str:
    """A paper on arXiv as a link."""
    found = re.fullmatch(r"arXiv:(\d+\.\d+)", text)
    return f"[{text}](https://arxiv.org/abs/{found[1]})" if found else text
