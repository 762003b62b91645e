"""``hast-cuda analyze``: why a finished run is as good as it is (Eq. 3, Figures 2, 4 and 6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from hast_cuda import analysis, report
from hast_cuda.checks.values import check_range
from hast_cuda.cli.options import Budget, Network, labelled_images
from hast_cuda.data import Images, evaluate
from hast_cuda.files.whole import write_json
from hast_cuda.run import RunDirectory, environment, load_student, read_finetune_config, read_images
from hast_cuda.synthesis import ImageStore

Flat = tyro.conf.arg(name="")


def _write(run: Path, name: str, found: Any, device: torch.device) -> Path:
    """``<run>/analysis/<name>.json`` with where it was computed; the picture's path beside it."""
    folder = run / "analysis"
    folder.mkdir(exist_ok=True)
    write_json(folder / f"{name}.json", {"environment": environment(device), name: found})
    print(f"written: {folder / name}.json and .png")
    return folder / f"{name}.png"


def _images(run: Path, images: Path | None) -> Images:
    return read_images(run) if images is None else ImageStore(images).load_all()


def _batches(images: Images, size: int, limit: int) -> Iterator[tuple[Tensor, Tensor]]:
    check_range("batch_size", size, 1, 2**20)
    pairs = zip(images.images.split(size), images.labels.split(size), strict=True)
    yield from (pair for _, pair in zip(range(limit), pairs, strict=False))


def difficulty(
    network: Annotated[Network, Flat], run: Path, data: str | None = None,
    images: Path | None = None, bins: int = 10, device: str = "auto",
) -> None:  # fmt: skip
    """How hard the synthetic images are, and the errors on test images by difficulty (Figure 2).

    Args:
        network: the full-precision network; difficulty is measured under it.
        run: finished run directory.
        data: labelled test images, also judged.
        images: directory of other images than the run's.
        bins: of difficulty.
        device: as for quantize.
    """
    teacher, target = network.load(), Budget(device=device).torch_device()
    made = analysis.judge(teacher, _batches(_images(run, images), 256, 10**6), device=target)
    histograms = {"synthetic": analysis.difficulty_histogram(made.difficulty, bins)}
    found: dict[str, Any] = {"histograms": histograms}
    test = labelled_images(data, network.spec())
    if test is not None:
        student = load_student(teacher, run)
        hard = analysis.judge(teacher, test.batches(256), device=target)
        wrong = analysis.judge(student, test.batches(256), device=target).wrong
        histograms["test"] = analysis.difficulty_histogram(hard.difficulty, bins)
        rates = {
            "full precision": analysis.error_by_difficulty(hard.difficulty, hard.wrong, bins),
            "quantized": analysis.error_by_difficulty(hard.difficulty, wrong, bins),
        }
        found["errors"] = {name: asdict(rate) for name, rate in rates.items()}
        report.draw_error_by_difficulty(rates, _write(run, "errors", found["errors"], target))
    found["histograms"] = {name: asdict(histogram) for name, histogram in histograms.items()}
    report.draw_difficulty(histograms, _write(run, "difficulty", found["histograms"], target))


def statistics(
    network: Annotated[Network, Flat], run: Path, data: str | None = None,
    images: Path | None = None, device: str = "auto",
) -> None:  # fmt: skip
    """How well the images match the network's BatchNorm statistics, layer by layer (Eq. 3).

    Args:
        network: the full-precision network.
        run: finished run directory.
        data: labelled test images; the network is tested on them with its statistics and with
            those of the images in their place. Images that stand for its data change little.
        images: directory of other images than the run's.
        device: as for quantize.
    """
    teacher, target = network.load(), Budget(device=device).torch_device()
    given = _images(run, images).images
    gaps = analysis.statistic_gaps(teacher, given, device=target)
    found: dict[str, Any] = {"gaps": {name: asdict(gap) for name, gap in gaps.items()}}
    test = labelled_images(data, network.spec())
    if test is not None:
        anew = analysis.reestimate_batch_norms(teacher, given, device=target)
        found["top1"] = {
            name: evaluate(model, test, device=target)
            for name, model in (("stored statistics", teacher), ("those of the images", anew))
        }
        print(f"top-1 with {', '.join(f'{n}: {v:.2f} %' for n, v in found['top1'].items())}")
    report.draw_statistics(gaps, _write(run, "statistics", found, target))


def gradients(
    network: Annotated[Network, Flat], run: Path, images: Path | None = None,
    batch_size: int = 64, batches: int = 8, device: str = "auto",
) -> None:  # fmt: skip
    """Whether the student's losses pull the same way: cosines of their gradients (Figure 6a).

    Args:
        network: the full-precision network.
        run: finished run directory.
        images: directory of other images than the run's.
        batch_size: images per gradient.
        batches: how many gradients.
        device: as for quantize.
    """
    teacher, target = network.load(), Budget(device=device).torch_device()
    found = analysis.gradient_cosines(
        teacher, load_student(teacher, run),
        _batches(_images(run, images), batch_size, batches), read_finetune_config(run),
        device=target,
    )  # fmt: skip
    report.draw_cosines(found, _write(run, "gradients", found, target))


def hessian(
    network: Annotated[Network, Flat], run: Path, images: Path | None = None,
    batch_size: int = 64, steps: int = 30, vectors: int = 1, seed: int = 0, device: str = "auto",
) -> None:  # fmt: skip
    """Eigenvalues of the Hessians of CE, KL and FA, by stochastic Lanczos (Figure 6b).

    Args:
        network: the full-precision network.
        run: finished run directory.
        images: directory of other images than the run's.
        batch_size: images that the losses are taken on.
        steps: Lanczos steps.
        vectors: start vectors that are averaged.
        seed: of the start vectors.
        device: as for quantize.
    """
    teacher, target = network.load(), Budget(device=device).torch_device()
    ((x, labels),) = _batches(_images(run, images), batch_size, 1)
    losses = analysis.StudentLosses(
        teacher, load_student(teacher, run), x, labels, read_finetune_config(run), device=target
    )
    spectra = {
        name: analysis.hessian_spectrum(
            analysis.Hessian(loss, losses.parameters), vectors=vectors, steps=steps, seed=seed
        )
        for name, loss in (
            ("CE", losses.cross_entropy), ("KL", losses.distillation), ("FA", losses.alignment),
        )
    }  # fmt: skip
    for name, spectrum in spectra.items():
        top = spectrum.largest()[0]
        print(f"{name}: largest eigenvalue {top.value:.4g} (within {top.bound:.1g})")
    found = {"seed": seed, **{name: asdict(spectrum) for name, spectrum in spectra.items()}}
    report.draw_spectrum(spectra, _write(run, "hessian", found, target))


def curves(run: Path, others: tuple[Path, ...] = ()) -> None:
    """Losses and test accuracy over the iterations, of one run or several (Figure 4).

    Args:
        run: run directory; its analysis/ folder gets the picture.
        others: run directories drawn beside it.
    """
    found = {
        path.name: analysis.loss_curves(RunDirectory.open(path).read_log())
        for path in (run, *others)
    }
    report.draw_loss_curves(found, _write(run, "curves", found, torch.device("cpu")))


ANALYSES: dict[str, Callable[..., None]] = {
    "difficulty": difficulty,
    "statistics": statistics,
    "gradients": gradients,
    "hessian": hessian,
    "curves": curves,
}
