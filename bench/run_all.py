"""Runs every benchmark in a process of its own, passing the flags on, and renders the tables.

`python bench/run_all.py --device cpu` measures all that a machine without a GPU can.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
# Flags of the harness that a script without its rounds understands; all others have them all.
FEWER = {
    "bench_export.py": ("--out",),
    "bench_launches.py": ("--out",),
    "bench_long_run.py": ("--out",),
    "bench_run.py": ("--device", "--out"),
    "bench_memory.py": ("--device", "--out"),
    "bench_ranks.py": ("--device", "--out"),
}


def known(script: str, flags: list[str]) -> list[str]:
    """``flags`` without those that ``script`` does not have."""
    if script not in FEWER or {"-h", "--help"} & set(flags):
        return flags
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in FEWER[script]:
        parser.add_argument(name)
    found = vars(parser.parse_known_args(flags)[0])
    return [part for name, value in found.items() if value for part in (f"--{name}", value)]


def main() -> int:
    """All benchmarks; the exit status is 1 if one of them failed."""
    flags, start, failed = sys.argv[1:], time.monotonic(), []
    for script in sorted(HERE.glob("bench_*.py")):
        command = [sys.executable, str(script), *known(script.name, flags)]
        print("$", " ".join(command), flush=True)
        if subprocess.run(command, check=False).returncode:
            failed.append(script.name)
    print(f"{time.monotonic() - start:.0f} s; failed: {', '.join(failed) or 'none'}")
    if not {"--out", "-h", "--help"} & set(flags):
        subprocess.run([sys.executable, str(HERE / "render.py")], check=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
