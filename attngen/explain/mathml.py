"""Boxes as MathML Core, which browsers set by themselves."""

from html import escape

from attngen.explain import boxes as bx
from attngen.explain.boxes import Box


def formula(box: Box, display: bool = False) -> str:
    shown = ' display="block"' if display else ""
    return f"<math{shown}>{_group(box)}</math>"


def _group(box: Box) -> str:
    """One element, whatever the box."""
    return f"<mrow>{mathml(box)}</mrow>" if isinstance(box, bx.Row | bx.Fence) else mathml(box)


def mathml(box: Box) -> str:
    match box:
        case bx.Letter(text, upright):
            variant = ' mathvariant="normal"' if upright and len(text) == 1 else ""
            return f"<mi{variant}>{escape(text)}</mi>"
        case bx.Digits(text):
            return f"<mn>{text}</mn>"
        case bx.Sign(" "):
            return '<mspace width="0.17em"></mspace>'
        case bx.Sign(text):
            return f"<mo>{escape(text)}</mo>"
        case bx.Function(name):
            return f"<mi>{escape(name)}</mi>"
        case bx.Row(items):
            return "".join(map(_row_item, items))
        case bx.Fraction(over, under):
            return f"<mfrac>{_group(over)}{_group(under)}</mfrac>"
        case bx.Root(body):
            return f"<msqrt>{_group(body)}</msqrt>"
        case bx.Script():
            return _script(box)
        case bx.Fence(left, body, right):
            return f"<mo>{left}</mo>{_group(body)}<mo>{right}</mo>"
        case bx.Big(operator, index):
            return f"<munder><mo>{operator}</mo>{_group(index)}</munder>"
        case bx.Choice():
            return _choice(box)


def _row_item(box: Box) -> str:
    return _group(box) if isinstance(box, bx.Fence) else mathml(box)


def _script(box: bx.Script) -> str:
    base = _group(box.base)
    match box.below, box.above:
        case None, None:
            return base
        case below, None if below is not None:
            return f"<msub>{base}{_group(below)}</msub>"
        case None, above if above is not None:
            return f"<msup>{base}{_group(above)}</msup>"
    assert box.below is not None
    assert box.above is not None
    return f"<msubsup>{base}{_group(box.below)}{_group(box.above)}</msubsup>"


def _choice(box: bx.Choice) -> str:
    first = f"<mtr><mtd>{_group(box.value)}</mtd><mtd><mtext>if&#160;</mtext>{_group(box.condition)}</mtd></mtr>"
    second = f"<mtr><mtd>{_group(box.otherwise)}</mtd><mtd><mtext>otherwise</mtext></mtd></mtr>"
    return f'<mrow><mo>{{</mo><mtable columnalign="left">{first}{second}</mtable></mrow>'
