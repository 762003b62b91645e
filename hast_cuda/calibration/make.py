"""A calibration set: images made from a network, as bytes that still have its statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.analysis import StatisticGap, statistic_gaps
from hast_cuda.calibration.pixels import to_normalized, to_pixels
from hast_cuda.calibration.written import WRITERS, new_folder, write_images
from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_path, check_choice, check_json, check_range
from hast_cuda.data import Images, InputSpec
from hast_cuda.data.input_spec import parse_normalization
from hast_cuda.files.tensors import fingerprint
from hast_cuda.files.versions import VERSION
from hast_cuda.files.whole import write_json
from hast_cuda.loops.execution import Execution
from hast_cuda.methods import recipe
from hast_cuda.methods.recipe import dataset_like
from hast_cuda.synthesis import SynthesisConfig, synthesize

MANIFEST = "manifest.json"
ITERATIONS = 200  # by default; the statistics of a few hundred images match by then
LABEL_TEMPERATURE = 4.0  # at which logits of images grow until they reach those of photographs, or go beyond
BATCH = 128  # of images made together, by default


@dataclass(frozen=True)
class CalibrationSet:
    """What :func:`calibration_set` wrote.

    Example:
        >>> import pathlib
        >>> CalibrationSet(pathlib.Path("set"), torch.zeros(1, 3, 2, 2), torch.tensor([4]), {}).labels
        tensor([4])
    """

    folder: Path
    """With the files and manifest.json."""
    pixels: Tensor
    """uint8 [N, C, H, W]."""
    labels: Tensor
    """int64 [N], the classes that the images were made for; 0 where there are none."""
    manifest: dict[str, Any]
    """What manifest.json holds."""


def default_config(spec: InputSpec, num_images: int, *, displayable: bool = True) -> SynthesisConfig:
    """Eq. 9 by our preset, without Eq. 8's weights, at a budget for calibration, within bytes if ``displayable``."""
    base = recipe("hast", "default", dataset_like(spec)).synthesis
    config = replace(base, num_images=num_images, batch_size=min(num_images, BATCH), iterations=ITERATIONS)
    low, high = spec.displayable if displayable else ((), ())
    if not spec.num_classes:  # statistics alone
        config = replace(config, label_weight=0.0)
    # A calibrator takes the range of the logits from its images: they have to be as sure as photographs are, which
    # hard samples are not. It sees whole images: crops, enlarged, would take their share of the matching.
    config = replace(config, difficulty_exponent=0.0, label_temperature=LABEL_TEMPERATURE)
    return replace(config, balanced_labels=True, augment_probability=0.0, lowest=low, highest=high)


def balanced(images: Images, count: int) -> Images:
    """``count`` of the images, of all classes alike as far as they go: the first of each, the second, ..."""
    if len(images) < count:
        raise ValueError(f"num_images is {count}, and there are {len(images)} images")
    seen: dict[int, int] = {}
    turns = []
    for index, label in enumerate(images.labels.tolist()):
        turns.append((seen.get(label, 0), index))
        seen[label] = seen.get(label, 0) + 1
    kept = torch.tensor(sorted(index for _, index in sorted(turns)[:count]))
    return Images(images.images[kept], images.labels[kept])


def _taken(images: Images, spec: InputSpec, count: int, given: Mapping[str, Any]) -> Images:
    """``count`` of images that were made before."""
    if given:
        raise ValueError(f"{' and '.join(given)} are for images that are made now, and images were given")
    if tuple(images.images.shape[1:]) != spec.size:
        raise ValueError(f"images are {list(images.images.shape)}; expected [N, {', '.join(map(str, spec.size))}]")
    return balanced(images, count)


def _known(spec: InputSpec, normalization: str | None) -> InputSpec:
    if normalization is not None:
        mean, std = parse_normalization(normalization)
        return replace(spec, mean=mean, std=std)
    if not any(spec.mean) and set(spec.std) == {1.0}:
        raise ValueError(
            "no normalisation is known, without which images cannot become bytes: give InputSpec(..., mean=, std=), or "
            'normalization, e.g. "imagenet" ("none", or "0/1" for grey images, if the network takes pixels in [0, 1])'
        )
    return spec


