"""What a run directory says about the run: its settings and the images that it trained on."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_path, check_range
from hast_cuda.data import Images
from hast_cuda.files.json_values import read_object
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.generator import GeneratorConfig
from hast_cuda.methods import Recipe
from hast_cuda.posttraining import PostTrainingConfig
from hast_cuda.run.origins import KEY
from hast_cuda.synthesis import ImageStore, SynthesisConfig

C = TypeVar("C")


@typed
def read_config(run: Path | str) -> dict[str, Any]:
    """``config.json`` of a run directory.

    Raises:
        FileNotFoundError: it is not a run directory. ValueError: the file is corrupt.

    Example:
        >>> import hast_cuda as hc
        >>> done = hc.zero_shot_quantize(
        ...     hc.load_teacher("digits"), (1, 8, 8), method="rtn", out="run")
        >>> read_config("run")["seed"]
        0
    """
    path = as_path("run", run) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{run} is not a run directory (no config.json)")
    found = read_object(path, "it is not the configuration of a run")
    given = found.get("images")
    if not (given is None or isinstance(given, str)):
        raise ValueError(f"{path}: images is a {type(given).__name__}, not the name of a directory")
    return found


@typed
def read_finetune_config(run: Path | str) -> FinetuneConfig:
    """The fine-tuning settings that a run was made with.

    Fields that the run's version did not know keep their defaults.

    Raises:
        FileNotFoundError: it is not a run directory. ValueError: ``quantize`` did not make it, or
            its settings are not those of this version.
    """
    config = read_config(run)
    try:
        values: dict[str, Any] = dict(config["recipe"]["finetune"])
    except (KeyError, TypeError, ValueError) as error:
        message = f"{run} holds no fine-tuning (config.json: {error!r}): make it with quantize"
        raise ValueError(message) from error
    return settings(FinetuneConfig, values, run)


@typed
def read_synthesis_config(run: Path | str) -> SynthesisConfig:
    """The settings of a run of ``synthesize``; errors as :func:`read_finetune_config`."""
    try:
        values: dict[str, Any] = dict(read_config(run)["synthesis"])
    except (KeyError, TypeError, ValueError) as error:
        message = f"{run} holds no synthesis (config.json: {error!r}): make it with synthesize"
        raise ValueError(message) from error
    return settings(SynthesisConfig, values, run)


@typed
def read_recipe(run: Path | str) -> Recipe:
    """All settings of a run of ``quantize``; errors as :func:`read_finetune_config`.

    Example:
        >>> import hast_cuda as hc
        >>> done = hc.zero_shot_quantize(
        ...     hc.load_teacher("digits"), (1, 8, 8), method="rtn", out="run")
        >>> read_recipe("run").images
        'none'
    """
    config = read_config(run)
    kinds = {"generator": GeneratorConfig, "posttraining": PostTrainingConfig}
    try:
        values: dict[str, Any] = dict(config["recipe"])
        synthesis = dict(values["synthesis"])
        parts: dict[str, Any] = {k: dict(values[k]) for k in kinds if k in values}
    except (KeyError, TypeError, ValueError) as error:
        message = f"{run} holds no recipe (config.json: {error!r}): make it with quantize"
        raise ValueError(message) from error
    parts = {name: settings(kinds[name], part, run) for name, part in parts.items()}
    if "images" in values:
        parts["images"] = values["images"]
    return Recipe(settings(SynthesisConfig, synthesis, run), read_finetune_config(run), **parts)


def settings(kind: type[C], values: dict[str, Any], run: Path | str) -> C:
    """The dataclass that :func:`hast_cuda.run.plain` took apart; ValueError for other values."""
    fields = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(values.keys() - fields)
    if unknown:
        raise ValueError(f"{run} was made with settings that this version does not know: {unknown}")
    defaults = {f.name: f.default for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    chosen = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    for name, value in chosen.items():
        if not _like(value, defaults[name]):
            raise ValueError(
                f"{run} has {name}={str(value)[:80]!r} in config.json; expected a value like "
                f"{defaults[name]!r}"
            )
    try:
        return kind(**chosen)
    except TypeError as error:
        raise ValueError(f"{run} has settings in config.json that cannot be: {error}") from error


def _like(value: Any, default: Any) -> bool:
    """Whether ``value`` has the type of ``default``; None is an absent number."""
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(_like(v, 0.0) for v in value)
    if type(default) in (float, int) or default is None:
        whole = type(value) is int and abs(value) < 2**53
        return (
            whole
            or (type(value) is float and not isinstance(default, int))
            or (value is None and default is None)
        )
    return type(value) is type(default)


def name_for(images: Path, run: Path) -> str:
    """How ``config.json`` of ``run`` names a directory of images.

    From the run if that is below the directory of the run, so that both can be moved, else in full.
    """
    images, run = images.resolve(), run.resolve()
    return os.path.relpath(images, run) if run.parent in images.parents else str(images)


def image_folder(run: Path, config: Mapping[str, Any]) -> Path:
    """The directory of a run's images: its own, or the one that it was given.

    A relative name counts from the run. Earlier versions wrote what they were given, seen from
    where they were called; such a name counts from here, if it leads nowhere from the run.
    """
    folder = run / (config.get("images") or "images")
    seen_from_here = KEY not in config and not folder.is_dir()
    return Path(config.get("images") or folder) if seen_from_here else folder


@typed
def image_store(run: Path | str) -> ImageStore:
    """Where the images of a run are: its own, or those of the directory that it was given."""
    return ImageStore(image_folder(Path(run), read_config(run)))


@typed
def read_images(run: Path | str) -> Images:
    """The synthetic images of a run: its own, or those of the directory that it was given.

    Raises:
        FileNotFoundError: it is not a run directory. ValueError: no images, or corrupt ones.

    Example:
        >>> import hast_cuda as hc
        >>> recipe = hc.methods.change(hc.methods.recipe("hast", "default", "cifar10"), {
        ...     "synthesis.num_images": 4, "synthesis.iterations": 1, "finetune.iterations": 0,
        ...     "finetune.calibration_updates": 1})
        >>> _ = hc.zero_shot_quantize(
        ...     hc.load_teacher("digits"), (1, 8, 8), recipe=recipe, out="run")
        >>> read_images("run").images.shape
        torch.Size([4, 1, 8, 8])
    """
    return image_store(run).load_all()


@typed
def read_first_images(run: Path | str, count: int) -> Images | None:
    """At most ``count`` images, without reading the rest of a set that may be gigabytes.

    None where the run has none (yet). Errors as :func:`read_images`.
    """
    check_range("count", count, 1)
    store = image_store(run)
    found: list[Images] = []
    for index in sorted(store.finished()):
        if sum(map(len, found)) >= count:
            break
        found.append(store.load(index))
    if not found:
        return None
    return Images(
        torch.cat([b.images for b in found])[:count], torch.cat([b.labels for b in found])[:count]
    )
