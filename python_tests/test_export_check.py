"""The check of an exported file: it compares classes, decides ties in float64, and leaves the student as it was."""

from __future__ import annotations

import pytest
import torch
from networks import tiny
from torch import Tensor, nn

from hast_cuda.exports import check


def _images(count: int) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def test_the_student_keeps_its_modes() -> None:
    student = tiny().train()
    student.features[1].eval()
    modes = [m.training for m in student.modules()]
    assert check(tiny(), student, _images(5)).passed()
    assert [m.training for m in student.modules()] == modes
    with pytest.raises(ValueError, match="does not take images"):
        check(tiny(), student, torch.zeros(2, 1, 8, 8))
    assert [m.training for m in student.modules()] == modes


class Tied(nn.Module):
    """Its second class wins by less than float32 holds."""

    def __init__(self) -> None:
        super().__init__()
        self.ones = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        lead = torch.tensor([0, 1e-9, -1], dtype=x.dtype)
        return (self.ones + lead).expand(len(x), 3) + 0 * x.mean()


@pytest.mark.parametrize(("logits", "agreement"), [([1.0, 1.001, 0], 100), ([1.001, 1, 0], 100), ([1.0, 1, 1.001], 0)])
def test_a_tie_is_decided_in_float64(logits: list[float], agreement: float) -> None:
    found = check(lambda x: torch.tensor(logits).expand(len(x), 3), Tied(), _images(5))
    assert found.top1_agreement == agreement


class Single(Tied):
    """Has a float32 constant, which no conversion reaches."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) @ torch.eye(3)


def test_a_network_of_float32_alone_is_judged_by_it() -> None:
    found = check(lambda x: torch.tensor([1.0, 1.001, 0]).expand(len(x), 3), Single(), _images(5))
    assert found.top1_agreement == 0
