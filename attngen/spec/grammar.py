"""The tokens of a formula into a syntax tree: the language's own recursive-descent grammar.

    expression = "not" expression | expression operator expression | "-" expression | "+" expression
               | number | name | name "(" [expression {"," expression}] ")" | "(" expression ")"

From loose to tight: or; and; not; one comparison; + and -; * and /; unary -; ** (to the right). Chains of the same
`+`, `*`, `and`, `or` become one operation with many arguments. Size and nesting are bounded. Names mean nothing here.
"""

import keyword

from attngen.diagnostics import Diagnostic, Span
from attngen.ir import VARIADIC
from attngen.spec import limits
from attngen.spec.lexer import FormulaMistake, Token, tokens, value
from attngen.spec.source import Source
from attngen.spec.syntax import Call, Identifier, Literal, Operation, Syntax, joined

_COMPARISON = 4
_BINARY = {
    "or": ("or", 1), "and": ("and", 2),
    "<": ("lt", 4), "<=": ("le", 4), ">": ("gt", 4), ">=": ("ge", 4), "==": ("eq", 4), "!=": ("ne", 4),
    "+": ("add", 5), "-": ("sub", 5), "*": ("mul", 6), "/": ("div", 6), "**": ("pow", 8),
}  # fmt: skip
_NOT, _UNARY, _POWER = 3, 7, 8
_CONDITIONAL = "where(condition, a, b)"
_OPERATORS_NEXT = "an operator, a comma or the end of the formula"


def formula(read: Source, start: int, end: int) -> Syntax:
    """The syntax tree of the formula between two offsets of a file. Raises FormulaMistake."""
    parser = _Parser(tokens(read, start, end))
    tree = parser.expression(0)
    if parser.here.kind != "end":
        raise parser.unexpected_after_operand()
    return tree


class _Parser:
    def __init__(self, stream: tuple[Token, ...]) -> None:
        self.stream = stream
        self.position = 0
        self.nesting = 0
        self.nodes = 0

    @property
    def here(self) -> Token:
        return self.stream[self.position]

    def advance(self) -> Token:
        token = self.here
        self.position += 1
        return token

    def expression(self, power: int) -> Syntax:
        """An expression whose operators bind at least as tightly as `power`."""
        self.nesting += 1
        self.check_nesting(self.nesting, self.here.span)
        left = self.prefix()
        while (found := _BINARY.get(self.here.text)) and found[1] >= power:
            left = self.infix(left, found[0], found[1])
        self.nesting -= 1
        return left

    def infix(self, left: Syntax, op: str, power: int) -> Syntax:
        args = [left]
        symbol = self.here.text
        while self.here.text == symbol and (len(args) == 1 or op in VARIADIC):
            self.advance()
            args.append(self.expression(_UNARY if power == _POWER else power + 1))
        if power == _COMPARISON and _BINARY.get(self.here.text, ("", 0))[1] == _COMPARISON:
            raise self.mistake("comparisons can't be chained", self.here.span, "two comparisons joined by `and`")
        return self.operation(op, tuple(args), joined(left.span, args[-1].span))

    def prefix(self) -> Syntax:
        token = self.here
        match token.kind, token.text:
            case "number", _:
                return self.counted(Literal(value(self.advance()), token.span))
            case "operator", "-" | "+":
                return self.signed(self.advance())
            case "operator", "(":
                return self.parenthesized(self.advance())
            case "name", "not":
                self.advance()
                body = self.expression(_NOT)
                return self.operation("not", (body,), joined(token.span, body.span))
            case "name", _ if not keyword.iskeyword(token.text):
                return self.name(self.advance())
        raise self.unexpected_operand()

    def signed(self, sign: Token) -> Syntax:
        body = self.expression(_UNARY)
        return body if sign.text == "+" else self.operation("neg", (body,), joined(sign.span, body.span))

    def parenthesized(self, opening: Token) -> Syntax:
        tree = self.expression(0)
        if self.here.text == ",":
            raise self.mistake("a comma outside of a call", self.here.span, "one value between these parentheses")
        self.closing(opening)
        return tree

    def closing(self, opening: Token) -> Token:
        if self.here.kind == "end":
            raise self.mistake("this parenthesis is never closed", opening.span, ")")
        if self.here.text != ")":
            raise self.unexpected_after_operand()
        return self.advance()

    def name(self, token: Token) -> Syntax:
        if self.here.text != "(":
            return self.counted(Identifier(token.text, token.span))
        opening = self.advance()
        args = self.arguments()
        closing = self.closing(opening)
        depth = 1 + max((arg.depth for arg in args), default=0)
        self.check_nesting(depth, token.span)
        return self.counted(Call(token.text, token.span, args, joined(token.span, closing.span), depth))

    def arguments(self) -> tuple[Syntax, ...]:
        if self.here.text == ")":
            return ()
        args = [self.expression(0)]
        while self.here.text == ",":
            self.advance()
            args.append(self.expression(0))
        return tuple(args)

    def operation(self, op: str, args: tuple[Syntax, ...], span: Span) -> Syntax:
        depth = 1 + max(arg.depth for arg in args)
        self.check_nesting(depth, span)
        return self.counted(Operation(op, args, span, depth))

    def counted(self, tree: Syntax) -> Syntax:
        self.nodes += 1
        if self.nodes > limits.FORMULA_NODES:
            message = f"a formula of more than {limits.FORMULA_NODES} parts"
            raise self.mistake(message, tree.span, "a shorter formula")
        return tree

    def check_nesting(self, depth: int, span: Span) -> None:
        if depth > limits.FORMULA_NESTING:
            message = f"a formula nested more than {limits.FORMULA_NESTING} deep"
            raise self.mistake(message, Span(span.line, span.column), "a flatter formula; parts of it can go to `let`")

    def unexpected_operand(self) -> FormulaMistake:
        token = self.here
        wanted = "a number, a name, a call or a parenthesis"
        if token.kind == "end":
            return self.mistake("the formula ends too early", token.span, wanted)
        if token.text == "*" and self.position and self.stream[self.position - 1].text == "/":
            wanted = "/ or *, not both"
        if token.text == "/" and self.position and self.stream[self.position - 1].text == "/":
            wanted = "one /; there is no whole-number division"
        return self.mistake(f"'{token.text}' can't stand here", token.span, wanted)

    def unexpected_after_operand(self) -> FormulaMistake:
        token, before = self.here, self.stream[self.position - 1]
        message, wanted = f"'{token.text}' can't stand here", _OPERATORS_NEXT
        if token.kind in ("name", "number") or token.text == "(":
            message = f"there is no operator between '{before.text}' and '{token.text}'"
            wanted = "an operator; a product is written with *"
        if token.text in ("if", "else"):
            wanted = _CONDITIONAL
        if token.text == ")":
            message, wanted = "this parenthesis closes nothing", "as many ( as )"
        if token.text == ",":
            message, wanted = "a comma outside of a call", "one formula"
        return self.mistake(message, token.span, wanted)

    def mistake(self, message: str, span: Span, expected: str) -> FormulaMistake:
        return FormulaMistake(Diagnostic(message, span, expected))
