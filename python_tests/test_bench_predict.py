"""The predictions of times on a GPU divide maps as the launches do, and walk machine code on the shortest way."""

from __future__ import annotations

import ctypes
import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from sass import Instruction, Kernel

import hast_cuda as hc

BENCH = Path(__file__).parents[1] / "bench"
SHAPES = [(7, 32, 12, 4), (64, 8, 8, 8), (3, 16, 64, 36), (33, 40, 2, 2)]  # rows and channels of whole vectors
NEVER = sys.maxsize
RM, RV, STATE = torch.zeros(64), torch.ones(64), torch.tensor([0.0, 2.0, 0, 0, 0])


@pytest.fixture
def predict(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, imported as if run."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("predict_gpu")


def launched(module: Path) -> int:
    """Blocks that have run since the test began, or since the last call."""
    fences, blocks = ctypes.c_ulong(), ctypes.c_ulong()
    ctypes.CDLL(str(module)).hast_emulated_counts(ctypes.byref(fences), ctypes.byref(blocks))
    return blocks.value


@pytest.mark.parametrize("device", ["emulated"], indirect=True)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["planes", "rows", "energies", "flat", "tracked"])
def test_maps_are_divided_as_the_launches_divide_them(
    kind: str, shape: tuple[int, ...], device: torch.device, emulated_path: Path, predict: ModuleType
) -> None:
    x = torch.randn(shape, device=device)
    rm, rv = RM[: shape[1]], RV[: shape[1]]
    before = launched(emulated_path)
    if kind == "planes":
        hc.batch_norm_match(x, rm, rv)
    elif kind == "rows":
        hc.batch_norm_match(x.contiguous(memory_format=torch.channels_last), rm, rv)
    elif kind == "energies":
        hc.ops.batch_norm_activation(x, rm, rv, energy=True)
    elif kind == "flat":
        hc.quantize_activation(x, STATE, 4)
    else:
        hc.quantize_activation(x, STATE.clone(), 4, observe=True)
    blocks = launched(emulated_path) - before
    work = getattr(predict, kind)(shape, 4)
    quantized = predict.flat(shape, 4).blocks if kind == "tracked" else 0
    assert work.blocks == blocks - quantized
    elements = work.blocks * 256 * work.runs * work.vectors * 4
    assert x.numel() <= elements < 64 * x.numel()  # every element has a thread; blocks are whole


def code(*lines: tuple[str, int, bool]) -> tuple[Instruction, ...]:
    return tuple(
        Instruction(16 * at, opcode, target, sometimes) for at, (opcode, target, sometimes) in enumerate(lines)
    )


LOOP = code(
    ("LDG.E.128", NEVER, False),
    ("BRA", 0x40, True),  # past what is optional
    ("LDG.E.128", NEVER, False),
    ("FADD", NEVER, False),
    ("FMUL", NEVER, False),
    ("STG.E.128", NEVER, False),
    ("BRA", 0x0, True),
)


def test_the_shortest_turn_leaves_out_what_is_optional(predict: ModuleType) -> None:
    assert predict.fewest(LOOP, 128, 1, 1) == 5
    assert predict.fewest(LOOP, 128, 2, 1) == 7  # unless it is needed
    with pytest.raises(ValueError, match="loads 3"):
        predict.fewest(LOOP, 128, 3, 1)


def test_the_reason_is_the_longest_of_three(predict: ModuleType) -> None:
    kernel = Kernel("sum_planes<ForwardBody<float>, 4>", 40, 0, 1024, 0, "sm_90", LOOP)
    job = predict.Job("sum_planes/ForwardBody", (256, 64, 112, 112), torch.float32, predict.planes, 4, 2)
    found = predict.predict(job, kernel)
    assert found.why == "memory"
    assert found.time == pytest.approx(3 + found.memory + found.last_block, abs=0.2)
    small = predict.Job("sum_planes/ForwardBody", (8, 64, 8, 8), torch.float32, predict.planes, 4, 2)
    assert predict.predict(small, kernel).why == "waiting"
    assert found.blocks_per_sm == 6


def test_a_measurement_stands_beside_its_prediction(predict: ModuleType, tmp_path: Path) -> None:
    job = next(iter(predict.jobs()))
    row = {"op": "match", "case": job.case, "results": {"hast_cuda": {"p50_ms": 0.0125}}}
    (tmp_path / "kernels-nvidia-h200.json").write_text(f'{{"rows": [{row}]}}'.replace("'", '"'), encoding="utf-8")
    kernel = Kernel("sum_planes<ForwardBody<float>, 4>", 40, 0, 1024, 0, "sm_90", LOOP)
    text = predict.table([predict.predict(job, kernel)], [job.family], predict.measured(tmp_path))
    assert text.endswith("| 12.5 |")
