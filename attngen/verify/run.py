"""Verification of an op: each property on many cases, the smallest failing case of each, and the replay of one.

hypothesis looks for the cases and shrinks those that fail. Equal settings give equal cases: the seed is fixed, nothing
is remembered between runs, and no clock decides.
"""

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Literal

import hypothesis
import hypothesis.errors
from hypothesis import HealthCheck

from attngen import ir
from attngen.build import precision_of
from attngen.verify.approximate import NAMES, names_any
from attngen.verify.case import Case, case_of
from attngen.verify.claims import claimed
from attngen.verify.properties import UNIVERSAL, Property
from attngen.verify.report import Failure, PropertyReport, Report, Verdict
from attngen.verify.strategies import Sizes, cases
from attngen.verify.subject import Op, Subject, subject_of
from attngen.verify.tolerance import Undecided, Violation

Progress = Callable[[str, int], None]  # name of the property, cases done so far

Outcome = Literal["held", "undecided", "failed"]

_SHRINKING = 300  # cases that the search for a smaller failing case may try


@dataclass(frozen=True, slots=True)
class Settings:
    """`only` names the properties to run, all if it is empty; `sizes` is "small" for interpreted kernels."""

    device: str = "cpu"
    examples: int = 50
    seed: int = 0
    sizes: Sizes = "full"
    only: tuple[str, ...] = ()


def verify(
    op: Op | ModuleType, normalizer: ir.Normalizer, settings: Settings = Settings(), progress: Progress | None = None
) -> Report:
    """Hold an op, or the op of a generated module, to the meaning of the normalizer. Raises ValueError for an unknown
    name in `settings.only`.
    """
    subject = _subject(op, normalizer, settings.device)
    wanted = _wanted(normalizer, settings.only)
    reports = tuple(_examine(prop, subject, settings, progress or (lambda name, done: None)) for prop in wanted)
    return Report(normalizer.name, settings.device, settings.seed, reports)


def replay(op: Op | ModuleType, normalizer: ir.Normalizer, text: str, device: str = "cpu") -> PropertyReport:
    """Run the one case of a replay text (`{"property": ..., ...}`). Raises ValueError if the text is not one."""
    given = json.loads(text)
    if not isinstance(given, dict) or not isinstance(given.get("property"), str):
        raise ValueError('a replay is a JSON object with the name of a property as "property"')
    (prop,) = _wanted(normalizer, (given.pop("property"),))
    case = case_of(given)
    subject = _subject(op, normalizer, device)
    reason = prop.obstacle(subject)
    if reason is not None:
        return PropertyReport(prop.name, prop.sentence, "skipped", reason=reason)
    tally = _Tally()
    tally.run(prop, subject, case)
    return tally.report(prop)


def _subject(op: Op | ModuleType, normalizer: ir.Normalizer, device: str) -> Subject:
    subject = subject_of(op, normalizer, device)
    if precision_of(subject.module) == "fast" and not names_any(normalizer):
        known = ", ".join(sorted(NAMES))
        raise ValueError(f"how far the fast form of {normalizer.name} may be off isn't known: it names none of {known}")
    return subject


def property_names(normalizer: ir.Normalizer) -> tuple[str, ...]:
    """The names of the properties that an op of this normalizer is held to."""
    return tuple(prop.name for prop in (*UNIVERSAL, *claimed(normalizer)))


def _wanted(normalizer: ir.Normalizer, only: tuple[str, ...]) -> tuple[Property, ...]:
    every = (*UNIVERSAL, *claimed(normalizer))
    unknown = set(only) - set(property_names(normalizer))
    if unknown:
        known = ", ".join(property_names(normalizer))
        raise ValueError(f"{normalizer.name} has no property '{min(unknown)}'; its properties are {known}")
    return tuple(prop for prop in every if not only or prop.name in only)


def _examine(prop: Property, subject: Subject, settings: Settings, progress: Progress) -> PropertyReport:
    reason = prop.obstacle(subject)
    if reason is not None:
        return PropertyReport(prop.name, prop.sentence, "skipped", reason=reason)
    tally = _Tally()

    def examine(case: Case) -> None:
        if tally.gives_up_shrinking(case):
            return
        outcome = tally.run(prop, subject, case)
        progress(prop.name, tally.examples)
        if outcome == "undecided":
            hypothesis.reject()
        if outcome == "failed":
            raise Violation(tally.failures[case])

    with contextlib.suppress(Violation, hypothesis.errors.Flaky, hypothesis.errors.Unsatisfiable):
        _search(examine, prop, subject, settings)()
    return tally.report(prop)


def _search(
    examine: Callable[[Case], None], prop: Property, subject: Subject, settings: Settings
) -> Callable[[], None]:
    configured = hypothesis.settings(
        max_examples=settings.examples, database=None, deadline=None, report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck), verbosity=hypothesis.Verbosity.quiet,
    )  # fmt: skip
    strategy = cases(subject.normalizer, settings.sizes).map(prop.prepare)
    return hypothesis.seed(settings.seed)(configured(hypothesis.given(strategy)(examine)))


@dataclass(slots=True)
class _Tally:
    """What the cases of one property have shown so far. hypothesis ends with the smallest failing case: `last`."""

    decided: int = 0
    undecided: int = 0
    worst: float = 0.0
    started: float = field(default_factory=time.perf_counter)
    failures: dict[Case, str] = field(default_factory=dict)
    last: Case | None = None
    shrinking: int = 0

    @property
    def examples(self) -> int:
        return self.decided + self.undecided

    def run(self, prop: Property, subject: Subject, case: Case) -> Outcome:
        try:
            self.worst = max(self.worst, prop.check(subject, case))
        except Undecided:
            self.undecided += 1
            return "undecided"
        except Violation as violation:
            self.decided += 1
            self.failures[case], self.last = str(violation), case
            return "failed"
        self.decided += 1
        return "held"

    def gives_up_shrinking(self, case: Case) -> bool:
        """After enough cases every new one counts as held, which ends the search; known failures must fail again."""
        if self.last is None or case in self.failures:
            return False
        self.shrinking += 1
        return self.shrinking > _SHRINKING

    def report(self, prop: Property) -> PropertyReport:
        failure = Failure(self.last, self.failures[self.last]) if self.last is not None else None
        verdict: Verdict = "failed" if failure else "passed" if self.decided else "skipped"
        return PropertyReport(
            prop.name, prop.sentence, verdict, self.decided, self.undecided, time.perf_counter() - self.started,
            self.worst, self._reason(), failure,
        )  # fmt: skip

    def _reason(self) -> str:
        if not self.decided:
            return f"none of {self.undecided} cases has a finite float64 result"
        if self.undecided > self.decided:
            return f"{self.undecided} more have no finite float64 result"
        return ""
