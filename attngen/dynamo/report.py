"""What a compilation did with the attention that it found: replaced, or left as it was, and why."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Replaced:
    """One attention that a fused op computes now. `spec_text` is a spec that `attngen build` takes.

    `mask` is the call's band, `scale` its scale where that isn't 1/sqrt(head dim), `inputs` the spec's inputs with what
    they were in the model.
    """

    where: str
    spec_text: str
    mask: str = ""
    scale: float | None = None
    inputs: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """The spec's."""
        return self.spec_text.partition("name: ")[2].partition("\n")[0]

    def __str__(self) -> str:
        lines = self.spec_text.splitlines()
        formula = next(line for line in lines if line.startswith("weights: "))
        lets = lines[lines.index("let:") + 1 : lines.index(formula)] if "let:" in lines else []
        call = "".join(f", {part}" for part in (self.mask, f"scale {self.scale}" if self.scale else "") if part)
        return "\n".join([f"{self.where}: {formula}{call}", *(f"            {line.strip()}" for line in lets)])


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
    begun: dict[object, tuple[int, int]] = field(default_factory=dict, repr=False)

    def begin(self, compilation: object) -> None:
        """What an earlier attempt at the same compilation has left is forgotten: torch.compile makes another one."""
        at = self.begun.setdefault(compilation, (len(self.replaced), len(self.skipped)))
        if compilation is not None:
            del self.replaced[at[0] :], self.skipped[at[1] :]

    def __str__(self) -> str:
        lines = [f"{len(self.replaced)} fused, {len(self.skipped)} left as they were"]
        lines += [f"  fused   {entry}" for entry in self.replaced]
        lines += [f"  skipped {entry}" for entry in self.skipped]
        return "\n".join(lines)
