"""The JSON Schema says what the code that reads specs does."""

import json
import re
from pathlib import Path

import pytest
import yaml

from attngen.ir import AXES
from attngen.spec import fields, lets
from attngen.spec.schema import schema, schema_text

SPECS = sorted((Path(__file__).parents[2] / "specs").glob("*.yaml"))
JSON = json.loads(schema_text())
TYPES = {"string": str, "number": (int, float), "boolean": bool, "object": dict, "array": list}


def misfit(value: object, rule: dict) -> str | None:
    """Why a value doesn't fit the part of JSON Schema that the schema uses, None if it does."""
    if "oneOf" in rule and sum(misfit(value, one) is None for one in rule["oneOf"]) != 1:
        return f"{value!r} fits not exactly one"
    if "anyOf" in rule and all(misfit(value, one) for one in rule["anyOf"]):
        return f"{value!r} fits none"
    if "const" in rule and value != rule["const"]:
        return f"{value!r} is not {rule['const']}"
    if "enum" in rule and value not in rule["enum"]:
        return f"{value!r} is not in {rule['enum']}"
    wanted = [rule["type"]] if isinstance(rule.get("type"), str) else rule.get("type", [])
    if wanted and not any(isinstance(value, TYPES[one]) for one in wanted):
        return f"{value!r} is not {wanted}"
    if isinstance(value, str) and not re.search(rule.get("pattern", ""), value):
        return f"{value!r} doesn't match"
    if isinstance(value, list):
        return next((why for item in value if (why := misfit(item, rule.get("items", {})))), None)
    return record_misfit(value, rule) if isinstance(value, dict) else None


def record_misfit(value: dict, rule: dict) -> str | None:
    if missing := set(rule.get("required", [])) - value.keys():
        return f"{missing} missing"
    other = rule.get("additionalProperties", {})
    for key, item in value.items():
        known = rule.get("properties", {}).get(key)
        if known is None and other is False:
            return f"{key} unknown"
        if misfit(key, rule.get("propertyNames", {})):
            return f"{key} is no name"
        if why := misfit(item, other if known is None else known):
            return why
    return None


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_shipped_specs_fit(path: Path) -> None:
    assert misfit(yaml.safe_load(path.read_text()), JSON) is None


@pytest.mark.parametrize(
    "broken",
    [
        {"name": "x"},
        {"name": "X", "weights": "s"},
        {"name": "x", "weights": ["s"]},
        {"name": "x", "weights": "s", "wieghts": "s"},
        {"name": "x", "weights": "s", "inputs": {"b": {"shape": ["rows"]}}},
        {"name": "x", "weights": "s", "inputs": {"b": {}}},
        {"name": "x", "weights": "s", "inputs": {"a-b": {"shape": []}}},
        {"name": "x", "weights": "s", "inputs": {"b": {"kind": "static", "shape": []}}},
        {"name": "x", "weights": "s", "let": {"t": {"root": "s"}}},
        {"name": "x", "weights": "s", "claims": {"sparse": "yes"}},
    ],
    ids=str,
)
def test_broken_specs_do_not_fit(broken: dict) -> None:
    assert misfit(broken, JSON) is not None


def test_fields_are_those_that_are_read() -> None:
    properties = schema()["properties"]
    assert tuple(properties) == fields.FIELDS
    assert set(properties["claims"]["properties"]) == set(fields.CLAIM_FIELDS)
    tensor, static = properties["inputs"]["additionalProperties"]["oneOf"]
    assert set(tensor["properties"]) == set(fields.INPUT_FIELDS)
    assert set(static["properties"]) == {"kind", "default"}
    assert tensor["properties"]["shape"]["items"]["enum"] == list(AXES)
    root = properties["let"]["additionalProperties"]["oneOf"][1]
    assert set(root["properties"]) == set(lets.ROOT_FIELDS)


def test_it_names_its_dialect() -> None:
    assert JSON["$schema"] == "https://json-schema.org/draft/2020-12/schema"
