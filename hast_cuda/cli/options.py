"""What the verbs have in common: network, images, budget and how they become objects."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro
from torch import nn

from hast_cuda.checks.values import as_device
from hast_cuda.cli.network import ANY_NETWORK, Network, chosen_network, find
from hast_cuda.data import Images, ImageSet, InputSpec, load_images
from hast_cuda.loops.execution import Execution
from hast_cuda.methods import Recipe, change
from hast_cuda.methods import recipe as recipe_of
from hast_cuda.methods.recipe import SECTIONS, dataset_like
from hast_cuda.networks.shape import infer_shape
from hast_cuda.ranks import World, join
from hast_cuda.run import read_config
from hast_cuda.run.origins import check_network
from hast_cuda.run.tensorboard import require_tensorboard

Preset = Literal["default", "paper", "released"]
Method = Literal[
    "hast",
    "intraq",
    "zeroq",
    "zeroq_il",
    "dsg",
    "dsg_il",
    "genie",
    "synq",
    "gdfq",
    "qimera",
    "ait",
    "squant",
    "dfq",
    "rtn",
    "real_data",
]


NUMBERS = {
    "num_images": ("synthesis.num_images",),
    "synthesis_iterations": ("synthesis.iterations",),
    "reconstruction_iterations": ("reconstruction.iterations",),
    "finetune_iterations": ("finetune.iterations",),
    "batch_size": ("synthesis.batch_size", "finetune.batch_size"),
}
"""Options, and the values of a recipe that each sets."""
Flat = tyro.conf.arg(name="")  # --model, not --network.model


@dataclass(frozen=True)
class Budget:
    """How much to compute and how; what is not given comes from the preset."""

    method: Method = "hast"
    """Published method; real_data fine-tunes on --train-data."""
    preset: Preset = "default"
    """"paper": as printed; "released": as the published code does; "default": our training."""
    budget: str | None = None
    """How much of it: full, small, a share such as 10%, or what fits a time such as 90s, 10m or 2h here;
    numbers that are given below stay. Default: full on a GPU, 10m on a CPU."""
    dry_run: bool = False
    """Time a few iterations, print what would be done and how long it would take, and stop."""
    num_images: int | None = None
    """Synthetic images (5120 in full, 512 in small)."""
    synthesis_iterations: int | None = None
    """Iterations per batch of images (1000 in full, 150 in small)."""
    reconstruction_iterations: int | None = None
    """Steps per block (1000 in full, 300 in small); 0 leaves reconstruction out."""
    finetune_iterations: int | None = None
    """Steps of the student (29400 in full, 150 in small)."""
    batch_size: int | None = None
    """Images per batch, in synthesis and fine-tuning (256 in full, 64 of the student in small)."""
    seed: int = 0
    """Of everything random."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1"; "auto" takes the GPU if there is one."""
    set: tuple[str, ...] = ()
    """Any other value, e.g. finetune.learning_rate=1e-6 synthesis.schedule=cosine."""

    def recipe(self, spec: InputSpec) -> Recipe:
        """The preset for images like these."""
        return recipe_of(self.method, self.preset, dataset_like(spec))

    def changes(self, spec: InputSpec) -> dict[str, Any]:
        """What was given instead of the preset's values; ValueError if they do not go together."""
        preset = self.recipe(spec)
        given: dict[str, Any] = {
            name: number
            for option, names in NUMBERS.items()
            for name in names
            if (number := getattr(self, option)) is not None
        }
        given |= dict(_parse(text, preset) for text in self.set)
        change(preset, given)
        return given


class Start(NamedTuple):
    """What a task starts from."""

    teacher: nn.Module
    spec: InputSpec
    recipe: Recipe
    """With :attr:`changes`."""
    changes: dict[str, Any]
    world: World
    test: ImageSet | None
    network: dict[str, Any]
    """What the run says of the teacher."""


@dataclass(frozen=True)
class Task:
    """A run to make."""

    out: Path
    """Run directory; the same command continues an unfinished run."""
    network: Annotated[Network, Flat] = ANY_NETWORK
    """The teacher."""
    budget: Annotated[Budget, Flat] = Budget()
    """How much to compute."""
    execution: Annotated[Execution, Flat] = Execution()
    """How to compute."""
    run: Path | None = None
    """A run directory whose network this is; without --model also that of --images or --out."""
    tensorboard: bool = False
    """Write losses, accuracies and a sheet of images to OUT/tensorboard, too."""

    def start(self, data: str | None = None, limit: int | None = None, images: Path | None = None) -> Start:
        """All that there is before any work; ValueError unless the network takes such images.

        Args:
            data: labelled test images.
            limit: use only this many of them.
            images: those of another run, which may name the network.
        """
        if self.tensorboard:
            require_tensorboard()
        network, config, run = self._chosen(images)
        spec = network.spec()
        changes = self.budget.changes(spec)
        recipe = change(self.budget.recipe(spec), changes)
        world = join(as_device(self.budget.device, auto=True))
        test = labelled_images(data, spec, limit)
        with world.first_goes_first():  # weights may have to be downloaded
            teacher = network.load()
        found = infer_shape(teacher, spec.size).num_classes
        if spec.num_classes and found != spec.num_classes:
            raise ValueError(f"num_classes={spec.num_classes}, but the network gives {found}: leave num_classes away")
        check_network(teacher, config, run)
        return Start(teacher, spec, recipe, changes, world, test, network.described(spec))

    def _chosen(self, images: Path | None) -> tuple[Network, dict[str, Any], Path]:
        """The network, and the run that names it with its ``config.json`` (empty: none does)."""
        places = [] if self.network.model else [images and images.parent, self.out]
        named = [place for place in places if place and (place / "config.json").exists()]
        run = self.run or next(iter(named), None)
        if run is None:
            return self.network, {}, self.out
        config = read_config(run)
        return chosen_network(config, self.network.given()), config, run


def shape_of(spec: InputSpec) -> InputSpec:
    """Input and classes without the normalisation."""
    return InputSpec(*spec.size, spec.num_classes)


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
    known = {
        f"{section}.{f.name}": getattr(part, f.name)
        for section in SECTIONS
        for part in [getattr(recipe, section)]
        for f in fields(part)
    }
    if not equals or name not in known:
        allowed = ", ".join(known)
        raise ValueError(f"--set {assignment}: expected NAME=VALUE with NAME one of {allowed}")
    old = known[name]
    try:
        value = text if isinstance(old, str) else json.loads(text)
    except json.JSONDecodeError:
        value = text
    if isinstance(old, tuple) and isinstance(value, list):
        numbers = all(type(item) in (int, float) for item in value)
        value = tuple(map(float, value)) if numbers else value
    if isinstance(old, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(old):
        raise ValueError(f"--set {assignment}: expected a value like {old!r} ({type(old).__name__})")
    return name, value
