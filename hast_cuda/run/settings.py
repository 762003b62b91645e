"""What a run directory says about the run: its settings and the images that it trained on."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_path, check_range
from hast_cuda.data import Images
from hast_cuda.files.json_values import read_object
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.generator import GeneratorConfig
from hast_cuda.loops.low_pass import low_pass
from hast_cuda.methods import Recipe
from hast_cuda.posttraining import PostTrainingConfig
from hast_cuda.reconstruction import ReconstructionConfig
from hast_cuda.run.origins import KEY
from hast_cuda.synthesis import ImageStore, SynthesisConfig

C = TypeVar("C")
_PARTS: dict[str, Callable[..., Any]] = {
    "synthesis": SynthesisConfig,
    "finetune": FinetuneConfig,
    "generator": GeneratorConfig,
    "posttraining": PostTrainingConfig,
    "reconstruction": ReconstructionConfig,
}


@typed
def read_config(run: Path | str) -> dict[str, Any]:
    """``config.json`` of a run directory, or a JSON file that is a copy of one.

    Raises:
        FileNotFoundError: it is not a run directory. ValueError: the file is corrupt.

    Example:
        >>> import hast_cuda as hc
        >>> done = hc.zero_shot_quantize(
        ...     hc.load_teacher("digits"), (1, 8, 8), method="rtn", out="run")
        >>> read_config("run")["seed"]
        0
    """
    path = as_path("run", run)
    path = path if path.suffix == ".json" and path.is_file() else path / "config.json"
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
    return settings(FinetuneConfig, _found(run, "fine-tuning", "recipe", "finetune"), run)


@typed
def read_synthesis_config(run: Path | str) -> SynthesisConfig:
    """The settings of a run of ``synthesize``; errors as :func:`read_finetune_config`."""
    return settings(SynthesisConfig, _found(run, "synthesis", "synthesis"), run)


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
    values = _found(run, "recipe", "recipe")
    parts: dict[str, Any] = {
        name: settings(kind, _found(run, "recipe", "recipe", name), run)
        for name, kind in _PARTS.items()
        if name in values or name in ("synthesis", "finetune")
    }
    if "images" in values:
        parts["images"] = values["images"]
    return Recipe(**parts)


def _found(run: Path | str, what: str, *path: str) -> dict[str, Any]:
    """An object in ``config.json``, by the names that lead to it."""
    found: Any = read_config(run)
    try:
        for name in path:
            found = found[name]
        return dict(found)
    except (KeyError, TypeError, ValueError) as error:
        verb = "synthesize" if path == ("synthesis",) else "quantize"
        raise ValueError(f"{run} holds no {what} (config.json: {error!r}): make it with {verb}") from error


def settings(kind: Callable[..., C], values: dict[str, Any], run: Path | str) -> C:
    """The dataclass that :func:`hast_cuda.run.plain` took apart; ValueError for other values."""
    unknown = sorted(values.keys() - inspect.signature(kind).parameters.keys())
    if unknown:
        raise ValueError(f"{run} was made with settings that this version does not know: {unknown}")
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{run} has settings in config.json that cannot be: {error}") from error


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

    They are as the student saw them, so filtered where the run filters its images; those on disk
    are not. A further run filters what it is given: give it ``image_store(run).load_all()``.

    Raises:
        FileNotFoundError: it is not a run directory. ValueError: no images, or corrupt ones.

    Example:
        >>> import hast_cuda as hc
        >>> recipe = hc.methods.change(hc.methods.recipe("hast", "default", "cifar10"), {
        ...     "synthesis.num_images": 4, "synthesis.iterations": 1, "reconstruction.iterations": 0,
        ...     "finetune.iterations": 0, "finetune.calibration_updates": 1})
        >>> _ = hc.zero_shot_quantize(
        ...     hc.load_teacher("digits"), (1, 8, 8), recipe=recipe, out="run")
        >>> read_images("run").images.shape
        torch.Size([4, 1, 8, 8])
    """
    return _shown(image_store(run).load_all(), run)


def _shown(images: Images, run: Path | str) -> Images:
    """As the student of a run of ``quantize`` saw them."""
    return shown(images, read_finetune_config(run)) if "recipe" in read_config(run) else images


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
    pixels, labels = (torch.cat([getattr(b, n) for b in found]) for n in ("images", "labels"))
    return _shown(Images(pixels[:count], labels[:count]), run)


def shown(images: Images, config: FinetuneConfig) -> Images:
    """Images as the student sees them, filtered once; what is on disk stays as it was made."""
    if not config.low_pass:
        return images
    return Images(low_pass(images.images, config.low_pass), images.labels, images.real)


def labels_for(config: FinetuneConfig, images: Images | None) -> Tensor | None:
    """Labels of stored images, where the loss needs them."""
    return images.labels if images is not None and config.uses_labels else None
