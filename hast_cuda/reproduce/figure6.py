"""Figure 6: do two losses agree while a student is trained, and how curved is each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda import report
from hast_cuda.analysis import Hessian, Spectrum, StudentLosses, gradient_cosines, hessian_spectrum
from hast_cuda.finetune import FinetuneConfig, finetune
from hast_cuda.finetune.checkpoint import CheckpointFile
from hast_cuda.methods import Recipe, change
from hast_cuda.report.words import number
from hast_cuda.reproduce.runner import Drawing, Say, Setting, recipe_of, run_folder, run_seed
from hast_cuda.reproduce.tables import Row
from hast_cuda.run.settings import labels_for

POINTS = 10  # measurements along the fine-tuning, besides its start
BATCH, BATCHES = 64, 4  # images per gradient, gradients per measurement
STEPS = 30  # of Lanczos
CE_KL, FA_KL = "cross_entropy_distillation", "alignment_distillation"
LOSSES = {"CE": "cross_entropy", "KL": "distillation", "FA": "alignment"}
HEADER = ("row", "losses", "cosine at the start", "at the end", "mean", "lowest", "highest", "in the paper")
PAPER = {CE_KL: "negative throughout", FA_KL: "positive"}
TERMS = {CE_KL: "CE and KL", FA_KL: "FA and KL"}


def measure_figure6(rows: Sequence[Row], setting: Setting, seeds: Sequence[int], say: Say) -> Drawing:
    """Cosine of the gradients of a row's two losses along its fine-tuning; Hessians (Figure 6).

    (a) Each row is fine-tuned from its calibrated student, and measured at the start and ten times
    on the way: the mean cosine over four batches of 64 of its images, not cropped. Several seeds
    are averaged. (b) Eigenvalues of the Hessians of CE, KL and FA of the last row's student, first
    seed, one batch (:func:`hast_cuda.analysis.hessian_spectrum`). ValueError: see :func:`pair_of`.
    """
    pairs = {row.name: pair_of(row.name, recipe_of(row, setting)) for row in rows}
    curves: dict[str, list[float]] = {}
    data: dict[str, Any] = {}
    lines: list[list[str]] = []
    iterations: list[int] = []
    spectra: dict[str, Spectrum] = {}
    for row in rows:
        found: list[list[float]] = []
        for seed in seeds:
            say(f"{row.name}, seed {seed}")
            tuned = _Tuned(row, setting, seed, pairs[row.name])
            iterations = tuned.iterations
            found.append(tuned.cosines)
            if row is rows[-1] and seed == seeds[0]:
                say("Hessians")
                spectra = tuned.spectra(setting)
        pair = pairs[row.name]
        curve = torch.tensor(found, dtype=torch.float64).mean(0).tolist()
        name = f"{row.name} ({TERMS[pair]})"
        curves[name] = curve
        data[row.name] = {"losses": pair, "iterations": iterations, "cosines": found}
        lines.append(
            [
                row.name,
                TERMS[pair],
                number(curve[0]),
                number(curve[-1]),
                number(sum(curve) / len(curve)),
                number(min(curve)),
                number(max(curve)),
                PAPER[pair],
            ]
        )
    data["hessian"] = {name: asdict(spectrum) for name, spectrum in spectra.items()}
    tops = ", ".join(f"{n} {s.largest()[0].value:.4g}" for n, s in spectra.items())
    note = (
        f"Largest eigenvalues of the Hessians, student of {rows[-1].name}: {tops}. The paper has "
        "no figures: CE has the longer tail. Losses are without their weights; a quantized network "
        "has no Hessian, so it is that of its straight-through surrogate."
    )
    pictures = {
        "figure6a.png": lambda path: report.draw_cosines(curves, path, iterations),
        "figure6b.png": lambda path: report.draw_spectrum(spectra, path),
    }
    return Drawing(HEADER, lines, data, pictures, [note])


def pair_of(name: str, recipe: Recipe) -> str:
    """Which two losses a recipe trains with, CE and KL or FA and KL; ValueError: others, or images not kept."""
    tuning = recipe.finetune
    if recipe.images != "synthetic":
        raise ValueError(f'figure6 measures on optimised images; those of {name} are "{recipe.images}"')
    two = bool(tuning.label_weight) != bool(tuning.feature_weight)
    if not two or not tuning.distillation_weight or not tuning.iterations:
        raise ValueError(
            f"figure6 compares two losses in fine-tuning, KL and one of CE and FA; {name} has the "
            f"weights KL {tuning.distillation_weight}, CE {tuning.label_weight}, FA "
            f"{tuning.feature_weight} and {tuning.iterations} iterations"
        )
    return CE_KL if tuning.label_weight else FA_KL


class _Tuned:
    """One row and seed, fine-tuned and measured; a killed one goes on."""

    def __init__(self, row: Row, setting: Setting, seed: int, pair: str) -> None:
        chosen = recipe_of(row, setting)
        self.config: FinetuneConfig = change(
            chosen, {"finetune.evaluations": min(POINTS, chosen.finetune.iterations)}
        ).finetune
        start = change(chosen, {"finetune.iterations": 0})
        beginning = Row(f"{row.name} start", row.method, row.changes, row.image_share)
        done = run_seed(beginning, start, setting, seed)
        assert done.images is not None
        folder = run_folder(beginning, setting, seed)
        self.images: Tensor = done.images.images
        self.labels: Tensor = done.images.labels

        def cosine(student: nn.Module) -> float:
            batches = list(zip(self.images.split(BATCH), self.labels.split(BATCH), strict=True))[:BATCHES]
            values = gradient_cosines(setting.teacher, student, batches, self.config, device=setting.device)[pair]
            return sum(values) / len(values)

        first = cosine(done.student)
        tuned = finetune(
            setting.teacher,
            done.student,
            self.images,
            self.config,
            labels=labels_for(self.config, done.images),
            seed=seed,
            device=setting.device,
            evaluate=cosine,  # what is asked at every evaluation; its "accuracies" are cosines here
            execution=setting.execution,
            world=setting.world,
            checkpoint=CheckpointFile(folder / "checkpoints" / "figure6.safetensors"),
        )
        self.student = tuned.student
        self.iterations = [0, *(iteration for iteration, _ in tuned.accuracies)]
        self.cosines = [first, *(value for _, value in tuned.accuracies)]

    def spectra(self, setting: Setting) -> dict[str, Spectrum]:
        """Of each loss, on the first batch."""
        losses = StudentLosses(
            setting.teacher, self.student, self.images[:BATCH], self.labels[:BATCH], self.config, device=setting.device
        )
        return {
            name: hessian_spectrum(Hessian(getattr(losses, loss), losses.parameters), steps=STEPS)
            for name, loss in LOSSES.items()
        }
