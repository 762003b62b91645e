"""``python -m hast_cuda.deploy student.hast IMAGE...``: classify image files, without torch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hast_cuda.deploy.classify import report
from hast_cuda.deploy.engine import load
from hast_cuda.deploy.terminal import any_terminal


def main() -> int:
    """Print a line per image; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hast_cuda.deploy", description="Classify image files.")
    parser.add_argument("file", type=Path, help="student.hast")
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--top", type=int, default=1, help="classes per image")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are processors")
    given = parser.parse_args()
    try:
        with any_terminal():
            _print_all(given)
    except (ValueError, OSError, ImportError) as error:
        print(f"hast_cuda.deploy: error: {error}", file=sys.stderr)
        return 1
    return 0


def _print_all(given: argparse.Namespace) -> None:
    for line in report(load(given.file), given.images, top=given.top, threads=given.threads):
        print(line)


if __name__ == "__main__":
    sys.exit(main())