@typed
def calibration_set(
    network: nn.Module,
    spec: InputSpec,
    out: Path | str,
    *,
    to: str = "png",
    num_images: int = 256,
    iterations: int | None = None,
    batch_size: int | None = None,
    normalization: str | None = None,
    displayable: bool = True,
    images: Images | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    execution: Execution | None = None,
    describe: Mapping[str, Any] | None = None,
) -> CalibrationSet:
    """Make images from ``network`` alone and write them for the quantizers of other programs.

    Args:
        network: pretrained, with BatchNorm.
        spec: its input, with the normalisation that it was trained with, and its classes; with 0 of these
            the images match statistics alone, and files have no labels.
        out: a folder that does not exist; it appears whole, with a manifest.json, or not at all.
        to: "png" (a file per image in a folder per class), "npy" (images.npy, uint8 [N, H, W, C], and
            labels.npy, int64 [N]), "npz" (images.npz with both), "tfrecord" (images.tfrecord with both),
            "hailo" (calib_set.npy, uint8 [N, H, W, C]), or "tensorrt", "openvino" and "onnxruntime" (images.npy,
            float32 [N, C, H, W], normalised).
        num_images: of all classes alike, up to one.
        iterations: per batch of images; default 200.
        batch_size: images whose joint statistics are matched; default 128.
        normalization: instead of that of ``spec``: a name, or "mean,mean,mean/std,std,std".
        displayable: keep pixels in what bytes can hold during the synthesis, not at its end alone.
        images: take these, normalised and as many of each class as there are, instead of making some.
        seed: of everything random.
        device: where to compute.
        execution: how to compute; default :class:`hast_cuda.Execution`.
        describe: more entries for the manifest.

    Returns:
        The set. In its manifest, ``statistic_gaps`` has by layer how far mean and variance are from the
        network's (:func:`hast_cuda.analysis.statistic_gaps`) for the images as made and as bytes.

    Raises:
        FileExistsError: ``out`` is there. ValueError: an unknown layout, no normalisation, no BatchNorm,
            images that do not fit, or too few; channels that PNG has no form for.

    Example:
        >>> spec = hc.teachers.input_spec("digits")
        >>> made = calibration_set(hc.load_teacher("digits"), spec, "set", num_images=20, iterations=2)
        >>> made.labels.bincount().tolist(), made.pixels.dtype
        ([2, 2, 2, 2, 2, 2, 2, 2, 2, 2], torch.uint8)
    """
    folder = as_path("out", out)
    check_choice("to", to, tuple(WRITERS))
    check_range("num_images", num_images, 1)
    check_json("describe", dict(describe or {}))
    spec = _known(spec, normalization)
    if to == "png" and spec.channels not in (1, 3):
        raise ValueError(f'to is "png", which holds 1 or 3 channels, and images have {spec.channels}: give "npy"')
    asked = {"iterations": iterations, "batch_size": batch_size}
    given: dict[str, Any] = {name: n for name, n in asked.items() if n is not None}
    config = None
    with new_folder(folder) as part:
        if images is None:
            config = replace(default_config(spec, num_images, displayable=displayable), **given)
            found = synthesize(network, spec, config, seed=seed, device=device, execution=execution)
        else:
            found = _taken(images, spec, num_images, given)
        pixels = to_pixels(found.images, spec)
        gaps = {
            name: _plain(statistic_gaps(network, x, device=device))
            for name, x in (("made", found.images), ("bytes", to_normalized(pixels, spec)))
        }
        weights = {k: v for k, v in network.state_dict().items() if isinstance(v, Tensor)}
        manifest: dict[str, Any] = {
            "hast_cuda": VERSION,
            "network": fingerprint(weights),
            **dict(describe or {}),
            "seed": None if config is None else seed,
            "num_images": num_images,
            "layout": to,
            "size": list(spec.size),
            "normalization": {"mean": list(spec.mean), "std": list(spec.std)},
            "images_per_class": found.labels.bincount(minlength=spec.num_classes).tolist() if spec.num_classes else [],
            "synthesis": None if config is None else asdict(config),
            "statistic_gaps": gaps,
            "sha256": write_images(part, to, pixels, found.labels if spec.num_classes else None, spec),
        }
        write_json(part / MANIFEST, manifest)
    return CalibrationSet(folder, pixels, found.labels, manifest)


def _plain(gaps: Mapping[str, StatisticGap]) -> dict[str, dict[str, float]]:
    return {name: asdict(gap) for name, gap in gaps.items()}
