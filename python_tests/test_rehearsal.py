"""The tests that need a GPU, run on a made-up one: every name in them exists and takes what it is given."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("test_gpu_*.py"))


def rehearse(files: list[Path], module: Path, *more: str) -> str:
    """What pytest says at the end."""
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "HAST_EMULATED_MODULE": str(module), "PYTHONPATH": path}
    # pytest.main: with `python -m pytest` the source tree, which may have no core, would come first
    command = [sys.executable, "-c", "import sys, pytest; sys.path.pop(0); sys.exit(pytest.main())"]
    flags = ["-q", "-n", "0", "-p", "gpu_rehearsal", "-p", "no:cacheprovider", "--no-showlocals"]
    done = subprocess.run(
        [*command, *flags, *more, *map(str, files)], capture_output=True, text=True, env=environment, check=False
    )
    return done.stdout + done.stderr


def test_all_of_them_go_as_far_as_they_can_without_a_gpu(emulated_path: Path) -> None:
    assert len(FILES) == 4
    said = rehearse(FILES, emulated_path)
    found = re.search(r"^(\d+) passed in", said, re.MULTILINE)  # and nothing else, skipped or failed
    assert found, said
    assert int(found[1]) > 70


def test_a_name_that_does_not_exist_is_found(emulated_path: Path, tmp_path: Path) -> None:
    text = (HERE / "test_gpu_streams.py").read_text(encoding="utf-8")
    for name in ("conftest.py", "gpu_cases.py"):
        shutil.copy(HERE / name, tmp_path)
    changed = []
    for old, new in (("core.update_range(", "core.track_range("), ("beta=0.9,", "momentum=0.9,")):
        assert old in text
        changed.append(tmp_path / f"test_{len(changed)}.py")
        changed[-1].write_text(text.replace(old, new), encoding="utf-8")
    output = rehearse(changed, emulated_path, "-k", "test_launchers_allocate_nothing")
    for said in ("has no attribute 'track_range'", "beta is missing|expected, by keyword"):
        assert re.search(said, output), output
    assert re.search(r"^2 failed", output, re.MULTILINE), output
