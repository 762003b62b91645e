"""An iteration never asks the device for a value: that would wait for it, and end a CUDA graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from counting import finetune_iteration, synthesis_iteration
from networks import CHANNELS, SIZE, tiny
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from hast_cuda.finetune import FinetuneConfig
from hast_cuda.synthesis import SynthesisConfig

READS = {
    Tensor.item,
    Tensor.tolist,
    Tensor.numpy,
    Tensor.cpu,
    Tensor.__bool__,
    Tensor.__float__,
    Tensor.__int__,
    Tensor.__index__,
    Tensor.__contains__,
    Tensor.nonzero,
    torch.nonzero,
    torch.equal,
    torch.masked_select,
}
READ_OPERATORS = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::is_nonzero",
    "aten::unique_dim",
    "aten::_unique2",
}


class HostReadError(AssertionError):
    """A value was asked for."""


class NoCalls(TorchFunctionMode):
    """Refuses what Python code would use to read a tensor."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Refuse or run."""
        if func in READS:
            raise HostReadError(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


class NoOperators(TorchDispatchMode):
    """Refuses operators whose result or its size depends on values, from wherever they come."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Refuse or run."""
        name = func._schema.name
        masks = name.startswith("aten::index") and isinstance(args[1], (list, tuple))
        if name in READ_OPERATORS or (masks and any(i is not None and i.dtype == torch.bool for i in args[1])):
            raise HostReadError(name)
        return func(*args, **(kwargs or {}))


def refuse_reads(iteration: Any) -> None:
    """Run twice: once as it is, once with every read refused."""
    iteration()
    with NoCalls(), NoOperators():
        iteration()


SHAPE = (4, CHANNELS, SIZE, SIZE)


@pytest.mark.parametrize(
    "config",
    [
        SynthesisConfig(),
        SynthesisConfig(schedule="cosine"),
        SynthesisConfig(augment_probability=0.5),
        SynthesisConfig(difficulty_exponent=0.5, detach_difficulty=True, match_reduction="norm"),
    ],
    ids=["plateau", "cosine", "crops", "norm"],
)
def test_synthesis(config: SynthesisConfig) -> None:
    refuse_reads(synthesis_iteration(tiny(), SHAPE, config))


@pytest.mark.parametrize(
    "config",
    [
        FinetuneConfig(),
        FinetuneConfig(max_grad_norm=1.0, schedule="cosine"),
        FinetuneConfig(perturbation=0.0, normalized_attention=False),
        FinetuneConfig(feature_weight=0.0, clean_weight=0.0),
        FinetuneConfig(alignment="cam", label_weight=1.0, label_difficulty=0.6),
    ],
    ids=["default", "clipped", "clean", "perturbed", "maps of classes"],
)
def test_finetuning(config: FinetuneConfig) -> None:
    refuse_reads(finetune_iteration(tiny(), SHAPE, config))


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.item(),
        float,
        lambda x: bool(x > 0),
        lambda x: x.tolist(),
        lambda x: x.reshape(1).nonzero(),
        lambda x: x.numpy(),
        lambda x: x.cpu(),
        lambda x: x.reshape(1)[x.reshape(1) > 0],
    ],
)
def test_reads_are_noticed(read: Any) -> None:
    x = torch.zeros(())
    with pytest.raises(HostReadError), NoCalls(), NoOperators():
        read(x)
