"""The compiler on one screen: spec text -> normalizer -> analysis -> plan -> source, each stage a pure function.

Nothing here imports torch or triton, reads a clock or the environment. Before any text is written the plan is executed
on random rows and compared with the formula: see `attngen.selfcheck`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from attngen.analysis.analyze import analyze
from attngen.analysis.result import Analysis
from attngen.build import DEFAULT, Build
from attngen.diagnostics import SpecError
from attngen.emit.assemble import assemble
from attngen.emit.render import render
from attngen.ir import Normalizer
from attngen.schedule import OpPlan, schedule
from attngen.selfcheck.check import check_plan
from attngen.spec.lower import read_spec
from attngen.stagetext import STAGES, stage_as_text
from attngen.version import __version__


@dataclass(frozen=True, slots=True)
class Compilation:
    """What each stage made of one spec."""

    text: str
    normalizer: Normalizer
    analysis: Analysis
    plan: OpPlan
    source: str


def compile_spec(
    text: str, path: str, statics: Mapping[str, str] = MappingProxyType({}), build: Build = DEFAULT
) -> Compilation:
    """Compile a spec's text; `path` names it in messages, `statics` sets its static inputs, `build` says for what.

    Raises SpecError for a mistake in the spec, InternalError if the plan disagrees with its formula.
    """
    normalizer = read_spec(text, path, statics)
    try:
        analysis = analyze(normalizer)
        plan = schedule(normalizer, analysis)
        check_plan(plan)
    except SpecError as mistake:
        raise mistake.located(path, text) from None
    return Compilation(text, normalizer, analysis, plan, render(assemble(plan, digest(normalizer), build)))


def digest(normalizer: Normalizer) -> str:
    """Identifies what a spec means, and the version that compiled it, in eight hexadecimal digits."""
    return hashlib.sha256(f"{__version__} {normalizer}".encode()).hexdigest()[:8]


def stage_text(compilation: Compilation, stage: str) -> str:
    """One of `STAGES` as text; the same text that the golden tests hold."""
    match stage:
        case "spec":
            return compilation.text
        case "ir":
            return stage_as_text(compilation.normalizer)
        case "analysis":
            return stage_as_text(compilation.analysis)
        case "plan":
            return stage_as_text(compilation.plan)
        case "source":
            return compilation.source
    raise ValueError(f"no stage is called {stage!r}; there are {', '.join(STAGES)}")
