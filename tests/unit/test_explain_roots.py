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


def whole(text: str) -> str:
    """A document as text, with its paragraphs unwrapped."""
    normalizer = read_spec(text, "x")
    return " ".join(FORMATS["text"](document_of(schedule(normalizer, analyze(normalizer)))).split())


ROOT = SPEC.partition("output")[0]
OUTPUT = "name: x\nweights: exp(s)\noutput: o / sqrt(csum(o ** 2))\n"


def test_the_search_is_told() -> None:
    text = whole(ROOT)
    assert "tau is looked for between extreme - 1 and extreme, from the lower one on." in text
    assert "F = sum_j(relu(s - tau)) - 1 F' = -sum_j(where(s - tau > 0, 1, 0)) F falls" in text
    assert "The next trial is tau - F / F', unless" in text
    assert "F' at the root is made of tau_slope." in text
    assert "forward 3 + T (2 + T) * D + Dv" in text


def test_a_rising_residual_and_one_that_may_do_either() -> None:
    rising = ROOT.replace("sum(relu(s - tau)) - 1", "1 - sum(relu(s - tau))")
    assert "F rises as the value grows" in whole(rising)
    either = ROOT.replace("sum(relu(s - tau)) - 1", "sum(sin(s - tau))")
    assert "F may rise or fall, which its signs at the bounds tell" in whole(either)


def test_support_is_told_where_it_is_claimed() -> None:
    told = "Weights and their gradients vanish unless s - tau > 0."
    assert told in whole(f"{ROOT}claims: {{sparse: true}}\n")


def test_a_relative_sum_is_told() -> None:
    told = "o is relative to row_max"
    assert told in whole(OUTPUT)
    assert told not in whole(OUTPUT.replace("exp(s)\n", "exp(s) / sum(exp(s))\n"))
    assert told not in whole(OUTPUT.replace("exp(s)\n", "sigmoid(s)\n"))


def test_an_inputs_gradient_has_the_part_that_comes_from_the_output() -> None:
    head = "name: x\ninputs: {a: {shape: [head]}}\nweights: exp(s) / sum(exp(s))"
    assert "grad(a) = sum_bi(sum_c(dout * o))" in whole(f"{head}\noutput: a * o\n")
    both = whole(f"{head} + sigmoid(a * s)\noutput: a * o\n")
    assert "+ sum_c(dout * o))" in both
    assert "d_a" in both
