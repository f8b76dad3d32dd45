"""Roots and outputs as people read them: as text, as LaTeX, as MathML."""

from dataclasses import replace
from xml.etree import ElementTree

from attngen import ir, notation
from attngen.analysis.analyze import analyze
from attngen.explain.document import Document
from attngen.explain.forward import formula_section
from attngen.explain.latex import latex
from attngen.explain.layout import typeset
from attngen.explain.mathml import formula
from attngen.explain.outline import document_of
from attngen.explain.render import FORMATS
from attngen.explain.shorten import key
from attngen.explain.symbols import Symbols, levels
from attngen.explain.words import words_of
from attngen.schedule import schedule
from attngen.spec.lower import read_spec

SPEC = """
name: x
let:
  tau: {root: "sum(relu(s - tau)) - 1", between: [amax(s) - 1, amax(s)]}
weights: relu(s - tau)
output: o / sqrt(csum(o ** 2))
"""
PLAIN = "name: x\nweights: exp(s) / sum(exp(s))\n"


def normalizer() -> ir.Normalizer:
    return read_spec(SPEC, "x")


def explained() -> Document:
    """The section on the formula alone, of a plan for another one."""
    plain = read_spec(PLAIN, "x")
    plan = schedule(plain, analyze(plain))
    words = words_of(replace(plan, normalizer=normalizer()))
    return replace(document_of(plan), sections=(formula_section(words),), symbols=words.symbols)


def symbols() -> Symbols:
    return explained().symbols


def test_a_root_is_the_equation_that_defines_it() -> None:
    text = FORMATS["text"](explained())
    assert "    sum_j(relu(s - tau)) - 1 = 0\n    p = relu(s - tau)\n" in text
    assert "tau is the value between max_j(s) - 1 and max_j(s) at which its equation holds." in text


def test_an_output_comes_behind_the_weighted_sum() -> None:
    document = explained()
    assert "    o = sum_j(p * v)\n    out = o / sqrt(sum_c(o ** 2))\n" in FORMATS["text"](document)
    assert r"\frac{{o}_{i c}}{\sqrt{\sum_{c} {{o}_{i c}}^{2}}}" in FORMATS["latex"](document)


def test_a_root_inside_of_a_formula() -> None:
    weights = normalizer().weights
    root = next(node for node in ir.walk(weights) if isinstance(node, ir.Root))
    written = "tau where sum(relu(s - tau)) - 1 == 0 between amax(s) - 1 and amax(s)"
    assert notation.text(root) == written
    assert notation.text(weights) == f"relu(s - ({written}))"
    assert levels(root, symbols()) == "i"
    box = typeset(weights, symbols())
    assert r"{\operatorname{root}}_{{\tau}_{i} \in \left[ \max_{j} {s}_{i j} - 1 , " in latex(box)
    assert "".join(ElementTree.fromstring(formula(box)).itertext()).startswith("relu(sij−rootτi∈[")


def test_roots_are_told_apart_by_all_of_their_formulas() -> None:
    root = next(node for node in ir.walk(normalizer().weights) if isinstance(node, ir.Root))
    others = [replace(root, **{field: ir.number(7)}) for field in ("residual", "low", "high")]
    assert len({key(each) for each in (root, *others)}) == 4
