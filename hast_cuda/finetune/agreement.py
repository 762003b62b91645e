"""How well a student agrees with its teacher on images that it is not trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_images, explained_forward
from hast_cuda.loops.modes import eval_mode

CHUNK = 64  # images per forward pass
PARTNERS = 3  # images that each one is mixed with


@dataclass(frozen=True)
class Agreement:
    """Of two networks on some images.

    Example:
        >>> Agreement(divergence=0.02, same_class=98.4, between=0.11).same_class
        98.4
    """

    divergence: float
    """Kullback-Leibler divergence of the student's class probabilities from the teacher's, in nats,
    a mean over the images."""
    same_class: float
    """Images for which both give the same class, in percent."""
    between: float
    """The divergence halfway between pairs of the images."""

    @property
    def distance(self) -> float:
        """By which students are compared: the geometric mean of both divergences, so that a part
        counts by how many times it is better or worse."""
        return math.sqrt(self.divergence * self.between)


CLOSE, USABLE = 95.0, 80.0  # percent of the images with the same class


def verdict(same_class: float) -> str:
    """What the percentage of images with the same class means, in a sentence.

    Drawn where the networks of docs/benchmarks.md lie: above 95 % none of them lost more than a few
    points on real images, and a student that a mistake had destroyed had 17 %.
    """
    if same_class >= CLOSE:
        return "close to the original: expect it to lose a few points of accuracy at most"
    if same_class >= USABLE:
        return "loses noticeably against the original: more bits, images or iterations would help"
    return "far from the original: use more bits, and look at the layers with the lowest signal-to-noise ratio"


class HeldOutImages:
    """Images that no step sees, and what the teacher says about them and about pairs of them.

    Synthetic images are easy: students whose divergence on real ones differs by half are level on
    them. Halfway between two images the teacher itself is unsure, as it is on many real ones, and
    students differ; but no image looks like that. So both count.

    Args:
        teacher: full-precision network, on the device of ``images``.
        images: [N, C, H, W], normalised.
    """

    def __init__(self, teacher: nn.Module, images: Tensor) -> None:
        check_images("held_out", images)
        self.images, self.between = images, halfway(images)
        self._teacher, self._teacher_between = logits(teacher, images, "held_out"), logits(teacher, self.between)

    def agreement(self, student: nn.Module) -> Agreement:
        """Of ``student``, in eval mode, with the teacher."""
        own, between = logits(student, self.images), logits(student, self.between)
        apart, farther = divergence(self._teacher, own), divergence(self._teacher_between, between)
        same = (self._teacher.argmax(1) == own.argmax(1)).double().mean()
        return Agreement(apart, 100.0 * float(same), farther)


def halfway(images: Tensor) -> Tensor:
    """[K N, C, H, W], the means of each image and of the next one, the one after that, ...: ``PARTNERS`` or N - 1."""
    partners = range(1, max(min(PARTNERS, len(images) - 1), 1) + 1)
    return torch.cat([(images + images.roll(-shift, 0)) / 2 for shift in partners])


@typed
def agreement(teacher: nn.Module, student: nn.Module, images: Tensor) -> Agreement:
    """How often and how closely ``student`` says what ``teacher`` says.

    Args:
        teacher: [N, C, H, W] -> logits [N, classes].
        student: the same.
        images: normalised, on the device of both; ones that the student was not trained on.

    Raises:
        ValueError: images that a network does not take.

    Example:
        >>> import hast_cuda as hc
        >>> teacher, images = hc.load_teacher("digits"), torch.randn(4, 1, 8, 8)
        >>> hc.finetune.agreement(teacher, teacher, images)
        Agreement(divergence=0.0, same_class=100.0, between=0.0)
    """
    check_images("images", images)
    return HeldOutImages(teacher, images).agreement(student)


@torch.no_grad()
def logits(network: nn.Module, images: Tensor, name: str = "images") -> Tensor:
    """[N, classes] on the CPU, in eval mode; an error calls the images ``name``."""
    with eval_mode(network), explained_forward(name, images):
        return torch.cat([network(part).detach().cpu() for part in images.split(CHUNK)])


def divergence(teacher: Tensor, student: Tensor) -> float:
    """Kullback-Leibler divergence of class probabilities, in nats, a mean over the images; both logits."""
    if teacher.dim() != 2 or teacher.shape != student.shape:
        raise ValueError(
            f"teacher gives {list(teacher.shape)} and student {list(student.shape)}; expected logits [N, classes] "
            "of the same classes"
        )
    expected, found = (x.double().log_softmax(1) for x in (teacher, student))
    return max(float((expected.exp() * (expected - found)).sum(1).mean()), 0.0)
