"""Signal-to-noise ratio of every quantized layer's output, on images without labels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_images, explained_forward
from hast_cuda.loops.modes import eval_mode, hooked
from hast_cuda.nn.quantized_weight import QuantizedWeight

CHUNK = 64  # images per forward pass
LARGEST = 200.0  # decibels; two equal maps have no noise


@typed
@torch.no_grad()
def layer_signal_to_noise(teacher: nn.Module, student: nn.Module, images: Tensor) -> dict[str, float]:
    """How much of each layer's output is the original's, in decibels, in the order of execution.

    ``10 log10(sum t^2 / sum (s - t)^2)`` of the outputs t of the teacher's layer and s of the student's
    of the same name, over all images, channels and positions; at most 200. What layers before it did
    to its input counts too.

    Args:
        teacher: the network that was quantized.
        student: its quantized copy.
        images: [N, C, H, W], normalised, on the device of both.

    Raises:
        ValueError: images that a network does not take; a quantized layer that the teacher lacks.

    Example:
        >>> import hast_cuda as hc
        >>> teacher, images = hc.load_teacher("digits"), torch.randn(4, 1, 8, 8)
        >>> student = hc.calibrate(hc.quantize(teacher, 4, 4), [images])
        >>> list(layer_signal_to_noise(teacher, student, images))[0]
        'stem.0'
    """
    check_images("images", images)
    layers = {name: module for name, module in student.named_modules() if isinstance(module, QuantizedWeight)}
    originals = dict(teacher.named_modules())
    missing = [name for name in layers if name not in originals]
    if missing:
        raise ValueError(f"teacher has no layer {missing[0]!r}: give the network that the student was made from")
    outputs: dict[str, list[Tensor]] = {}
    sums: dict[str, tuple[float, float]] = {}

    def keep(name: str) -> Any:
        return lambda _module, _args, output: outputs.setdefault(name, []).append(output)

    def compare(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
            exact = outputs[name].pop(0)  # of the same call
            signal, noise = sums.get(name, (0.0, 0.0))
            found = exact.double().square().sum(), (output.double() - exact.double()).square().sum()
            sums[name] = signal + float(found[0]), noise + float(found[1])

        return hook

    handles = [originals[name].register_forward_hook(keep(name)) for name in layers]
    handles += [module.register_forward_hook(compare(name)) for name, module in layers.items()]
    with hooked(handles), eval_mode(teacher), eval_mode(student), explained_forward("images", images):
        for part in images.split(CHUNK):
            teacher(part)
            student(part)
    return {name: _decibels(*pair) for name, pair in sums.items()}


def _decibels(signal: float, noise: float) -> float:
    if noise <= signal * 10 ** (-LARGEST / 10):
        return LARGEST
    return max(10 * math.log10(signal / noise), -LARGEST) if signal else -LARGEST
