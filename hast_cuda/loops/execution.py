"""How the loops compute, apart from what: precision, memory layout, CUDA graphs, merged layers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import check_fields
from hast_cuda.checks.values import check_choice, check_range

PRECISIONS = ("fp32", "tf32", "bf16")
GRAPHS = ("auto", "on", "off")
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Execution:
    """Options of a run that trade speed, memory and the last bits of its figures.

    Example:
        >>> import hast_cuda as hc
        >>> hc.Execution(precision="bf16").channels_last
        False
    """

    merge: bool = True
    """Let BatchNorm layers take along residual sum, activation and quantizer."""
    cuda_graphs: str = "auto"
    """"on": capture each loop once and fail if that fails; "auto": warn and go on; "off"."""
    channels_last: bool = False
    """Keep images and feature maps channels_last; tensor cores prefer it."""
    precision: str = "fp32"
    """Of convolutions and linear layers: "fp32", "tf32" (GPU), "bf16" (autocast). Statistics,
    ranges, losses and optimizer states stay float32."""
    checkpoint_segments: int = 0
    """Synthesis: keep the activations of one of so many parts of the network at a time and compute
    the others again; 0 keeps all."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_choice("cuda_graphs", self.cuda_graphs, GRAPHS)
        check_choice("precision", self.precision, PRECISIONS)
        check_range("checkpoint_segments", self.checkpoint_segments, 0)
        if self.checkpoint_segments and not self.merge:
            raise ValueError("checkpoint_segments cuts a merged network in parts; it needs merge")

    def network(self, model: M) -> M:
        """``model``, edited, in the run's memory format; ValueError where oneDNN breaks it."""
        if self.channels_last:
            _refuse_broken_convolutions(model)
        return model.to(memory_format=torch.channels_last) if self.channels_last else model  # type: ignore[call-overload,no-any-return,unused-ignore]

    def images(self, x: Tensor) -> Tensor:
        """``x`` in the memory format of this run."""
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")


def _refuse_broken_convolutions(model: nn.Module) -> None:
    """oneDNN 3.12 (torch 2.14) on one thread writes past its buffer in a weight gradient.

    Found with glibc's malloc checks for channels_last 1x1 convolutions of stride 2 with 3, 4 and 6
    input channels; with 8 and more, and on 2 and 3 threads, nothing was found.
    """
    found = re.search(r"(?:oneDNN|MKL-DNN) v(\d+(?:\.\d+)*)", torch.__config__.show())
    version = "unknown" if found is None else found.group(1)
    broken = version == "unknown" or f"{version}.".startswith("3.12.")
    if not broken or torch.get_num_threads() > 1:
        return
    for name, module in model.named_modules():
        if (
            isinstance(module, nn.Conv2d)
            and module.weight.device.type == "cpu"
            and module.kernel_size == (1, 1)
            and max(module.stride) > 1
            and module.in_channels // module.groups < 8
        ):
            raise ValueError(
                f"channels_last on a CPU: the gradient of {name!r}, a strided 1x1 convolution with "
                "fewer than 8 input channels, corrupts memory in oneDNN 3.12 on one thread (here: "
                f"version {version}); leave channels_last off, or use more threads"
            )


@contextmanager
def convolution_rules(execution: Execution) -> Iterator[None]:
    """cuDNN algorithms that give the same bits twice, TF32 as asked for; no effect on the CPU."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.deterministic, cudnn.benchmark = True, False
    cudnn.allow_tf32 = matmul.allow_tf32 = execution.precision == "tf32"
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before
