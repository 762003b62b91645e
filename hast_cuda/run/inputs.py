"""What a run is given: widths, shape and images, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from hast_cuda.checks.typed import LATER, check_fields
from hast_cuda.data import Images, ImageSet, InputSpec
from hast_cuda.loops.execution import Execution
from hast_cuda.methods import Recipe
from hast_cuda.methods.recipe import needing_classes
from hast_cuda.networks import require_batch_norm
from hast_cuda.networks.ends import end_layers, find_head
from hast_cuda.networks.shape import infer_shape
from hast_cuda.networks.statistics import require_trained
from hast_cuda.nn import Override, quantize, suitable_placement
from hast_cuda.ranks import World


@dataclass(frozen=True)
class Bits:
    """What to quantize to; see :func:`hast_cuda.quantize`.

    Example:
        >>> import hast_cuda as hc
        >>> hc.Bits(3, 3, overrides={"output": hc.Override(8, 8)}).weights
        3
    """

    weights: int = 4
    """Of every convolution and linear layer, 2 to 8."""
    activations: int | None = 4
    """2 to 8; None leaves activations as they are."""
    placement: str = "auto"
    """"auto" (one of the next two), "relu" (outputs of ReLU modules), "all" (inputs of layers) or "integer"
    (all that is stored)."""
    overrides: Mapping[str, Override] = field(default_factory=dict)
    """Other bits for the layers that match a pattern; the last match wins."""
    sums: int = field(default=8, metadata=LATER)
    """Of what placement "integer" quantizes beside activations, and of what no activation function
    gave under "all", 2 to 8."""
    symmetric_weights: bool = field(default=False, metadata=LATER)
    """Zero point 0 for weights."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass
class Asked:
    """What a run was asked for, checked, all but its budget: arguments of :func:`hast_cuda.zero_shot_quantize`."""

    teacher: nn.Module
    shape: InputSpec
    recipe: Recipe
    """With all changes, before any budget."""
    world: World
    execution: Execution
    bits: Bits = field(default_factory=Bits)
    seed: int = 0
    images: Images | None = None
    test: ImageSet | None = None
    out: Path | None = None
    evaluation_batch: int = 256


def check_teacher(teacher: nn.Module, shape: InputSpec) -> None:
    """ValueError unless the network can be read, was trained, and gives logits of ``shape`` in float32.

    With 0 classes in ``shape`` any outputs will do.
    """
    require_trained(teacher)
    classes = infer_shape(teacher, shape.size).num_classes
    if shape.num_classes and classes != shape.num_classes:
        raise ValueError(f"the network gives {classes} logits; shape says {shape.num_classes} classes")


def quantize_to(bits: Bits, network: nn.Module, *, ste: str, ema: str = "corrected") -> nn.Module:
    """A quantized copy of ``network``; see :func:`hast_cuda.quantize`."""
    return quantize(
        network,
        bits.weights,
        bits.activations,
        placement=bits.placement,
        overrides=bits.overrides,
        sum_bits=bits.sums,
        symmetric_weights=bits.symmetric_weights,
        ema=ema,
        ste=ste,
    )


def placed(bits: Bits, teacher: nn.Module) -> Bits:
    """``bits`` with what "auto" is for this network."""
    return replace(bits, placement=suitable_placement(teacher)) if bits.placement == "auto" else bits


def with_ends(bits: Bits, recipe: Recipe, teacher: nn.Module, shape: InputSpec) -> Bits:
    """``bits`` with those of the first and the last layer that ``recipe`` wants; its own overrides win."""
    wanted = recipe.posttraining.end_bits
    if not wanted:
        return bits
    ends = dict.fromkeys(end_layers(teacher, shape.size), Override(wanted, bits.activations and wanted))
    return replace(bits, overrides={**ends, **bits.overrides})


def check_images(images: Images, shape: InputSpec) -> None:
    """ValueError unless the images fit the network's input and classes."""
    found, labels = images.images, images.labels
    if not len(found) or tuple(found.shape[1:]) != shape.size or found.dtype != torch.float32:
        raise ValueError(
            f"images are {list(found.shape)} {found.dtype}; expected "
            f"[N, {', '.join(map(str, shape.size))}] torch.float32"
        )
    if len(found) != len(labels):
        raise ValueError(f"there are {len(found)} images and {len(labels)} labels")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= (shape.num_classes or 1):
        raise ValueError(f"labels go from {low} to {high}; the network has {shape.num_classes} classes")
    if not bool(torch.isfinite(found).all()):
        raise ValueError("images contain NaN or infinity; delete the shards and run again")


def check_source(recipe: Recipe, teacher: nn.Module, images: Images | None, shape: InputSpec) -> None:
    """ValueError, before any work, if images are missing, unwanted or do not fit, or the loss is for other networks."""
    if not shape.num_classes and (settings := needing_classes(recipe)):
        raise ValueError(
            f"the network classifies nothing (its output is not one tensor [N, classes]), and this method needs "
            f"classes: {', '.join(settings)}. Give a method of statistics alone: zeroq, dsg, genie with the preset "
            '"paper", squant, dfq or rtn; or those settings as 0. If it is a classifier, wrap it in a module whose '
            "forward returns the logits"
        )
    if images is not None:
        if recipe.images in ("generated", "none"):
            raise ValueError(f'images were given, but those of this recipe are "{recipe.images}"')
        check_images(images, shape)
    elif recipe.images == "real":
        raise ValueError("this recipe trains on real images and none were given (--train-data)")
    tuning = recipe.finetune
    if tuning.iterations and tuning.uses_maps_of_classes:
        find_head(teacher, shape.size)
    made = recipe.images in ("synthetic", "generated") and images is None
    if made or tuning.calibration == "generator":
        require_batch_norm(teacher)
