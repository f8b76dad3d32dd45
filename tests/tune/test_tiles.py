"""Tiles that were kept: they come back for the same op on the same machine, and for no other."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import attngen
from attngen.runtime import tiles
from attngen.runtime.tiles import Tuned, digest_of, keep, read, this_machine, use_tuned
from tests.tune.subjects import module_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def module() -> ModuleType:
    return module_of("softmax")


def entry(module: ModuleType, **changes: Any) -> Tuned:
    whole = Tuned(this_machine("cpu"), digest_of(module), "portable", "float32", 16, 16, False, (16, 32, 0, 0),
                  1e-3, 2e-3, 2048)  # fmt: skip
    return replace(whole, **changes)


def test_they_come_back(module: ModuleType) -> None:
    kept = entry(module)
    assert read("softmax") == ()
    keep("softmax", [kept])
    assert read("softmax") == (kept,)
    use_tuned("softmax", module)
    assert {("portable", "float32", 16, 16, False): module.Tile(16, 32, 0, 0)} == module.TUNED


@pytest.mark.parametrize("changes", [{"op": "another"}, {"machine": replace(this_machine("cpu"), torch="1.0")},
                                     {"machine": replace(this_machine("cpu"), device="another")}])  # fmt: skip
def test_and_for_no_other_op_or_machine(module: ModuleType, changes: dict[str, Any]) -> None:
    keep("softmax", [entry(module, **changes)])
    use_tuned("softmax", module)
    assert module.TUNED == {}


def test_a_later_one_takes_the_place_of_an_earlier_one(module: ModuleType) -> None:
    other = entry(module, masked=True)
    keep("softmax", [entry(module), other])
    later = entry(module, tile=(64, 64, 0, 0))
    keep("softmax", [later])
    assert set(read("softmax")) == {later, other}
    assert tiles.forget("softmax") == 2
    assert read("softmax") == ()


@pytest.mark.parametrize("tile", [[1, 2, 3], [16, 16, 4, True], [16, 16, 4, "1"], [-1, 16, 4, 1], [10**6, 16, 4, 1]])
def test_a_file_that_is_not_right_is_told_of_and_unused(module: ModuleType, tile: list[Any]) -> None:
    path = keep("softmax", [entry(module)])
    given = json.loads(path.read_text())
    given["entries"][0]["tile"] = tile
    path.write_text(json.dumps(given))
    with pytest.warns(UserWarning, match=r"softmax\.tiles\.json is not used"):
        use_tuned("softmax", module)
    assert module.TUNED == {}


def test_load_uses_them_and_the_op_obeys(monkeypatch: pytest.MonkeyPatch) -> None:
    module = module_of("sigmoid")
    seen: list[tuple[int, int]] = []
    rows = module._portable_rows
    monkeypatch.setattr(module, "_portable_rows", lambda *args: seen.append(args[-1]) or rows(*args))
    q, k, v = (torch.randn(1, 1, 48, 16) for _ in range(3))
    keep("sigmoid", [entry(module, tile=(16, 16, 0, 0))])
    op = attngen.load("sigmoid")
    full, masked = op(q, k, v), op(q, k, v, is_causal=True)
    assert seen == [(0, 16), (16, 32), (32, 48), (0, 48)]  # the entry is for calls without a mask
    tiles.forget("sigmoid")
    attngen.load("sigmoid")
    torch.testing.assert_close(op(q, k, v), full)
    torch.testing.assert_close(op(q, k, v, is_causal=True), masked)
    assert seen[4:] == [(0, 48), (0, 48)]


def test_masks_of_every_kind_are_told_from_none() -> None:
    module = module_of("sigmoid")
    module.TUNED["portable", "float32", 16, 16, True] = module.Tile(1, 1, 0, 0)
    q = torch.randn(1, 1, 48, 16)

    def tuned(**mask: Any) -> bool:
        given = {"is_causal": False, "scale": None, "window": None, "alignment": "upper_left"} | mask
        return module._tuned("portable", q, q, module._call(q, q, *given.values())) is not None

    try:
        assert not tuned()
        assert not tuned(window=48)
        assert tuned(is_causal=True)
        assert tuned(window=(3, -1))
        assert tuned(window=(-1, 3))
    finally:
        module.TUNED.clear()
