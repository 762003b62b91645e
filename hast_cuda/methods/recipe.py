"""What a method is made of: where its images come from, and what becomes of the student."""

from __future__ import annotations

import functools
import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ParamSpec

from hast_cuda.checks.typed import check_fields, typed
from hast_cuda.checks.values import check_choice
from hast_cuda.data.input_spec import InputSpec
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.generator import GeneratorConfig
from hast_cuda.posttraining import PostTrainingConfig
from hast_cuda.reconstruction import ReconstructionConfig
from hast_cuda.synthesis import SynthesisConfig

PRESETS = ("default", "paper", "released")
DATASETS = ("cifar10", "cifar100", "imagenet")
SECTIONS = ("synthesis", "finetune", "generator", "posttraining", "reconstruction")
P = ParamSpec("P")
# what is left without images that stay
_NEEDS_STORED: dict[str, Any] = {"keep": "last", "held_out": 0.0, "balance": "fixed", "low_pass": 0.0}


def dataset_like(shape: InputSpec) -> str:
    """The paper's data set whose hyper-parameters suit this size and number of classes."""
    if max(shape.height, shape.width) > 64:
        return "imagenet"
    return "cifar10" if shape.num_classes <= 20 else "cifar100"


@dataclass(frozen=True)
class Recipe:
    """All choices of a run but the network, the bits and the seed.

    Example:
        >>> Recipe(hc.synthesis.SynthesisConfig(), hc.finetune.FinetuneConfig()).images
        'synthetic'
    """

    synthesis: SynthesisConfig
    """Of images optimised from noise."""
    finetune: FinetuneConfig
    """Of the student, and of its activation ranges; no iterations: post-training quantization."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    """Of images that a network makes."""
    posttraining: PostTrainingConfig = field(default_factory=PostTrainingConfig)
    """What is done to the weights without images."""
    reconstruction: ReconstructionConfig = field(default_factory=ReconstructionConfig)
    """Of rounding and steps, block by block, before fine-tuning."""
    images: str = "synthetic"
    """"synthetic" (optimised noise), "generated" (by a network trained beside the student), "real"
    (given by the user) or "none"."""

    def __post_init__(self) -> None:
        check_choice("images", self.images, ("synthetic", "generated", "real", "none"))
        check_fields(self)
        if self.images == "generated":
            self._refuse_stored()
        if self.images == "none":
            if self.finetune.iterations:
                raise ValueError("a recipe without images cannot fine-tune: set finetune.iterations to 0")
            if self.reconstruction.iterations:
                raise ValueError("a recipe without images cannot reconstruct: set reconstruction.iterations to 0")
            if self.finetune.low_pass:
                raise ValueError("a recipe without images has none to filter: set finetune.low_pass to 0")
            if self.finetune.calibration == "images" or self.finetune.shrink_ranges:
                raise ValueError(
                    'a recipe without images finds ranges from "batch_norm" or a "generator", and '
                    "cannot shrink them by their error on images"
                )

    def _refuse_stored(self) -> None:
        """ValueError for what needs images that stay."""
        changes = {"reconstruction.iterations": (self.reconstruction.iterations, 0)}
        changes |= {f"finetune.{n}": (getattr(self.finetune, n), v) for n, v in _NEEDS_STORED.items()}
        for name, (value, needed) in changes.items():
            if value != needed:
                raise ValueError(
                    f"{name} is {value!r}, which needs images that stay, and a generator makes new ones in every "
                    f"step: set it to {needed!r}"
                )


def needing_classes(recipe: Recipe) -> list[str]:
    """Settings that have no meaning for a network that classifies nothing, as text."""
    made, tuning = recipe.synthesis, recipe.finetune
    optimised = recipe.images == "synthetic"
    asked = {
        f"synthesis.label_weight is {made.label_weight:g}": optimised and made.label_weight,
        f"synthesis.margins is {made.margins}": optimised and made.has_margins,
        f"finetune.iterations is {tuning.iterations}": tuning.iterations,
        'images are "generated", for labels': recipe.images == "generated",
        'finetune.calibration is "generator"': tuning.calibration == "generator",
    }
    return [text for text, needs in asked.items() if needs]


def method(make: Callable[P, Recipe]) -> Callable[P, Recipe]:
    """``make(preset, dataset)`` of a method, which then refuses unknown ones by a ValueError."""
    signature = inspect.signature(make)

    @functools.wraps(make)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Recipe:
        given = signature.bind(*args, **kwargs).arguments
        check_choice("preset", given.get("preset", "default"), PRESETS)
        check_choice("dataset", given.get("dataset", "cifar10"), DATASETS)
        return make(*args, **kwargs)

    return checked


@typed
def change(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """``recipe`` with values replaced by dotted name, e.g. {"finetune.perturbation": 0.0}.

    Raises:
        ValueError: a value that its configuration refuses, alone or with the others.

    Example:
        >>> change(hc.methods.recipe(), {"finetune.iterations": 300}).finetune.iterations
        300
    """
    parts: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, value in changes.items():
        section, _, field_name = name.partition(".")
        known = getattr(recipe, section) if section in SECTIONS else None
        if known is None or field_name not in {f.name for f in fields(known)}:
            raise ValueError(
                f"changes has {name!r}; expected a field of one of the sections "
                f"{', '.join(SECTIONS)}, such as finetune.perturbation"
            )
        parts[section][field_name] = value
    return replace(recipe, **{section: replace(getattr(recipe, section), **part) for section, part in parts.items()})
