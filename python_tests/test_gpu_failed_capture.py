"""A capture that fails. The allocator of the process may not recover: the last of all tests."""

from __future__ import annotations

import pytest
import torch
from gpu_cases import CUDA, NEEDS_CUDA

from hast_cuda.loops.graphs import WARM_UP, Replayed

pytestmark = NEEDS_CUDA


def test_a_function_that_reads_the_device_is_not_captured() -> None:
    x = torch.ones((), device=CUDA)

    def function() -> None:
        x.add_(float(x))

    before = torch.cuda.current_stream(CUDA)
    replayed, strict = (Replayed(function, CUDA, mode) for mode in ("auto", "on"))
    for _ in range(WARM_UP):
        replayed()
        strict()
    with pytest.warns(UserWarning, match="cannot be captured"):
        replayed()
    assert torch.cuda.current_stream(CUDA) == before
    with pytest.raises(RuntimeError):
        strict()
    assert torch.cuda.current_stream(CUDA) == before
    assert float(x) == 2 ** (2 * WARM_UP + 1)
