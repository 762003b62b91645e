"""bench/gpu_suite.sh on a made-up GPU: every step starts, says how it ended, and leaves its results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SUITE = ROOT / "bench" / "gpu_suite.sh"
CALL = 600  # seconds, of one call on a machine with a GPU
BEFORE = 15 + 100  # wheels and build, which a dry run does not have
CALLS = {
    "1": {"smoke", "gpu-failed_capture", "stress", "bench-kernels", "bench-losses", "render"},
    "2": {"op-fake_quantize", "op-soft_round_weights", "sanitizer-initcheck", "bench-step", "bench-memory", "demo"},
}
pytestmark = pytest.mark.gate  # minutes of imports, for CI


def environment(out: Path, module: Path | None, **more: str) -> dict[str, str]:
    """As on a machine with a GPU, but for what is made up."""
    given = {**os.environ, "OUT": str(out), "PYTHON": sys.executable, "HAST_BENCH_COMMIT": "0000000", **more}
    return {**given, "HAST_EMULATED_MODULE": str(module)} if module else given


def steps(out: Path) -> dict[str, Any]:
    """What every step says of itself."""
    return {path.stem: json.loads(path.read_text()) for path in (out / "steps").glob("*.json")}


# In place of Python, for what is cut off before its imports are done: it looks for the scripts and waits.
WAITING = f"""#!/bin/sh
[ "$1" = -c ] && exec "{sys.executable}" "$@"
for word; do case $word in *.py) [ -e "$word" ] || exit 9 ;; esac; done
exec sleep 60
"""


@pytest.mark.parametrize("call", CALLS)
def test_every_step_of_a_call_is_cut_off_and_says_so(call: str, tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(WAITING)
    python.chmod(0o755)
    given = environment(tmp_path, tmp_path, LIMIT="0.2", PYTHON=str(python))
    command = [str(SUITE), "--call", call, "--dry-run"]
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
    found = steps(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert found.keys() >= CALLS[call] - {"render"}
    for name in ("device", "imports", "info"):
        assert found.pop(name)["status"] == "passed"
    found.pop("render", None)
    assert {name: step["status"] for name, step in found.items()} == dict.fromkeys(found, "cut off")
    summary = (tmp_path / "summary.txt").read_text()
    for name in found:
        assert f"{name}: cut off after" in summary
        assert (tmp_path / "steps" / f"{name}.log").exists()
    assert sum(step["limit"] for step in steps(tmp_path).values()) + BEFORE < CALL


def test_the_checks_and_times_of_a_call_pass(emulated_path: Path, tmp_path: Path) -> None:
    command = [str(SUITE), "--only", "smoke,stress,kernels", "--dry-run"]
    done = subprocess.run(
        command, env=environment(tmp_path, emulated_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {step["status"] for step in steps(tmp_path).values()} == {"passed"}
    smoke = json.loads((tmp_path / "checks" / "smoke.json").read_text())
    assert len(smoke) > 50
    assert {row["wrong"] for row in smoke} == {None}
    stress = json.loads((tmp_path / "checks" / "stress.json").read_text())
    assert (stress["replays"], stress["differing"], stress["counters_left"], stress["threads"]) == (10_000, 0, 0, 0)
    times = json.loads((tmp_path / "kernels-made-up-gpu.json").read_text())
    assert {row["clock"] for row in times["rows"]} == {"cuda graph"}


def test_a_call_that_is_killed_leaves_how_far_it_came(emulated_path: Path, tmp_path: Path) -> None:
    command = [str(SUITE), "--only", "smoke", "--dry-run"]
    suite = subprocess.Popen(
        command,
        env=environment(tmp_path, emulated_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    smoke = tmp_path / "checks" / "smoke.json"
    deadline = time.monotonic() + 120
    while not smoke.exists() and suite.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(suite.pid, signal.SIGKILL)
    suite.wait()
    assert json.loads(smoke.read_text())[0]["wrong"] is None
    assert steps(tmp_path)["smoke"]["status"] == "running"


def test_what_is_missing_is_named_at_once(tmp_path: Path) -> None:
    hidden = tmp_path / "bin" / "python"
    hidden.parent.mkdir()
    found = subprocess.run([ROOT / "bench" / "gpu_wheels.sh", "--list"], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["pytorchcv", "tyro", "docstring_parser", "typeguard"]
    hidden.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] || exec "{sys.executable}" "$@"\ncode=$2; shift 2\n'
        f'exec "{sys.executable}" -c "import importlib.util; find = importlib.util.find_spec\n'
        "importlib.util.find_spec = lambda name: None if name == 'tyro' else find(name)\n"
        '$code" "$@"\n'
    )
    hidden.chmod(0o755)
    given = environment(tmp_path / "out", tmp_path, PYTHON=str(hidden))
    done = subprocess.run(
        [str(SUITE), "--call", "1", "--dry-run"], env=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "missing: ['tyro']; bench/gpu_wheels.sh FOLDER collects" in done.stdout, done.stderr
    assert "smoke" not in steps(tmp_path / "out")
