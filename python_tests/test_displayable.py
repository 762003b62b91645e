"""Pixels that are projected into a range after every step of the synthesis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from counting import count, synthesis_iteration
from networks import CHANNELS, CLASSES, SIZE, tiny
from test_host_reads import refuse_reads
from torch import Tensor

from hast_cuda.data import InputSpec
from hast_cuda.loops.execution import Execution
from hast_cuda.synthesis import SynthesisConfig, synthesize
from hast_cuda.synthesis.step import SynthesisStep

pytestmark = pytest.mark.usefixtures("exact")
SHAPE = InputSpec(CHANNELS, SIZE, SIZE, CLASSES)
CONFIG = SynthesisConfig(num_images=6, batch_size=4, iterations=8, learning_rate=0.5, augment_probability=0.5)
LOW, HIGH = (-0.5, -0.4, -0.3), (0.6, 0.3, 0.5)
BOUNDED = replace(CONFIG, lowest=LOW, highest=HIGH)


def ends(device: torch.device) -> tuple[Tensor, Tensor]:
    low, high = (torch.tensor(end, device=device).view(1, -1, 1, 1) for end in (LOW, HIGH))
    return low, high


@pytest.mark.parametrize("channels_last", [False, True])
def test_pixels_stay_inside_at_every_step(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, channels_last: bool
) -> None:
    """At the start, which noise leaves, and after each step."""
    seen: list[bool] = []
    touched: list[bool] = []
    low, high = ends(device)
    call, start = SynthesisStep.__call__, SynthesisStep.start

    def look(self: SynthesisStep) -> None:
        x = self.images.detach()
        seen.append(bool(((x >= low) & (x <= high)).all()))
        touched.append(bool(((x == low) | (x == high)).any()))

    def watched(self: SynthesisStep, crops: Tensor | None = None) -> None:
        call(self, crops)
        look(self)

    def begun(self: SynthesisStep, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        look(self)

    monkeypatch.setattr(SynthesisStep, "__call__", watched)
    monkeypatch.setattr(SynthesisStep, "start", begun)
    execution = Execution(channels_last=channels_last)
    made = synthesize(tiny(), SHAPE, BOUNDED, device=device, execution=execution).images.to(device)
    assert len(seen) == 2 * (BOUNDED.iterations + 1)  # a smaller last batch
    assert all(seen)
    assert all(touched)
    assert bool(((made >= low) & (made <= high)).all())


def test_a_range_that_is_never_left_changes_nothing(device: torch.device) -> None:
    free = synthesize(tiny(), SHAPE, CONFIG, device=device).images
    wide = replace(CONFIG, lowest=(-1e3,) * CHANNELS, highest=(1e3,) * CHANNELS)
    assert torch.equal(synthesize(tiny(), SHAPE, wide, device=device).images, free)
    assert not torch.equal(synthesize(tiny(), SHAPE, BOUNDED, device=device).images, free)
    low, high = ends(torch.device("cpu"))
    assert not bool(((free >= low) & (free <= high)).all())


def test_projection_is_one_launch_and_reads_nothing() -> None:
    shape = (4, CHANNELS, SIZE, SIZE)
    free, bounded = (count(synthesis_iteration(tiny(), shape, config)) for config in (CONFIG, BOUNDED))
    assert bounded.launches == free.launches + 1
    refuse_reads(synthesis_iteration(tiny(), shape, BOUNDED))


def test_ends_of_a_spec_are_black_and_white() -> None:
    spec = InputSpec(2, 1, 1, 2, (0.25, 0.5), (0.5, 0.25))
    assert spec.displayable == ((-0.5, -2.0), (1.5, 2.0))
    assert InputSpec(1, 1, 1, 2).displayable == ((0.0,), (1.0,))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lowest": (0.0,)}, r"lowest is \(0.0,\), highest \(\); allowed"),
        ({"lowest": (0.0, 1.0), "highest": (1.0, 1.0)}, "the lowest below the highest"),
        ({"lowest": (float("nan"),), "highest": (1.0,)}, r"lowest is \(nan,\)"),
        ({"lowest": (0.0,), "highest": (1.0,), "generator_rate": 0.1}, "generator_rate has a network make them"),
    ],
)
def test_ends_that_cannot_be(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SynthesisConfig(**changed)


def test_ends_for_other_channels_are_refused() -> None:
    config = replace(CONFIG, lowest=(0.0,), highest=(1.0,))
    with pytest.raises(ValueError, match=r"lowest is \(0.0,\); expected one for each of the 3 channels"):
        synthesize(tiny(), SHAPE, config)
