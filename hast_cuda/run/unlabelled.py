"""What a run knows of its student's quality without a label: how close it is to the original on images held out."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hast_cuda.finetune import agreement, output_noise
from hast_cuda.finetune.layer_noise import layer_signal_to_noise
from hast_cuda.loops.modes import frozen_copy


def unlabelled_figures(
    teacher: nn.Module, prepared: nn.Module, student: nn.Module, held_out: Tensor | None, classes: int
) -> dict[str, Any]:
    """Entries of ``result.json``; None where nothing was held out.

    Args:
        teacher: the network that was given.
        prepared: what was made of it before quantization; its layers are those of the student.
        student: on the device that computes.
        held_out: images [N, C, H, W].
        classes: 0 for a network that classifies nothing, whose outputs are compared instead.
    """
    if held_out is None:
        return {"agreement": None, "signal_to_noise": None}
    device = next(student.parameters()).device
    images, original = held_out.to(device), frozen_copy(teacher, device)
    return {
        "agreement": agreement(original, student, images) if classes else None,
        **({} if classes else {"output_noise": output_noise(original, student, images)}),
        "signal_to_noise": layer_signal_to_noise(prepared.to(device), student, images),
    }
