"""Devices, dtypes and shapes that the whole suite shares."""

from __future__ import annotations

import pytest
import torch

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
# Aligned, ragged, batch 1, one channel, 1x1 maps, odd everything.
SHAPES = [(4, 16, 8, 8), (2, 3, 5, 7), (1, 5, 1, 1), (3, 1, 9, 4), (7, 33, 3, 3), (2, 64, 17, 1)]


def devices() -> list[str]:
    """The devices of this machine."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(params=devices())
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device in turn."""
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(1234)
