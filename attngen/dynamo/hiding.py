"""What formulas say about hidden keys: where scores are replaced by, or get added, a number in minus infinity's place,
and where a large finite one. It looks at numbers in the branches of choices, and decides nothing about weights.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from attngen.dynamo.formulas import FALSE, FINITE, LARGE, LARGEST, LOST, op
from attngen.ir import Apply, Expr, Name, Number, names

# Note [Filled rows]
# Models hide keys by finite numbers such as -1e9. A row that is hidden as a whole then gets equal weights, which
# float32 loses where the row's statistics are as large: -1e9 + log(n) is -1e9. So the number is a name at first. One
# version of the formula has a number in its place that depends on the row: 0 where the row sees nothing else. It is
# right if the weights don't change with a shift; the check decides, and another version has the model's number.
FILL = Name("fill")


@dataclass(slots=True)
class Hiding:
    """Conditions under which keys are hidden by minus infinity, and `filled` by the number `fill`.

    `masks` are the names of tensors from outside that may be added to hide keys.
    """

    hidden: list[Expr] = field(default_factory=list)
    filled: list[Expr] = field(default_factory=list)
    fill: Number | None = None
    masks: set[str] = field(default_factory=set)

    def added(self, a: Expr, b: Expr) -> Expr | None:
        """The sum of scores and a mask, which may hold -infinity or large finite numbers; None for other sums."""
        for mask, other in ((a, b), (b, a)):
            if "qk" in names(mask) or "qk" not in names(other):
                continue
            if isinstance(mask, Name) and mask.id in self.masks:
                infinite, lost = op("lt", mask, Number(FINITE)), op("lt", mask, Number(LOST))
                mask = op("where", infinite, Number(-LARGE), op("where", lost, Number(-LARGEST), mask))
            if isinstance(mask, Apply) and mask.op == "where":
                return self._hidden_before(other, lambda m=mask, o=other: self._spread(m, o))  # type: ignore[misc]
        return None

    def _hidden_before(self, scores: Expr, masked: Callable[[], Expr]) -> Expr:
        """What a further mask makes of scores, where earlier ones haven't hidden the key: then it stays hidden."""
        hidden, filled = any_of(self.hidden), any_of(self.filled)
        more = masked()
        lost = op("where", any_of(self.hidden), Number(-LARGE), op("add", FILL, _no_number(scores)))
        return op("where", hidden, Number(-LARGE), op("where", filled, lost, more))

    def _spread(self, mask: Expr, other: Expr) -> Expr:
        """The sum of a mask's choices and scores, chosen in the mask's way."""
        if not isinstance(mask, Apply) or mask.op != "where":
            return op("add", mask, other)
        condition, a, b = mask.args
        # What is added to a number that hides is lost, but not its gradient: a row of such numbers alone still has one.
        kept = _no_number(other)
        for where, value, rest in ((condition, a, b), (op("not", condition), b, a)):
            if value == Number(-LARGE):
                self.hidden.append(where)
                return op("where", where, value, self._spread(rest, other))
            if value == FILL:
                return op("where", where, op("add", FILL, kept), self._spread(rest, other))
            if isinstance(value, Number) and value.value <= LOST:
                return self._filled_with(where, value, self._spread(rest, other), kept)
        return op("where", condition, self._spread(a, other), self._spread(b, other))

    def chosen(self, condition: Expr, a: Expr, b: Expr) -> Expr:
        """`where`, and what it says about hidden keys."""
        if "qk" not in names(condition):
            for mask, value, otherwise in ((condition, a, b), (op("not", condition), b, a)):
                if value == Number(-LARGE):
                    self.hidden.append(mask)
                elif isinstance(value, Number) and -LARGE < value.value <= LOST:
                    # The number stands there now even where minus infinity stood.
                    self.hidden = [op("and", other, op("not", mask)) for other in self.hidden]
                    return self._filled_with(mask, value, otherwise)
        return op("where", condition, a, b)

    def _filled_with(self, condition: Expr, number: Number, otherwise: Expr, more: Expr | None = None) -> Expr:
        """The number where the condition holds, plus `more`. Numbers of several sizes count as one."""
        self.fill = number if self.fill is None else min(self.fill, number, key=lambda x: x.value)
        self.filled.append(condition)
        return op("where", condition, FILL if more is None else op("add", FILL, more), otherwise)


def _no_number(expr: Expr) -> Expr:
    """Zero, with the formula's gradient."""
    return op("sub", expr, op("detach", expr))


def any_of(conditions: list[Expr]) -> Expr:
    """The condition that one of them holds."""
    result: Expr = FALSE
    for condition in dict.fromkeys(conditions):
        result = op("or", result, condition)
    return result
