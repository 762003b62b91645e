"""Runs op tests in a process of its own, which loads a module that was built for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from emulated import sanitizer

HERE = Path(__file__).parents[1]


def run_op_tests(
    module: Path, selected: str, names: Iterable[str], *options: str, sanitized: bool
) -> subprocess.CompletedProcess[str]:
    """The tests of ``names`` that ``-k selected`` takes, until one fails."""
    environment = sanitizer.environment() if sanitized else os.environ
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-n",
            "0",
            "-q",
            "-s",
            "-x",
            "--tb=short",
            "-p",
            "no:cacheprovider",
            "-c",
            HERE.parent / "pyproject.toml",
            "--rootdir",
            HERE.parent,
            "-k",
            selected,
            *options,
            *(HERE / f"{name}.py" for name in names),
        ],
        cwd=module.parent,  # away from the source tree, which has no compiled core
        env={**environment, "HAST_EMULATED_MODULE": str(module)},
        capture_output=True,
        text=True,
        check=False,
    )
