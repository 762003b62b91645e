"""Plants one mistake after the other in a copy of the CUDA sources and runs the op tests on it.

``python python_tests/emulated/mutate.py [WORD]`` prints what caught each (all, or those whose
description has WORD); exit status 1 if one survives. About half a minute per mistake. The package
must be importable with its core (an editable install).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = [f"python_tests/test_{n}.py" for n in (
    "emulated", "fake_quant", "channel_range", "batch_stats", "channel_attention"
)]  # fmt: skip
PLANE = "unit * kWarps + threadIdx.x / kWarp"
# (file, what stands there, what is put there, description)
MISTAKES = [
    ("fake_quant.cu", "rest < length; rest", "rest + 1 < length; rest", "tail one short"),
    ("fake_quant.cu", "plane % channels)", "plane / channels)", "wrong channel of a plane"),
    ("channel_range.cu", "__ballot_sync(kFullMask, value.nan)", "value.nan", "NaN of other lanes"),
    ("batch_stats.cu", "+= difference * difference", "+= difference", "no square"),
    ("batch_stats.h", "? dmean[channel]", "? dvar[channel]", "swapped statistic gradients"),
    ("common/cuda_channel_sums.h", "split < splits;", "split + 1 < splits;", "last split lost"),
    ("common/cuda_reduce.h", "= value;\n  __syncthreads();", "= value;", "no barrier in block sum"),
    ("common/cuda_reduce.h", "atomicInc(counter, blocks - 1)", "atomicInc(counter, blocks)",
     "counter not back at zero"),
    ("match_loss.cu", "__syncthreads();", ";", "no barrier in the match loss"),
    ("channel_attention.cu", PLANE, f"{PLANE} + 1", "plane index one too high"),
    ("attention_loss.cu", "= -factor * difference", "= factor * difference", "wrong sign"),
]  # fmt: skip


def main() -> int:
    """Try every mistake; the number of survivors decides the exit status."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "build", "runs"))
        for file, old, new, description in MISTAKES:
            if word not in description:
                continue
            path = copy / "csrc" / file
            source = path.read_text(encoding="utf-8")
            if old not in source:
                print(f"OUTDATED  {file}: {description}")
                survivors += 1
                continue
            path.write_text(source.replace(old, new, 1), encoding="utf-8")
            command = ["pytest", "-q", "-x", "--tb=no", "-p", "no:cacheprovider", "-k", "emulated"]
            found = subprocess.run(
                [*command, *TESTS], cwd=copy, capture_output=True, text=True, check=False
            )
            path.write_text(source, encoding="utf-8")
            first = re.search(r"(?:FAILED|ERROR) \S+?::(\w+)", found.stdout)
            survivors += first is None
            print(f"{first.group(1) if first else 'SURVIVED':60s} {file}: {description}")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
