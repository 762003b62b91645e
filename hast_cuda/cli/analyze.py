"""``hast-cuda analyze``: why a finished run is as good as it is (Eq. 3, Figures 2, 4, 6); which bits it needs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import nn

from hast_cuda import analysis, report
from hast_cuda.analysis.allocation import uniform
from hast_cuda.checks.values import as_device, check_range
from hast_cuda.cli.network import ANY_NETWORK, Network, opened
from hast_cuda.cli.options import Flat, labelled_images
from hast_cuda.data import Images, ImageSet, InputSpec, evaluate
from hast_cuda.files.whole import write_json
from hast_cuda.report.bits_section import few_bits, kept_at_8
from hast_cuda.run import RunDirectory, load_student, read_config, read_images
from hast_cuda.run.directory import environment
from hast_cuda.run.settings import read_finetune_config
from hast_cuda.synthesis import ImageStore


@dataclass(frozen=True)
class Subject:
    """What is looked at."""

    run: Path
    """Finished run directory."""
    network: Annotated[Network, Flat] = ANY_NETWORK
    """The full-precision network, if it is not the one that the run names."""
    images: Path | None = None
    """Directory of other images than the run's."""
    device: str = "auto"
    """As for quantize."""

    def load(self) -> tuple[nn.Module, Images, torch.device]:
        """The teacher, the images, and where to compute."""
        teacher, device = self._opened[1], as_device(self.device, auto=True)
        given = None if self.images is None else ImageStore(self.images).load_all()
        return teacher, given or read_images(self.run), device

    def test(self, data: str | None) -> ImageSet | None:
        """Labelled test images, or None."""
        return labelled_images(data, self._opened[2])

    @cached_property
    def _opened(self) -> tuple[Network, nn.Module, InputSpec]:
        return opened(self.run, self.network)


def _write(run: Path, name: str, found: Any, device: torch.device) -> Path:
    """``<run>/analysis/<name>.json`` with where it was computed; the picture's path beside it."""
    folder = run / "analysis"
    folder.mkdir(exist_ok=True)
    write_json(folder / f"{name}.json", {"environment": environment(device), name: found})
    drawn = " and .png" if importlib.util.find_spec("matplotlib") else ", and no picture without matplotlib"
    print(f"written: {folder / name}.json{drawn}")
    return folder / f"{name}.png"


def difficulty(subject: Annotated[Subject, Flat], data: str | None = None, bins: int = 10) -> None:
    """How hard the synthetic images are, and the errors on test images by difficulty (Figure 2).

    Args:
        subject: difficulty is measured under its full-precision network.
        data: labelled test images, also judged.
        bins: of difficulty.
    """
    teacher, images, device = subject.load()
    made = analysis.judge(teacher, images.batches(256), device=device)
    histograms = {"synthetic": analysis.difficulty_histogram(made.difficulty, bins)}
    if (test := subject.test(data)) is not None:
        student = load_student(teacher, subject.run)
        hard = analysis.judge(teacher, test.batches(256), device=device)
        wrong = analysis.judge(student, test.batches(256), device=device).wrong
        histograms["test"] = analysis.difficulty_histogram(hard.difficulty, bins)
        rates = {
            "full precision": analysis.error_by_difficulty(hard.difficulty, hard.wrong, bins),
            "quantized": analysis.error_by_difficulty(hard.difficulty, wrong, bins),
        }
        errors = {name: asdict(rate) for name, rate in rates.items()}
        report.draw_error_by_difficulty(rates, _write(subject.run, "errors", errors, device))
    found = {name: asdict(histogram) for name, histogram in histograms.items()}
    report.draw_difficulty(histograms, _write(subject.run, "difficulty", found, device))


def statistics(subject: Annotated[Subject, Flat], data: str | None = None) -> None:
    """How well the images match the network's BatchNorm statistics, layer by layer (Eq. 3).

    Args:
        subject: network and images.
        data: labelled test images; the network is tested on them with its statistics and with
            those of the images in their place. Images that stand for its data change little.
    """
    teacher, images, device = subject.load()
    gaps = analysis.statistic_gaps(teacher, images.images, device=device)
    found: dict[str, Any] = {"gaps": {name: asdict(gap) for name, gap in gaps.items()}}
    if (test := subject.test(data)) is not None:
        anew = analysis.reestimate_batch_norms(teacher, images.images, device=device)
        found["top1"] = {
            name: evaluate(model, test, device=device)
            for name, model in (("stored statistics", teacher), ("those of the images", anew))
        }
        print(f"top-1 with {', '.join(f'{n}: {v:.2f} %' for n, v in found['top1'].items())}")
    report.draw_statistics(gaps, _write(subject.run, "statistics", found, device))


