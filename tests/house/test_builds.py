"""Two builds are equal to the byte, wherever and in whatever process, and generated/ is what specs/ gives."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = tuple(path.stem for path in sorted((ROOT / "specs").glob("*.yaml")))


def build(folder: Path, hash_seed: str) -> dict[str, bytes]:
    """The modules that a process with this hash seed writes; it runs in `folder`, on copies of the specs."""
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.yaml").write_bytes((ROOT / "specs" / f"{name}.yaml").read_bytes())
    command = [
        sys.executable,
        "-c",
        "from attngen.cli import main; main()",
        "build",
        *(f"{name}.yaml" for name in NAMES),
    ]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return {name: (folder / f"{name}.py").read_bytes() for name in NAMES}


def test_two_builds_are_equal_and_generated_is_current(tmp_path: Path) -> None:
    first = build(tmp_path / "first", "1")
    second = build(tmp_path / "second", "2")
    assert first == second
    assert first == {name: (ROOT / "generated" / f"{name}.py").read_bytes() for name in NAMES}
