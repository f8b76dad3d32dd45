"""What a compilation did with the attention that it found: replaced, or left as it was, and why."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Replaced:
    """One attention that a fused op computes now. `spec_text` is a spec that `attngen build` takes."""

    where: str
    spec_text: str
    mask: str = ""

    def __str__(self) -> str:
        formula = next(line for line in self.spec_text.splitlines() if line.startswith("weights: "))
        return f"{self.where}: {formula}" + (f", {self.mask}" if self.mask else "")


@dataclass(frozen=True, slots=True)
class Skipped:
    """One place that looks like attention and stays as it was."""

    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


@dataclass(slots=True)
class CompileReport:
    """Filled while a model is compiled; one graph after the other."""

    replaced: list[Replaced] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{len(self.replaced)} fused, {len(self.skipped)} left as they were"]
        lines += [f"  fused   {entry}" for entry in self.replaced]
        lines += [f"  skipped {entry}" for entry in self.skipped]
        return "\n".join(lines)