def gradients(subject: Annotated[Subject, Flat], batch_size: int = 64, batches: int = 8) -> None:
    """Whether the student's losses pull the same way: cosines of their gradients (Figure 6a).

    Args:
        subject: network, student and images.
        batch_size: images per gradient.
        batches: how many gradients.
    """
    teacher, images, device = subject.load()
    found = analysis.gradient_cosines(
        teacher,
        load_student(teacher, subject.run),
        islice(images.batches(batch_size), max(0, min(batches, len(images)))),
        read_finetune_config(subject.run),
        device=device,
    )
    report.draw_cosines(found, _write(subject.run, "gradients", found, device))


def hessian(
    subject: Annotated[Subject, Flat], batch_size: int = 64, steps: int = 30, vectors: int = 1, seed: int = 0
) -> None:
    """Eigenvalues of the Hessians of CE, KL and FA, by stochastic Lanczos (Figure 6b).

    Args:
        subject: network, student and images.
        batch_size: images that the losses are taken on.
        steps: Lanczos steps.
        vectors: start vectors that are averaged.
        seed: of the start vectors.
    """
    teacher, images, device = subject.load()
    x, labels = next(images.batches(batch_size))
    student, config = load_student(teacher, subject.run), read_finetune_config(subject.run)
    losses = analysis.StudentLosses(teacher, student, x, labels, config, device=device)
    terms = {"CE": losses.cross_entropy, "KL": losses.distillation, "FA": losses.alignment}
    spectra = {}
    for name, loss in terms.items():
        matrix = analysis.Hessian(loss, losses.parameters)
        found = analysis.hessian_spectrum(matrix, vectors=vectors, steps=steps, seed=seed)
        spectra[name], top = found, found.largest()[0]
        print(f"{name}: largest eigenvalue {top.value:.4g} (within {top.bound:.1g})")
    values = {"seed": seed, **{name: asdict(spectrum) for name, spectrum in spectra.items()}}
    report.draw_spectrum(spectra, _write(subject.run, "hessian", values, device))


def sensitivity(
    subject: Annotated[Subject, Flat],
    limit: int = 128,
    placement: str = "auto",
    symmetric_weights: bool = False,
    min_max: bool = False,
    time: bool = False,
    act_bits: int = 4,
    keep: int = 3,
) -> None:
    """What every layer loses at 2 to 8 bits, all others in full precision: weights and activations apart.

    Names the layers whose weights are best kept at 8 bits.

    Args:
        subject: network and images.
        limit: use only this many of the images.
        placement: of activation quantizers, as for quantize.
        symmetric_weights: as for quantize.
        min_max: ranges are minimum and maximum, not those of the smallest rounding error.
        time: measure what each takes in the engine on this machine, too, as a budget of allocation (--time).
        act_bits: of activations while that is measured, 2 to 8.
        keep: how many layers to name.
    """
    check_range("limit", limit, 1)
    check_range("keep", keep, 0, 10_000)
    teacher, images, device = subject.load()
    found = analysis.sensitivity(
        teacher,
        images.images[:limit],
        placement=placement,
        symmetric_weights=symmetric_weights,
        search=not min_max,
        device=device,
    )
    if time:
        x = images.images[:limit]
        found = analysis.with_engine_seconds(found, teacher, x, act_bits=act_bits, placement=placement)
    for line in kept_at_8(found, keep, few_bits(read_config(subject.run))):
        print(line)
    values = {name: asdict(layer) for name, layer in found.items()}
    report.draw_layers(found, _write(subject.run, "sensitivity", values, device))


def allocation(run: Path, points: int = 25, cost: Literal["size", "bit_operations", "seconds"] = "size") -> None:
    """What weights cost against the estimated loss, with bits chosen layer by layer; after sensitivity.

    Args:
        run: run directory with analysis/sensitivity.json.
        points: budgets between the least and the most.
        cost: bytes, multiplications times bits, or seconds in the engine (after sensitivity --time).
    """
    layers = analysis.read_sensitivity(run / "analysis/sensitivity.json")
    found = {"chosen": analysis.bit_curve(layers, points=points, cost=cost), "uniform": uniform(layers)}
    values = {name: list(map(asdict, curve)) for name, curve in found.items()}
    name = "allocation" if cost == "size" else f"allocation-{cost}"
    report.draw_bit_curve(found, _write(run, name, values, torch.device("cpu")), cost=cost)


def curves(run: Path, others: tuple[Path, ...] = ()) -> None:
    """Losses and test accuracy over the iterations, of one run or several (Figure 4).

    Args:
        run: run directory; its analysis/ folder gets the picture.
        others: run directories drawn beside it.
    """
    found = {path.name: analysis.loss_curves(RunDirectory.open(path).read_log()) for path in (run, *others)}
    report.draw_loss_curves(found, _write(run, "curves", found, torch.device("cpu")))


VERBS = (difficulty, statistics, gradients, hessian, sensitivity, allocation, curves)
ANALYSES: dict[str, Callable[..., None]] = {f.__name__: f for f in VERBS}
