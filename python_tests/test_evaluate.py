from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hast_cuda.data import ImageSet, evaluate, load_images
from hast_cuda.teachers import input_spec, load_teacher

SPEC = input_spec("digits")


class Table(nn.Module):
    """Logits by the value of the first pixel."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.dropout = nn.Dropout()
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append(self.training)
        pixels = x[:, 0, 0, 0] * SPEC.std[0] + SPEC.mean[0]
        return self.logits[(pixels * 16).round().long()]


def image_set(labels: list[int]) -> ImageSet:
    pixels = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    return ImageSet(SPEC, torch.tensor(labels), lambda i: pixels[torch.as_tensor(i)], 16, "test")


@pytest.mark.parametrize("batch_size", [1, 2, 3, 256])
def test_top1_counts_every_image(batch_size: int) -> None:
    assert evaluate(Table(torch.eye(3)), image_set([0, 1, 0]), batch_size=batch_size) == 200 / 3


def test_modes_and_gradients_are_restored() -> None:
    model = Table(torch.eye(3)).train()
    model.dropout.eval()
    evaluate(model, image_set([0]))
    assert (model.training, model.dropout.training, model.modes) == (True, False, [False])
    assert torch.is_grad_enabled()
    assert model.logits.requires_grad


def test_modes_are_restored_after_an_error() -> None:
    model = Table(torch.eye(3)).train()
    with pytest.raises(ValueError, match=r"the model has 3 classes, the labels go up to 5"):
        evaluate(model, image_set([5]))
    assert model.training


def test_a_device_is_used_and_left(device: torch.device) -> None:
    model = Table(torch.eye(3))
    assert evaluate(model, image_set([0, 1, 2]), device=device) == 100
    assert model.logits.device.type == "cpu"


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_broken_logits(value: float) -> None:
    with pytest.raises(ValueError, match="Table gives NaN or infinite logits on test"):
        evaluate(Table(torch.eye(3) * value), image_set([0, 1]))


def test_logits_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"logits \[2, 1, 8, 8\] for 2 images; .*\[2, classes\]"):
        evaluate(nn.Identity(), image_set([0, 1]))


def test_batch_size() -> None:
    with pytest.raises(ValueError, match="batch_size is 0; allowed: at least 1"):
        evaluate(Table(torch.eye(3)), image_set([0]), batch_size=0)


def test_demo_network_without_a_progress_bar(capfd: pytest.CaptureFixture[str]) -> None:
    assert evaluate(load_teacher("digits"), load_images("digits", spec=SPEC)) >= 97
    assert capfd.readouterr() == ("", "")
