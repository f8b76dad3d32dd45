"""generated/ is what specs/ gives, to the byte: in whatever folder, process and order of hashing."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = tuple(path.stem for path in sorted((ROOT / "specs").glob("*.yaml")))


def build(folder: Path) -> None:
    """Write the modules into `folder`, with another hash seed than other builds, from copies of the specs there."""
    for name in NAMES:
        (folder / f"{name}.yaml").write_bytes((ROOT / "specs" / f"{name}.yaml").read_bytes())
    arguments = ["build", *(f"{name}.yaml" for name in NAMES)]
    command = [sys.executable, "-c", "from attngen.cli import main; main()", *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)


def test_a_build_elsewhere_gives_the_same_bytes(tmp_path: Path) -> None:
    build(tmp_path)
    for name in NAMES:
        assert (tmp_path / f"{name}.py").read_bytes() == (ROOT / "generated" / f"{name}.py").read_bytes(), name
