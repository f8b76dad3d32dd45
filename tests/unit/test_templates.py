"""The templates and their context: each name that a template uses is there, and each that is there is used."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import PurePosixPath

import jinja2
import pytest
from jinja2 import meta, nodes

from attngen.emit import context
from attngen.emit.context import ModuleContext
from attngen.emit.render import TEMPLATE, environment, templates_dir, variables

TEMPLATES = sorted(PurePosixPath(p.relative_to(templates_dir())).as_posix() for p in templates_dir().rglob("*.jinja"))
FIELDS = frozenset(field.name for field in dataclasses.fields(ModuleContext))


@functools.cache
def parsed(template: str) -> nodes.Template:
    return environment().parse((templates_dir() / template).read_text(encoding="utf-8"))


def names_in(target: nodes.Node) -> Iterator[nodes.Name]:
    if isinstance(target, nodes.Name):
        yield target
    yield from target.find_all(nodes.Name)


def bound_names(node: nodes.Node) -> frozenset[str]:
    """Names that a block binds for what stands in it."""
    match node:
        case nodes.With():
            targets = node.targets
        case nodes.For():
            targets = [node.target]
        case nodes.Macro():
            targets = node.args
        case _:
            targets = []
    return frozenset(name.name for target in targets for name in names_in(target))


def inclusions(node: nodes.Node, bound: frozenset[str] = frozenset()) -> Iterator[tuple[str, frozenset[str]]]:
    """The templates that are included, with the names that the blocks around them bind."""
    inside = bound | bound_names(node)
    for child in node.iter_child_nodes():
        if isinstance(child, nodes.Include):
            assert isinstance(child.template, nodes.Const)
            yield child.template.value, inside
        yield from inclusions(child, inside)


@functools.cache
def scopes() -> dict[str, frozenset[str]]:
    """The names that each template gets beside the context's fields."""
    found = {TEMPLATE: frozenset[str]()}
    for template in TEMPLATES:
        for included, bound in inclusions(parsed(template)):
            assert included not in found, f"{included} is included twice"
            found[included] = bound
        for imported in parsed(template).find_all(nodes.Import):
            found[str(imported.template.value)] = frozenset()  # type: ignore[attr-defined]
    return found


def test_every_template_is_part_of_the_module() -> None:
    assert sorted(scopes()) == TEMPLATES


def assigned(template: str) -> frozenset[str]:
    """Names that a template sets itself: jinja2 takes one that is set in a branch for one of the context."""
    return frozenset(name.name for node in parsed(template).find_all(nodes.Assign) for name in names_in(node.target))


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_name_that_a_template_uses_is_there(template: str) -> None:
    assert variables(template) - assigned(template) <= FIELDS | scopes()[template]


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_name_that_is_bound_for_a_template_is_used(template: str) -> None:
    loops = {"pair"}  # the loop around an inclusion, whose parts are bound one by one
    assert scopes()[template] - loops <= variables(template)


def test_every_field_of_the_context_is_used() -> None:
    assert frozenset().union(*map(variables, TEMPLATES)) & FIELDS == FIELDS


@functools.cache
def attributes() -> frozenset[str]:
    """Attributes that templates read, by a dot or by name in a filter such as `map(attribute="carries")`."""
    found: set[str] = set()
    for template in map(parsed, TEMPLATES):
        found |= {node.attr for node in template.find_all(nodes.Getattr)}
        for call in template.find_all(nodes.Filter):
            found |= {k.value.value for k in call.kwargs if k.key == "attribute" and isinstance(k.value, nodes.Const)}
    return frozenset(found)


def parts() -> list[type]:
    """The dataclasses of the context, without the module's own."""
    own = [c for c in vars(context).values() if dataclasses.is_dataclass(c) and isinstance(c, type)]
    return [c for c in own if c is not ModuleContext]


@pytest.mark.parametrize("part", parts(), ids=lambda part: part.__name__)
def test_every_field_of_a_part_of_the_context_is_used(part: type) -> None:
    assert {field.name for field in dataclasses.fields(part)} <= attributes()


def test_an_undefined_name_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        environment().from_string("{{ no_such_name }}").render()
    with pytest.raises(jinja2.UndefinedError):
        environment().from_string("{{ part.no_such_field }}").render(part=context.Term("acc", "1.0"))


def test_this_test_sees_what_is_bound_and_what_isnt() -> None:
    text = "{% with a = x.y %}{% for b in z %}{% include 'one' %}{% endfor %}{% include 'two' %}{% endwith %}{{ c }}"
    template = environment().parse(text)
    assert dict(inclusions(template)) == {"one": frozenset({"a", "b"}), "two": frozenset({"a"})}
    assert meta.find_undeclared_variables(template) == {"x", "z", "c"}
