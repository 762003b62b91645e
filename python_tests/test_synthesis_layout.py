"""The memory layout of images, gradients and teacher changes nothing."""

from __future__ import annotations

import pytest
import torch
from networks import CHANNELS, CLASSES, SIZE, tiny

from hast_cuda.data import InputSpec
from hast_cuda.loops.execution import Execution
from hast_cuda.synthesis import SynthesisConfig, synthesize

SHAPE = InputSpec(CHANNELS, SIZE, SIZE, CLASSES)
# The gradient of a crop is contiguous, whatever the layout of the images.
CONFIG = SynthesisConfig(
    num_images=4, batch_size=4, iterations=8, learning_rate=0.1, augment_probability=1.0
)


@pytest.mark.parametrize("images_last", [False, True])
@pytest.mark.parametrize("teacher_last", [False, True])
def test_the_memory_layout_does_not_matter(
    device: torch.device, images_last: bool, teacher_last: bool
) -> None:
    expected = synthesize(tiny(), SHAPE, CONFIG, device=device).images
    layout = torch.channels_last if teacher_last else torch.contiguous_format
    found = synthesize(
        tiny().to(memory_format=layout),  # type: ignore[call-overload]
        SHAPE, CONFIG, device=device, execution=Execution(channels_last=images_last),
    ).images  # fmt: skip
    assert float((expected - found).abs().mean() / expected.abs().mean()) < 2e-3
