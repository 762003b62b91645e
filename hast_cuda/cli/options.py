"""What the verbs have in common: network, images, budget and how they become objects."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from hast_cuda.checks.values import as_device
from hast_cuda.data import Images, ImageSet, InputSpec, load_images
from hast_cuda.methods import Recipe, change
from hast_cuda.methods import recipe as recipe_of
from hast_cuda.methods.recipe import SECTIONS, dataset_like
from hast_cuda.run import infer_shape
from hast_cuda.teachers import input_spec, load_teacher

Preset = Literal["default", "paper", "released"]
Method = Literal[
    "hast", "intraq", "zeroq", "zeroq_il", "dsg", "dsg_il", "gdfq", "qimera", "ait", "squant",
    "dfq", "rtn", "real_data",
]  # fmt: skip


@dataclass(frozen=True)
class Network:
    """The pretrained network."""

    model: str
    """pytorchcv name (resnet20_cifar10, resnet18, ...), "digits", or module:callable."""
    weights: Path | None = None
    """Pretrained weights (.safetensors or a state dict); default: pytorchcv's download."""
    normalization: str | None = None
    """"cifar10", "imagenet", ... or "mean,mean,mean/std,std,std"; default: that of the model."""
    image_size: int | None = None
    """Height and width; needed for a network of your own."""
    num_classes: int | None = None
    """Number of classes; needed for a network of your own."""

    def spec(self) -> InputSpec:
        """The images that the network takes."""
        return input_spec(
            self.model,
            normalization=self.normalization,
            image_size=self.image_size,
            num_classes=self.num_classes,
        )

    def load(self) -> nn.Module:
        """The network with its weights, in eval mode."""
        weights = None if self.weights is None else Path(find(str(self.weights)))
        return load_teacher(self.model, weights=weights, num_classes=self.num_classes)


@dataclass(frozen=True)
class Budget:
    """How much to compute and how; what is not given comes from the preset."""

    method: Method = "hast"
    """Published method; real_data fine-tunes on --train-data."""
    preset: Preset = "default"
    """"paper": as printed; "released": as the published code does; "default": our training."""
    num_images: int | None = None
    """Synthetic images."""
    synthesis_iterations: int | None = None
    """Iterations per batch of images."""
    finetune_iterations: int | None = None
    """Steps of the student."""
    batch_size: int | None = None
    """Images per batch, in synthesis and fine-tuning."""
    seed: int = 0
    """Of everything random."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1"; "auto" takes the GPU if there is one."""
    set: tuple[str, ...] = ()
    """Any other value, e.g. finetune.learning_rate=1e-6 synthesis.schedule=cosine."""

    def recipe(self, spec: InputSpec) -> Recipe:
        """The preset for images like these, with what was given put in."""
        chosen = recipe_of(self.method, self.preset, dataset_like(spec))
        named = {
            "synthesis.num_images": self.num_images,
            "synthesis.iterations": self.synthesis_iterations,
            "synthesis.batch_size": self.batch_size,
            "finetune.iterations": self.finetune_iterations,
            "finetune.batch_size": self.batch_size,
        }
        given: dict[str, Any] = {name: n for name, n in named.items() if n is not None}
        return change(chosen, given | dict(_parse(text, chosen) for text in self.set))

    def torch_device(self) -> torch.device:
        """The device; ValueError if it is not there."""
        return as_device(self.device, auto=True)


def shape_of(spec: InputSpec) -> InputSpec:
    """Input and classes without the normalisation."""
    return InputSpec(spec.channels, spec.height, spec.width, spec.num_classes)


def fitting_shape(teacher: nn.Module, spec: InputSpec) -> InputSpec:
    """:func:`shape_of`; ValueError before any work unless the network takes such images."""
    shape = shape_of(spec)
    infer_shape(teacher, (shape.channels, shape.height, shape.width))
    return shape


def find(path: str) -> str:
    """``path``, or the same under $HAST_CUDA_DATA where only that one exists."""
    folder = os.environ.get("HAST_CUDA_DATA")
    if folder and not Path(path).exists() and (Path(folder) / path).exists():
        return str(Path(folder) / path)
    return path


def labelled_images(path: str | None, spec: InputSpec, limit: int | None = None) -> ImageSet | None:
    """Labelled images to report accuracy on, or None."""
    return None if path is None else load_images(find(path), spec=spec, limit=limit)


def training_images(path: str | None, spec: InputSpec) -> Images | None:
    """Labelled training images in memory, or None."""
    if path is None:
        return None
    return Images.read(load_images(find(path), spec=spec, split="train"))


def _parse(assignment: str, recipe: Recipe) -> tuple[str, Any]:
    name, equals, text = assignment.partition("=")
    section, _, field = name.partition(".")
    known = {
        part: {f.name: getattr(getattr(recipe, part), f.name) for f in
        dataclasses.fields(getattr(recipe, part))} for part in SECTIONS
    }  # fmt: skip
    if not equals or field not in known.get(section, {}):
        allowed: Sequence[str] = [f"{s}.{f}" for s, fields in known.items() for f in fields]
        message = f"--set {assignment}: expected NAME=VALUE with NAME one of {', '.join(allowed)}"
        raise ValueError(message)
    old = known[section][field]
    try:
        value = text if isinstance(old, str) else json.loads(text)
    except json.JSONDecodeError:
        value = text
    if isinstance(old, tuple) and isinstance(value, list):
        numbers = all(type(item) in (int, float) for item in value)
        value = tuple(map(float, value)) if numbers else value
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(old):
        message = f"--set {assignment}: expected a value like {old!r} ({type(old).__name__})"
        raise ValueError(message)
    return name, value
