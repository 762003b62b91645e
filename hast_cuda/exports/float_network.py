"""The quantized network without this package's modules: dequantized weights in plain layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_path, check_values
from hast_cuda.exports.placement import PLAIN, QuantizedLayer
from hast_cuda.files.whole import replace_file
from hast_cuda.loops.modes import copied
from hast_cuda.networks.swap import swap_modules
from hast_cuda.networks.tracing import is_own
from hast_cuda.nn import FakeQuantActivation
from hast_cuda.nn.around import drop_around


@typed
@torch.no_grad()
def to_float(student: nn.Module) -> nn.Module:
    """A copy of ``student`` with its quantized weights in ``nn.Conv2d`` and ``nn.Linear``.

    Activation quantizers become the activation that they hold (``nn.ReLU``, ``nn.ReLU6``,
    ``nn.Identity``), so activations are in full precision: the outputs are those of the student
    with quantized weights only. State-dict keys are those of the float network.

    Args:
        student: from :func:`hast_cuda.quantize`; not edited. Ranges may be in any state.

    Raises:
        ValueError: a module of this package that has no plain counterpart.

    Example:
        >>> import hast_cuda as hc
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, None)
        >>> type(to_float(student).output)
        <class 'torch.nn.modules.linear.Linear'>
    """

    def convert(_: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, QuantizedLayer):
            return module.to_float()
        if isinstance(module, FakeQuantActivation):
            return PLAIN[module.activation](inplace=module.inplace).train(module.training)
        return None

    return plain_copy(drop_around(copied(student)), convert)


def plain_copy(student: nn.Module, convert: Callable[[str, nn.Module], nn.Module | None]) -> nn.Module:
    """A copy without quantized or merged modules, each replaced by what ``convert`` gives."""
    plain = swap_modules(copied(student), convert)
    for name, module in plain.named_modules():
        if is_own(module):
            raise ValueError(
                f"{name!r} is a {type(module).__name__}, which has no plain counterpart: give what "
                "hast_cuda.quantize returned, not what the loops made of it"
            )
    vars(plain).pop("quantization_table", None)  # an object of this package
    return plain


@typed
def save_float(student: nn.Module, path: Path | str, describe: Mapping[str, Any] | None = None) -> None:
    """Write the state dict of :func:`to_float` as safetensors, for the float network to load.

    ``describe`` goes into the metadata, as strings.

    Raises:
        ValueError: see :func:`to_float`. TypeError: state-dict entries that are no tensors.
        FileNotFoundError: no such directory.
    """
    path = output_path(path)
    check_values("student", student)
    state = to_float(student).state_dict()
    tensors = {name: stored_tensor(name, value) for name, value in state.items()}
    metadata = {"format": "pt", **{k: str(v) for k, v in (describe or {}).items()}}
    with replace_file(path) as temporary:
        save_file(tensors, temporary, metadata)


def output_path(path: Path | str) -> Path:
    """A path to write to; FileNotFoundError if its directory is not there."""
    path = as_path("path", path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not a directory: create it, or give path another place")
    return path


def stored_tensor(name: str, value: object) -> Tensor:
    """An entry of a state dict for a file: safetensors refuses tensors that share memory."""
    if not isinstance(value, Tensor):
        raise TypeError(f"state dict entry {name!r} is a {type(value).__name__}, not a tensor")
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)
