"""Ops to be tuned in tests."""

import importlib
from types import ModuleType

from attngen import catalog
from attngen.spec.lower import read_spec
from attngen.verify.subject import Subject


def module_of(name: str) -> ModuleType:
    return importlib.import_module(f"generated.{name}")


def subject_of(name: str) -> Subject:
    module = module_of(name)
    normalizer = read_spec(catalog.read(name).text, name)
    return Subject(getattr(module, f"{name}_attention"), normalizer, module)
