"""Small valid arguments: networks, images, a finished run. Made once; what calls edit is copied."""

from __future__ import annotations

import atexit
import copy
import functools
import itertools
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from networks import CHANNELS, CLASSES, SIZE, tiny
from pages import RECIPE, SPEC, labelled, make
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.data import Images, ImageSet, InputSpec
from hast_cuda.exports import save_float, save_onnx, save_packed
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.methods import Recipe
from hast_cuda.posttraining import fold_batch_norms
from hast_cuda.run import RunDirectory
from hast_cuda.synthesis import SynthesisConfig

SHAPE = (CHANNELS, SIZE, SIZE)
IMAGE_SHAPE = InputSpec(*SHAPE, CLASSES)
SPEC_OF_TINY = SPEC
_numbers = itertools.count()


@functools.cache
def folder() -> Path:
    """Of everything that is written; gone at the end."""
    made = Path(tempfile.mkdtemp(prefix="fuzz-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def fresh(suffix: str = "") -> Path:
    """A path where nothing is."""
    return folder() / f"new-{next(_numbers)}{suffix}"


def teacher() -> nn.Module:
    """With BatchNorm, in eval mode."""
    return tiny()


def images() -> Tensor:
    """Four of them."""
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(3))


def labels() -> Tensor:
    """Of :func:`images`."""
    return torch.tensor([0, 1, 2, 4])


def pairs() -> list[tuple[Tensor, Tensor]]:
    """A batch of labelled images."""
    return [(images(), labels())]


@functools.cache
def _student() -> nn.Module:
    return hc.calibrate(hc.quantize(tiny(), 4, 4), [images()])


def student() -> nn.Module:
    """Quantized and calibrated."""
    return copy.deepcopy(_student())


def folded() -> nn.Module:
    """The teacher without BatchNorm."""
    return fold_batch_norms(tiny())


def synthetic() -> Images:
    """Images with labels."""
    return Images(images(), labels())


def image_set() -> ImageSet:
    """Labelled test images."""
    found = labelled()
    return replace(found, labels=found.labels[:6])


def recipe() -> Recipe:
    """The smallest that does everything."""
    return replace(
        RECIPE,
        synthesis=replace(RECIPE.synthesis, num_images=8, iterations=1),
        finetune=replace(RECIPE.finetune, iterations=1, calibration_updates=1, evaluations=1),
    )


def synthesis() -> SynthesisConfig:
    """One step."""
    return recipe().synthesis


def finetuning() -> FinetuneConfig:
    """One step."""
    return recipe().finetune


@functools.cache
def run() -> Path:
    """A finished run."""
    path = folder() / "run"
    make(path)
    return path


@functools.cache
def other_run() -> Path:
    """Another finished run."""
    path = folder() / "other-run"
    make(path)
    return path


@functools.cache
def synthesis_run() -> Path:
    """A run of ``synthesize``, as far as its settings go."""
    path = folder() / "synthesis-run"
    RunDirectory(path, {"synthesis": synthesis()}, torch.device("cpu")).close()
    return path


@functools.cache
def onnx() -> Path:
    """An exported network."""
    path = folder() / "student.onnx"
    save_onnx(student(), path, SHAPE)
    return path


@functools.cache
def packed() -> Path:
    """The same as packed integers."""
    path = folder() / "student.packed.safetensors"
    save_packed(student(), path)
    return path


@functools.cache
def weights() -> Path:
    """Weights that fit the teacher."""
    path = folder() / "float.safetensors"
    save_float(student(), path)
    return path


def scalar_loss() -> dict[str, Any]:
    """A loss that can be differentiated twice, and what by."""
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    return {"loss": (x**3).sum, "parameters": [x]}
