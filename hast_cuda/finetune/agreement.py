"""How well a student agrees with its teacher on images that it is not trained on: outputs, and layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_images, explained_forward
from hast_cuda.loops.crops import draw_crops, resize_crops
from hast_cuda.loops.modes import eval_mode, hooked
from hast_cuda.loops.seeding import generator
from hast_cuda.networks.outputs import gathered, noise_shares
from hast_cuda.nn.quantized_weight import QuantizedWeight

CROPS = 3  # of each image
AREA = (0.3, 0.8)  # of a crop


@dataclass(frozen=True)
class Agreement:
    """Of two networks on some images.

    Example:
        >>> Agreement(divergence=0.02, same_class=98.4, cropped=0.11).same_class
        98.4
    """

    divergence: float
    """Kullback-Leibler divergence of the student's class probabilities from the teacher's, in nats,
    a mean over the images."""
    same_class: float
    """Images for which both give the same class, in percent."""
    cropped: float
    """The divergence on parts of the images, enlarged: by this students are compared."""


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
    """Images [N, C, H, W] that no step sees, and what the teacher says about them and about parts of them.

    Synthetic images are easy: students whose divergence on real ones differs by half are level on
    them. Of a part, less than training ever cuts, the teacher itself is unsure, as it is on many real
    images, and students differ as they do there.
    """

    def __init__(self, teacher: nn.Module, images: Tensor) -> None:
        self.images, self.cropped = images, parts(images)
        self._teacher, self._teacher_cropped = logits(teacher, images, "held_out"), logits(teacher, self.cropped)

    def agreement(self, student: nn.Module) -> Agreement:
        """Of ``student``, in eval mode, with the teacher."""
        own, cropped = logits(student, self.images), logits(student, self.cropped)
        apart, farther = divergence(self._teacher, own), divergence(self._teacher_cropped, cropped)
        same = (self._teacher.argmax(1) == own.argmax(1)).double().mean()
        return Agreement(apart, 100.0 * float(same), farther)


def parts(images: Tensor) -> Tensor:
    """[3 N, C, H, W]: of each image three parts, the same in every call, enlarged to its size; none is mirrored."""
    if images.dim() != 4:
        raise ValueError(f"images is {list(images.shape)}: expected [N, C, H, W]")
    chosen = generator(0, "held out parts")
    cuts = draw_crops(CROPS * len(images), (images.shape[2], images.shape[3]), AREA, 0.0, chosen)
    return resize_crops(images.repeat(CROPS, 1, 1, 1), cuts.to(images.device))


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
        Agreement(divergence=0.0, same_class=100.0, cropped=0.0)
    """
    check_images("images", images)
    return HeldOutImages(teacher, images).agreement(student)


def logits(network: nn.Module, images: Tensor, name: str = "images") -> Tensor:
    """[N, classes] on the CPU, in eval mode; an error calls the images ``name``."""
    found = gathered(network, images, name)
    if list(found) != [""] or found[""].dim() != 2:
        shown = {place or "output": list(x.shape) for place, x in found.items()}
        raise ValueError(f"the network gives {shown}; expected logits [N, classes] alone: it classifies nothing")
    return found[""]


@typed
def output_noise(teacher: nn.Module, student: nn.Module, images: Tensor) -> dict[str, float]:
    """How far what ``student`` gives is from what ``teacher`` gives, for networks without classes.

    Args:
        teacher: [N, C, H, W] -> a tensor, or several in tuples, lists and dicts.
        student: the same.
        images: normalised, on the device of both.

    Returns:
        By tensor ("" where there is one alone), the squared difference as a share of the teacher's squares.

    Raises:
        ValueError: images that a network does not take, or outputs of other shapes.

    Example:
        >>> import hast_cuda as hc
        >>> teacher, images = hc.load_teacher("digits"), torch.randn(4, 1, 8, 8)
        >>> hc.finetune.output_noise(teacher, teacher, images)
        {'': 0.0}
    """
    check_images("images", images)
    return noise_shares(gathered(teacher, images), gathered(student, images))


def divergence(teacher: Tensor, student: Tensor) -> float:
    """Kullback-Leibler divergence of class probabilities, in nats, a mean over the images; both logits."""
    if teacher.dim() != 2 or teacher.shape != student.shape:
        raise ValueError(
            f"teacher gives {list(teacher.shape)} and student {list(student.shape)}; expected logits [N, classes] "
            "of the same classes"
        )
    expected, found = (x.double().log_softmax(1) for x in (teacher, student))
    return max(float((expected.exp() * (expected - found)).sum(1).mean()), 0.0)


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
