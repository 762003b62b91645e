"""Runs every benchmark in a process of its own, passing the flags on, and renders the tables.

`python bench/run_all.py --device cpu` measures all that a machine without a GPU can.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    """All benchmarks; the exit status is 1 if one of them failed."""
    flags, start, failed = sys.argv[1:], time.monotonic(), []
    for script in sorted(HERE.glob("bench_*.py")):
        command = [sys.executable, str(script), *flags]
        print("$", " ".join(command), flush=True)
        if subprocess.run(command, check=False).returncode:
            failed.append(script.name)
    print(f"{time.monotonic() - start:.0f} s; failed: {', '.join(failed) or 'none'}")
    if not {"--out", "-h", "--help"} & set(flags):
        subprocess.run([sys.executable, str(HERE / "render.py")], check=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
