"""The language as a JSON Schema, so that editors complete and check specs.

It describes fields, types, and the shape of names; what a formula may hold is told in words, since only the grammar
can check it. Fields, axes and claims come from the code that reads them.
"""

import json

from attngen.ir import AXES, BUILTINS, FUNCTIONS, REDUCTIONS, SIZES
from attngen.spec import fields, limits
from attngen.spec.near import listed

_NAME = "^[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*$"
_NUMBER = r"^-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_FORMULA = (
    f"A formula. Names: {', '.join(BUILTINS)}, the inputs and the lets. Functions: {', '.join(FUNCTIONS)}. "
    f"Reductions over the keys that the row sees: {', '.join(REDUCTIONS)}. Operators: + - * / **, and comparisons, "
    "and, or, not as the first argument of where."
)
_OUTPUT = (
    "What becomes of a channel of the weighted sum o, such as o / sqrt(csum(o ** 2)): a formula of o, csum(x), the sum "
    "over the channels, and of what is one number per row."
)
_FORMULA_OR_NUMBER = ["string", "number"]  # `weights: 1` is a number to YAML


def _formula(description: str) -> dict[str, object]:
    return {"description": description, "type": _FORMULA_OR_NUMBER, "minLength": 1}


def _record(description: str, properties: dict[str, object], required: list[str]) -> dict[str, object]:
    """A mapping with these fields and no others."""
    return {
        "description": description,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _named(description: str, value: dict[str, object]) -> dict[str, object]:
    """A mapping from names that the spec gives to values."""
    return {
        "description": description,
        "type": "object",
        "propertyNames": {"pattern": _NAME, "maxLength": limits.IDENTIFIER_CHARACTERS},
        "additionalProperties": value,
    }


def _shape() -> dict[str, object]:
    return {
        "description": f"The input's axes, drawn from {', '.join(AXES)} in this order; [] is a scalar. An axis that is "
        "missing is broadcast. head and kv_head exclude each other.",
        "type": "array",
        "items": {"enum": list(AXES)},
        "uniqueItems": True,
        "not": {"allOf": [{"contains": {"const": "head"}}, {"contains": {"const": "kv_head"}}]},
    }


def _input() -> dict[str, object]:
    tensor = {
        "shape": _shape(),
        "default": _formula(f"What the input is if the call leaves it out: a formula of numbers and {listed(SIZES)}."),
        "grad": {"description": "Whether a gradient is wanted.", "type": "boolean", "default": True},
        "kind": {"const": "tensor"},
    }
    static = {
        "kind": {"description": "A number that is known when the op is built.", "const": "static"},
        "default": {"description": "Its value.", "anyOf": [{"type": "number"}, {"type": "string", "pattern": _NUMBER}]},
    }
    return {"oneOf": [_record("A tensor.", tensor, ["shape"]), _record("A number.", static, ["kind"])]}


def _let() -> dict[str, object]:
    bounds = {
        "type": "array",
        "items": _formula("A bound: a formula of earlier lets, constant within a row."),
        "minItems": 2,
        "maxItems": 2,
    }
    root: dict[str, object] = {"root": _formula("What is zero at the value that is looked for."), "between": bounds}
    implicit = (
        "A row value that is only known implicitly: the one between two bounds at which `root`, a formula of the let's "
        "own name that is constant within a row but for reductions, is zero."
    )
    return {"oneOf": [_formula(_FORMULA), _record(implicit, root, list(root))]}


def _claims() -> dict[str, object]:
    described = {
        "shift_invariant": "A constant added to all scores of a row changes no weight.",
        "nonnegative": "No weight is below zero.",
        "sparse": "Weights can be exactly zero for keys that the row sees.",
    }
    flags = {name: {"description": text, "type": "boolean"} for name, text in described.items()}
    total = {"description": "What the weights of a row sum to.", "type": ["number", "string"]}
    return _record("What verification holds the op to.", {"rows_sum_to": total, **flags}, [])


def _text(description: str) -> dict[str, object]:
    limit = limits.TITLE_CHARACTERS
    return {"description": description, "type": "string", "minLength": 1, "maxLength": limit}


def schema() -> dict[str, object]:
    """The JSON Schema (draft 2020-12) of a spec file."""
    name = {
        "description": "What the module, the function and the kernels are called.",
        "type": "string",
        "pattern": f"^{fields.NAME_PATTERN}$",
        "maxLength": limits.IDENTIFIER_CHARACTERS,
    }
    properties: dict[str, object] = {
        "name": name,
        "title": _text("What the op is, for people."),
        "reference": _text("Where the formula comes from, for people."),
        "inputs": _named("Every value of the formula that is not query, key or value.", _input()),
        "let": _named("Intermediate formulas; each may use those before it.", _let()),
        "score": _formula("What s is. Without it, scale * qk. No reductions, no lets."),
        "weights": _formula(f"The weight of key j in row i. {_FORMULA}"),
        "output": _formula(_OUTPUT),
        "claims": _claims(),
    }
    spec = _record("How one row of attention weights comes from one row of scores.", properties, ["name", "weights"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "attngen spec", **spec}


def schema_text() -> str:
    """The JSON Schema as text, one field to a line."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
