"""Explanations: the documents of some specs to the letter, and what has to hold for the documents of all specs.

`pytest tests/unit/test_explain.py --update-golden` writes the golden documents anew; read them before a commit.
"""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from latex2mathml.converter import convert

from attngen import ir, notation
from attngen.analysis.analyze import analyze
from attngen.catalog import shipped
from attngen.explain.boxes import Script
from attngen.explain.document import Document
from attngen.explain.latex import latex
from attngen.explain.layout import typeset
from attngen.explain.mathml import formula
from attngen.explain.outline import document_of
from attngen.explain.render import FORMATS
from attngen.explain.shorten import replaced, share
from attngen.explain.symbols import symbols_of
from attngen.explain.text import WIDTH, formula_text
from attngen.schedule import OpPlan, schedule
from attngen.spec.lower import read_spec

GOLDEN = Path(__file__).parents[1] / "golden" / "explain"
SUFFIXES = {"text": "txt", "latex": "tex", "html": "html"}
NASTY = r"""<b>&amp; 100%_"\x" 'y' {}~^#$ | a"""
LSSAR = """
name: lssar
let:
  a: softplus(s) / sum(softplus(s))
  r: relu(n * a - where(i < 3, 0, 1)) ** 15
weights: r / sum(r)
"""
STANDARDIZED = """
name: standardized
let:
  mu: mean(s)
  z: (s - mu) / sqrt(mean((s - mu) ** 2) + 1e-5)
weights: exp(z) / sum(exp(z))
"""
MIXTURE = """
name: mixture
inputs:
  lam: {shape: [head]}
  slope: {shape: [head, key]}
weights: lam * exp(s) / sum(exp(s)) + (1 - lam) * sigmoid(s + slope) / sum(sigmoid(s + slope))
"""
PAIR_BIAS = """
name: pair_bias
inputs:
  bias: {shape: [head, query, key]}
  c_1: {shape: [key]}
score: scale * qk + bias + c_1
weights: exp(s) / sum(exp(s))
"""
RELU_OF_SOFTMAX = """
name: relu_of_softmax
inputs:
  tau: {shape: []}
let:
  p: exp(s) / sum(exp(s))
  r: relu(n * p - tau)
weights: r / sum(r)
"""
EXTREMA = """
name: extrema
weights: (s - amin(s)) / (amax(s) - amin(s) + 0.001)
"""
NAMES = """
name: names
inputs:
  bias: {shape: [kv_head, key]}
  gamma: {shape: [batch, kv_head, query], default: 1/3}
  m: {shape: []}
  Z: {shape: [query, key], grad: false}
  x: {shape: []}
  alpha_1: {shape: [head]}
  alpha1: {shape: [head]}
let:
  w: exp(s) * alpha1
  p: gamma * w * where(j < i and not (s > 0), m, clip(Z, -1, 1)) / (sum(w) + bias ** 2 + alpha_1)
weights: p - log1p(abs(tanh(x * s)))
"""
THRESHOLD = """
name: threshold
let:
  tau:
    root: sum(relu(s / 2 - tau) ** 2) - 1
    between: [amax(s / 2) - 1, amax(s / 2)]
weights: relu(s / 2 - tau) ** 2
claims: {rows_sum_to: 1, shift_invariant: true, nonnegative: true, sparse: true}
"""
TWO_ROOTS = """
name: two_roots
inputs:
  k: {shape: [head]}
let:
  b1: {root: sum(sigmoid(s - b1)) - k, between: [amin(s) - 20, amax(s) + 20]}
  rho: {root: "sum(relu(s - b1 - rho)) - 2", between: [amax(s) - b1 - 2, amax(s) - b1]}
weights: relu(s - b1 - rho)
"""
NORMED = """
name: normed
inputs:
  gain: {shape: [head]}
weights: exp(s) / sum(exp(s))
output: gain * (o - csum(o) / csum(1)) / sqrt(csum((o - csum(o) / csum(1)) ** 2) / csum(1) + 0.00001)
"""
UNIT_OUTPUT = """
name: unit_output
weights: exp(s)
output: o / sqrt(csum(o ** 2))
"""
SPECS = {path.stem: path.read_text(encoding="utf-8") for path in shipped()}
MADE_UP = (LSSAR, STANDARDIZED, MIXTURE, PAIR_BIAS, RELU_OF_SOFTMAX, EXTREMA, NAMES)
MADE_UP += (THRESHOLD, TWO_ROOTS, NORMED, UNIT_OUTPUT)
SPECS |= {text.split()[1]: text for text in MADE_UP}


def plan(text: str) -> OpPlan:
    normalizer = read_spec(text, "spec.yaml")
    return schedule(normalizer, analyze(normalizer))


