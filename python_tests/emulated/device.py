"""Makes CPU tensors run the kernels of the emulated module: more devices for the op tests."""

from __future__ import annotations

import ctypes
import importlib
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from hast_cuda.ops import _registry, _workspace

# By name: the package also has functions called match_loss and channel_attention.
_OPS = [
    importlib.import_module(f"hast_cuda.ops.{stem}")
    for stem in (
        "fake_quantize",
        "fake_quantize_weights",
        "update_range",
        "batch_norm_match",
        "batch_norm_activation",
        "batch_norm_backward",
        "match_loss",
        "channel_attention",
        "attention_loss",
        "distillation_loss",
        "hard_sample_loss",
        "plateau",
        "soft_round_weights",
    )
]
COUNTERS = 4096


class EmulatedCore:
    """The emulated module with a check after every call that the counters are back at zero."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.counters = torch.zeros(COUNTERS, dtype=torch.int32)
        self.one_at_a_time = threading.Lock()  # there is one machine, whichever thread launches

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self.module, name)

        def call(**arguments: Any) -> Any:
            with self.one_at_a_time:
                result = function(**arguments)
            assert not self.counters.any(), f"{name} left counters behind"
            return result

        return call

    def counters_for(self, _: Tensor, count: int) -> int:
        """Address of zeroed counters, as the workspace would give."""
        assert count <= COUNTERS
        return self.counters.data_ptr()


def emulate(patch: pytest.MonkeyPatch, module: ModuleType, index: int) -> EmulatedCore:
    """Send CPU tensors to ``module``, index 0 for its CUDA kernels, until ``patch`` is undone."""
    core = EmulatedCore(module)
    ctypes.CDLL(module.__file__).hast_emulated_restart()  # a test alone sees the same orders
    for op in _OPS:
        patch.setattr(op, "core", core)
    patch.setattr(_registry, "device_and_stream", lambda _: (index, 0))
    patch.setattr(_workspace, "counters", core.counters_for)
    return core
