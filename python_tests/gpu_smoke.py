"""Every op forward and backward on a GPU, against float64 on the CPU; a script, without pytest.

Quantizers must give the bits of the CPU's kernels, which are those of the eager formula. After
every case the counters must be zero again. The results grow in OUT/smoke.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from gpu_cases import CUDA, OP_CASES, Inputs, OpCase, counters_left

from hast_cuda.files.whole import write_json

EXACT = {"fake_quantize", "fake_quantize-channels_last", "fake_quantize_weights", "quantize_activation-tracking"}
FLOAT_ONLY = {"soft_round_weights"}
# Of the largest value. A value between two steps of the quantizer may go to either.
CLOSE = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}
MAY_FLIP = {"batch_norm_activation": 0.002}  # of the values
CPU = torch.device("cpu")


def given(inputs: Inputs, device: torch.device, data: torch.dtype, rest: torch.dtype, layout: str) -> Inputs:
    """Maps and rows as ``data``, parameters and ranges as ``rest``."""
    found = []
    for x in inputs:
        kind = x.dtype if not x.is_floating_point() else data if x.dim() > 1 else rest
        moved = x.detach().to(device, kind, copy=True)
        if layout == "channels_last" and x.dim() == 4:
            moved = moved.contiguous(memory_format=torch.channels_last)
        found.append(moved.requires_grad_(x.requires_grad))
    return found


def failure(case: OpCase, dtype: torch.dtype, layout: str) -> str | None:
    """What is wrong, or None."""
    torch.manual_seed(0)
    made = given(case.make(CPU), CPU, dtype, torch.float32, layout)
    exact = case.name in EXACT
    own = given(made, CUDA, dtype, torch.float32, layout)
    expected = case.run(given(made, CPU, *((dtype, torch.float32) if exact else (torch.float64,) * 2), layout))
    found = case.run(own)
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        near = a.detach().to(CPU, torch.float64)
        gap = (near - b.detach().double()).abs()
        worst, scale = float(gap.max()), 1 + float(b.detach().abs().max())
        if exact and not torch.equal(near, b.detach().double()):
            return f"output {index} has other bits, by up to {worst:.2e}"
        if not exact and not worst <= CLOSE[dtype] * scale:
            flipped = float((gap > CLOSE[dtype] * scale).double().mean())
            if not flipped <= MAY_FLIP.get(case.name, 0.0):
                return f"output {index} is off by {worst:.2e} of {scale:.2e} in {flipped:.1%} of its values"
    left = counters_left()
    return f"{left} counters are not zero" if left else None


def main() -> int:
    """Every case in every dtype and layout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--few", action="store_true", help="float32 and bfloat16, contiguous: for the sanitizers")
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str | None]] = []
    for case in OP_CASES:
        for dtype in (torch.float32, torch.bfloat16) if flags.few else CLOSE:
            if dtype != torch.float32 and case.name in FLOAT_ONLY:
                continue
            for layout in ("contiguous",) if flags.few else ("contiguous", "channels_last"):
                try:
                    wrong = failure(case, dtype, layout)
                except RuntimeError as error:
                    wrong = f"{type(error).__name__}: {error}"
                rows.append({"op": case.name, "dtype": str(dtype), "layout": layout, "wrong": wrong})
                write_json(flags.out / "smoke.json", rows)
                if wrong:
                    print(f"FAILED {case.name}, {dtype}, {layout}: {wrong}", flush=True)
    bad = sum(row["wrong"] is not None for row in rows)
    print(f"{len(rows)} cases, {bad} wrong")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