@pytest.fixture(scope="module", params=sorted(SPECS))
def document(request: pytest.FixtureRequest) -> Document:
    return document_of(plan(SPECS[request.param]))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["softmax", "affine_scaled", "lssar", "threshold", "normed"])
def test_golden(name: str, form: str, update_golden: bool) -> None:
    found = FORMATS[form](document_of(plan(SPECS[name])))
    path = GOLDEN / f"{name}.{SUFFIXES[form]}"
    if update_golden:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")


def test_text_fits_the_terminal(document: Document) -> None:
    lines = FORMATS["text"](document).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert all(line == line.rstrip() for line in lines)


def test_every_kind_of_document_says_the_same(document: Document) -> None:
    titles = [section.title for section in document.sections]
    for form, render in FORMATS.items():
        found = render(document)
        assert [title for title in titles if title not in found] == [], form


def test_no_name_of_the_explanation_itself_is_left(document: Document) -> None:
    assert "$" not in FORMATS["text"](document)
    assert "$" not in FORMATS["html"](document)


def test_latex_is_balanced(document: Document) -> None:
    source = FORMATS["latex"](document)
    bare = re.sub(r"\\[\\{}$&]", "", source)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert source.count(r"\left") == source.count(r"\right")
    opened = list[str]()
    for what, name in re.findall(r"\\(begin|end)\{([a-z*]+)\}", source):
        if what == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    assert source.isascii()


def test_latex_mathematics_can_be_parsed(document: Document) -> None:
    source = FORMATS["latex"](document)
    found = re.findall(r"(?<!\\)\$(.+?)(?<!\\)\$", source)
    found += re.findall(r"\\begin\{align\*\}\n.*?\n\\end\{align\*\}", source, re.DOTALL)
    assert len(found) > 20
    for formula_source in found:
        assert "<merror" not in convert(formula_source)


class Tags(HTMLParser):
    """Fails where a closing tag isn't that of the element that is open."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [name for name, _ in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_balanced_and_needs_nothing_else(document: Document) -> None:
    source = FORMATS["html"](document)
    tags = Tags()
    tags.feed(source)
    tags.close()
    assert tags.open == []
    assert not {"src", "href", "onload", "action"} & set(tags.attributes)
    assert not re.search(r"https?:|url\(|@import|<script", source)


ELEMENTS = {"mfrac": 2, "msub": 2, "msup": 2, "munder": 2, "msubsup": 3, "math": 1, "msqrt": 1}


class Children(HTMLParser):
    """Counts the elements inside each element of MathML, whose meaning is their order."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = [0]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[-1] += 1
        self.counts.append(0)

    def handle_endtag(self, tag: str) -> None:
        assert self.counts.pop() == ELEMENTS.get(tag, self.counts[-1]) or tag not in ELEMENTS


def test_mathml_elements_have_as_many_children_as_they_need(document: Document) -> None:
    parts = re.findall(r"<math.*?</math>", FORMATS["html"](document))
    assert len(parts) > 20
    for part in parts:
        Children().feed(part)


def test_users_text_is_escaped() -> None:
    made = document_of(
        plan(f"name: nasty\ntitle: >-\n  {NASTY}\nreference: '</script> & $x_1$'\nweights: sigmoid(s)\n")
    )
    assert NASTY in FORMATS["text"](made)
    page = FORMATS["html"](made)
    assert "&lt;b&gt;&amp;amp; 100%" in page
    assert "<b>" not in page
    assert "</script>" not in page
    source = FORMATS["latex"](made)
    assert r"\textless{}b\textgreater{}\&amp; 100\%\_\textquotedbl{}\textbackslash{}x" in source
    assert r"\{\}\textasciitilde{}\textasciicircum{}\#\$ \textbar{} a" in source
    assert r"\& \$x\_1\$" in source


