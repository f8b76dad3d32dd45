"""The cache folder: whose it must be, what is imported from it, and many processes at once."""

import multiprocessing
import os
import sys
import time
from pathlib import Path

import pytest

from attngen.runtime import cache
from attngen.runtime.loader import import_file

TEXT = "KERNELS = ()\nanswer = 42\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache"
    monkeypatch.setenv(cache.VARIABLE, str(path))
    return path


def built() -> tuple[str, str]:
    return "demo", TEXT


def not_to_be_built() -> tuple[str, str]:
    raise AssertionError("this should have been found")


def test_the_folder_is_made_private(folder: Path) -> None:
    assert cache.cache_dir() == folder
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_folder_that_others_may_write_to_is_refused(folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(cache.CacheError, match="others may write"):
        cache.cache_dir()


def test_another_users_folder_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(cache.CacheError, match="belongs to another user"):
        cache.cache_dir()


def test_without_a_folder_to_write_to_there_is_a_private_one_and_one_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    folder.write_text("a file stands where the folder should")
    monkeypatch.setenv(cache.VARIABLE, str(folder / "inside"))
    first, second = cache.cache_dir(), cache.cache_dir()
    assert first == second
    assert first.stat().st_mode & 0o777 == 0o700
    assert [str(w.message).partition("attngen cannot write to")[1] != "" for w in recwarn] == [True]
    assert import_file(cache.find_or_build("unwritable", built)).answer == 42


def test_a_request_is_built_once(folder: Path) -> None:
    first = cache.find_or_build("request", built)
    assert cache.find_or_build("request", not_to_be_built) == first
    assert first.path.read_text() == TEXT


@pytest.mark.parametrize("damage", [TEXT[:-3], TEXT + "import os", "", "\udcff"])
def test_a_damaged_module_is_built_anew(folder: Path, damage: str) -> None:
    path = cache.find_or_build("request", built).path
    path.write_bytes(damage.encode("utf-8", errors="surrogateescape"))
    assert cache.find_or_build("request", built).text == TEXT
    assert path.read_text() == TEXT


@pytest.mark.parametrize("record", ["", "demo", "no-such.py"])
def test_a_damaged_record_is_built_anew(folder: Path, record: str) -> None:
    cache.find_or_build("request", built)
    (folder / "request.found").write_text(record)
    assert cache.find_or_build("request", built).text == TEXT


def _count_builds(gate: "multiprocessing.synchronize.Barrier", log: Path) -> None:  # type: ignore[name-defined]
    def logged() -> tuple[str, str]:
        with log.open("a") as file:
            file.write("built\n")
        time.sleep(0.3)  # long enough for the others to come in, if nothing holds them
        return built()

    gate.wait()
    if import_file(cache.find_or_build("together", logged)).answer != 42:
        sys.exit(1)


def test_four_processes_at_once_build_once(folder: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    gate, log = context.Barrier(4), tmp_path / "log"
    processes = [context.Process(target=_count_builds, args=(gate, log)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert log.read_text() == "built\n"
