"""What a verification found, as values and as text for people: a line per property, and for each failure its smallest
case as a table with the command that replays it.
"""

from dataclasses import dataclass, fields
from typing import Literal

from attngen.verify.case import Case

Verdict = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Failure:
    """The smallest case that was found to break the property, and how it does."""

    case: Case
    message: str


@dataclass(frozen=True, slots=True)
class PropertyReport:
    """`worst` is the largest error seen, in units of the tolerance; `undecided` counts cases with no finite result."""

    name: str
    sentence: str
    verdict: Verdict
    examples: int = 0
    undecided: int = 0
    seconds: float = 0.0
    worst: float = 0.0
    reason: str = ""
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """The verification of one op."""

    name: str
    device: str
    seed: int
    properties: tuple[PropertyReport, ...]

    @property
    def passed(self) -> bool:
        return all(prop.verdict != "failed" for prop in self.properties)


def render(report: Report, spec: str | None = None) -> str:
    """The report as text; `spec` is what the replay command names, the op's name if it is left out."""
    width = max((len(prop.name) for prop in report.properties), default=0)
    lines = [f"{report.name} on {report.device}, seed {report.seed}", ""]
    lines += [_line(prop, width) for prop in report.properties]
    for prop in report.properties:
        if prop.failure is not None:
            lines += ["", *_render_failure(prop, prop.failure, spec or report.name)]
    return "\n".join([*lines, "", _summary(report)])


def _line(prop: PropertyReport, width: int) -> str:
    start = f"  {prop.verdict:<7}  {prop.name:<{width}}"
    if prop.verdict == "skipped":
        return f"{start}  {prop.reason}"
    worst = f", worst error {prop.worst:.2f} of the tolerance" if prop.worst > 0 else ""
    reason = f", {prop.reason}" if prop.reason else ""
    return f"{start}  {prop.examples} cases in {prop.seconds:.1f} s{worst}{reason}"


def _render_failure(prop: PropertyReport, failure: Failure, spec: str) -> list[str]:
    command = f"attngen verify {spec} --replay '{replay_text(prop.name, failure.case)}'"
    lines = [f"FAILED {prop.name}: {prop.sentence}", f"  {failure.message}", "", "  the smallest case found:"]
    return [*lines, *(f"    {row}" for row in case_table(failure.case)), "", "  replay it:", f"    {command}"]


def case_table(case: Case) -> tuple[str, ...]:
    """The case, a row per field; shapes are always shown, other fields where they differ from their default."""
    shapes = {
        "query": f"({case.batch}, {case.heads}, {case.n_q}, {case.d})",
        "key": f"({case.batch}, {case.kv_heads}, {case.n_k}, {case.d})",
        "value": f"({case.batch}, {case.kv_heads}, {case.n_k}, {case.d_v})",
        "dtype": case.dtype,
    }
    shown = {f.name for f in fields(Case)} - {"batch", "kv_heads", "group", "n_q", "n_k", "d", "d_v", "dtype", "forms"}
    default = Case()
    others = {f.name: getattr(case, f.name) for f in fields(Case) if f.name in shown}
    rows = shapes | {name: str(value) for name, value in others.items() if value != getattr(default, name)}
    rows |= {name: f"given as: {form}" for name, form in case.forms}
    width = max(map(len, rows))
    return tuple(f"{name:<{width}}  {value}" for name, value in rows.items())


def replay_text(name: str, case: Case) -> str:
    """The compact JSON of a property and a case, without spaces and single quotes, so that a shell keeps it whole."""
    inner = case.to_json()[1:-1]
    return f'{{"property":"{name}"{"," if inner else ""}{inner}}}'


def _summary(report: Report) -> str:
    counts = {verdict: sum(prop.verdict == verdict for prop in report.properties) for verdict in ("passed", "failed")}
    skipped = len(report.properties) - sum(counts.values())
    return f"{counts['passed']} passed, {counts['failed']} failed, {skipped} skipped"