def expr(text: str) -> ir.Expr:
    return read_spec(f"name: t\ninputs: {{a: {{shape: []}}, b_2: {{shape: [key]}}}}\nweights: {text}\n", "t").weights


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s / (1 + s)", r"\frac{{s}_{i j}}{1 + {s}_{i j}}"),
        ("exp(-s)", r"{\mathrm{e}}^{- {s}_{i j}}"),
        ("(a + s) * a", r"\left( a + {s}_{i j} \right) \, a"),
        ("a - (s - a)", r"a - \left( {s}_{i j} - a \right)"),
        ("(-s) ** 2", r"{\left( - {s}_{i j} \right)}^{2}"),
        ("(s * a) ** 2", r"{\left( {s}_{i j} \, a \right)}^{2}"),
        ("qk ** 2", r"{\left( {q}_{i}^{\top} {k}_{j} \right)}^{2}"),
        ("s * -a", r"{s}_{i j} \, \left( - a \right)"),
        ("s * 2", r"2 \, {s}_{i j}"),
        ("b_2 * s", r"{b}_{2 , j} \, {s}_{i j}"),
        ("a * sum(s) * s", r"a \, \left( \sum_{j} {s}_{i j} \right) \, {s}_{i j}"),
        ("sum(s) + s", r"\sum_{j} {s}_{i j} + {s}_{i j}"),
        ("sum(s + a)", r"\sum_{j} \left( {s}_{i j} + a \right)"),
        ("1e-6 * s", r"{10}^{- 6} \, {s}_{i j}"),
        ("where(s > 0, s, 0)", r"\mathrm{1} \left[ {s}_{i j} > 0 \right] \, {s}_{i j}"),
        ("abs(s) ** 3", r"{\left| {s}_{i j} \right|}^{3}"),
        ("exp(s) ** 2", r"{\left( {\mathrm{e}}^{{s}_{i j}} \right)}^{2}"),
        ("(s ** 2) ** 3", r"{\left( {{s}_{i j}}^{2} \right)}^{3}"),
        ("(s / a) ** 3", r"{\left( \frac{{s}_{i j}}{a} \right)}^{3}"),
    ],
)
def test_typeset(text: str, expected: str) -> None:
    symbols = symbols_of(plan("name: t\ninputs: {a: {shape: []}, b_2: {shape: [key]}}\nweights: s * a * b_2\n"))
    assert latex(typeset(expr(text), symbols)) == expected


def test_names_that_look_alike_are_told_apart() -> None:
    made = document_of(plan(NAMES))
    boxes = [symbol.box for name, symbol in made.symbols.items() if name in ("alpha1", "alpha_1")]
    assert len(set(boxes)) == 2


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        ("exp(a + qk * scale - b_2)", "scale * qk", "exp(a + s - b_2)"),
        ("a + qk - b_2", "qk - b_2", "s + a"),
        ("b_2 - qk + a", "qk - b_2", "a - s"),
        ("2 * qk * a / b_2", "qk / b_2", "2 * a * s"),
        ("qk * a", "qk / b_2", "qk * a"),
        ("qk + a", "qk + qk", "qk + a"),
    ],
)
def test_known_formulas_are_found_in_longer_ones(text: str, target: str, expected: str) -> None:
    assert notation.text(replaced(expr(text), expr(target), ir.Name("s"))) == expected


def test_what_repeats_gets_a_name() -> None:
    long = "tanh(sigmoid(qk * scale - a))"
    shared = share([expr(f"{long} * a"), expr(f"a + {long}"), expr("exp(s) + exp(s)")])
    assert [(name, notation.text(body)) for name, body in shared.definitions] == [("$x1", long)]
    assert [notation.text(e) for e in shared.formulas] == ["$x1 * a", "a + $x1", "exp(s) + exp(s)"]


def test_names_for_repetitions_are_defined_before_they_are_used() -> None:
    inner = "tanh(sigmoid(qk * scale - a))"
    outer = f"softplus({inner} + b_2) ** 2"
    shared = share([expr(outer), expr(f"1 + {outer}"), expr(f"2 + {inner}")])
    known = set[str]()
    for name, body in shared.definitions:
        assert {n for n in ir.names(body) if n.startswith("$")} <= known
        known.add(name)
    assert len(known) == 2


def test_an_adjoint_is_that_of_its_own_statistic() -> None:
    """The analysis numbers reductions as the formula names them, here the second pass' before the first's last one."""
    relu = "relu(s / sum(softplus(s)) - 1)"
    shown = FORMATS["text"](document_of(plan(f"name: t\nweights: {relu} / sum({relu}) / (1 + sum(sigmoid(s)))\n")))
    names = {function: name for name, function in re.findall(r"^    (z\d) = sum_j\((\w+)\(", shown, re.MULTILINE)}
    assert sorted(names) == ["relu", "sigmoid", "softplus"]
    adjoints = dict(re.findall(r"^    (dz\d) = (.*)$", shown, re.MULTILINE))
    assert adjoints[f"d{names['relu']}"] == f"-(delta / {names['relu']})"
    assert adjoints[f"d{names['sigmoid']}"] == f"-(delta / (1 + {names['sigmoid']}))"
    assert "adj" in adjoints[f"d{names['softplus']}"]


def test_powers_of_names_are_scripts() -> None:
    symbols = symbols_of(plan(SPECS["softmax"]))
    assert isinstance(typeset(ir.apply("pow", ir.Name("s"), ir.number(2)), symbols), Script)
    assert (
        formula(typeset(ir.Name("s"), symbols))
        == "<math><msub><mi>s</mi><mrow><mi>i</mi><mi>j</mi></mrow></msub></math>"
    )
    assert formula_text(ir.Reduce("amax", ir.Name("s")), symbols) == "max_j(s)"
