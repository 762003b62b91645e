"""Figure 2: how well students do on what they were trained on, on test images, on hard ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda import report
from hast_cuda.analysis import Judged, difficulty_histogram, error_by_difficulty, judge
from hast_cuda.report.words import number
from hast_cuda.reproduce.runner import Drawing, Say, Setting, missing, recipe_of, run_seed
from hast_cuda.reproduce.tables import Row

BATCH = 256
HARD = 0.5  # images above this difficulty are called hard in the table
FULL = "full precision"
OWN = "top-1 on its training images"

_DIFFICULTY = (
    f"Hard images have a difficulty (Eq. 7) over {HARD} under the full-precision network. In "
    "figure2c.png difficulty is that under the student which was trained on the images (of the "
    "test images: under the full-precision network), in figure2c-full-precision.png that under "
    "the full-precision network for all."
)
_FINDING = (
    "The paper's finding: students of synthetic images err more on hard test images than that of "
    "real ones, and synthetic images lack hard ones; HAST's do not. It gives no figures."
)


class _Seen:
    """What was seen of one row, all seeds together."""

    def __init__(self) -> None:
        self.own: list[Judged] = []
        """The student on its training images."""
        self.taught: list[Tensor] = []
        """Difficulty of these images under the full-precision network."""
        self.test: list[Judged] = []
        """The student on test images."""

    def top1(self, found: Sequence[Judged]) -> list[float]:
        """Percent, per seed."""
        return [100 * float((~judged.wrong).double().mean()) for judged in found]


def measure_figure2(rows: Sequence[Row], setting: Setting, seeds: Sequence[int], say: Say) -> Drawing:
    """Top-1 on training and test images, errors by difficulty, difficulty of the images (Figure 2).

    Difficulty ``1 - p_y`` (Eq. 7) is measured under the full-precision network; that of the
    training images under the student that was trained on them, too. Images of several seeds are
    counted together; rows that keep none are left out.
    """
    hard = judge(setting.teacher, setting.test.batches(BATCH), device=setting.device)
    found: dict[str, _Seen] = {}
    absent: dict[str, str] = {}
    for row in rows:
        chosen = recipe_of(row, setting)
        why = missing(chosen, setting)
        if why is None and chosen.images not in ("synthetic", "real"):
            why = f'keeps no images (those of its recipe are "{chosen.images}")'
        if why is not None:
            absent[row.name] = why
            continue
        seen = found[row.name] = _Seen()
        for seed in seeds:
            say(f"{row.name}, seed {seed}")
            done = run_seed(row, chosen, setting, seed)
            assert done.images is not None
            pairs = list(done.images.batches(BATCH))
            seen.own.append(_judge(done.student, pairs, setting))
            seen.taught.append(_judge(setting.teacher, pairs, setting).difficulty)
            seen.test.append(_judge(done.student, setting.test.batches(BATCH), setting))
    return _drawing(found, absent, hard)


def _judge(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], setting: Setting) -> Judged:
    return judge(network, batches, device=setting.device)


def _drawing(found: dict[str, _Seen], absent: dict[str, str], hard: Judged) -> Drawing:
    is_hard = hard.difficulty > HARD
    rates = {FULL: error_by_difficulty(hard.difficulty, hard.wrong)}
    own = {"test": difficulty_histogram(hard.difficulty)}
    taught = dict(own)
    gaps: dict[str, tuple[float, float]] = {}
    lines: list[dict[str, str]] = []
    data: dict[str, Any] = {}
    data["test"] = {"difficulty": asdict(own["test"]), "errors": {FULL: asdict(rates[FULL])}}
    lines.append(_line(FULL, None, _mean(~hard.wrong), [hard.difficulty], None, hard, is_hard))
    for name, seen in found.items():
        test = Judged(hard.difficulty.repeat(len(seen.test)), torch.cat([j.wrong for j in seen.test]))
        train_top1, test_top1 = seen.top1(seen.own), seen.top1(seen.test)
        gaps[name] = (sum(train_top1) / len(train_top1), sum(test_top1) / len(test_top1))
        rates[name] = error_by_difficulty(test.difficulty, test.wrong)
        student = torch.cat([j.difficulty for j in seen.own])
        own[name], taught[name] = (difficulty_histogram(student), difficulty_histogram(torch.cat(seen.taught)))
        lines.append(
            _line(name, gaps[name][0], gaps[name][1], seen.taught, student, test, is_hard.repeat(len(seen.test)))
        )
        data[name] = {
            "top1_training_images": train_top1,
            "top1_test_images": test_top1,
            "difficulty": asdict(taught[name]),
            "difficulty_student": asdict(own[name]),
            "errors": asdict(rates[name]),
        }
    lines += [dict.fromkeys(lines[0], "-") | {"row": name, OWN: why} for name, why in absent.items()]
    pictures = {
        "figure2b.png": lambda path: report.draw_error_by_difficulty(rates, path),
        "figure2c.png": lambda path: report.draw_difficulty(own, path, "the student"),
        "figure2c-full-precision.png": lambda path: report.draw_difficulty(taught, path),
    }
    if gaps:
        pictures["figure2a.png"] = lambda path: report.draw_gaps(gaps, path)
    cells = [list(line.values()) for line in lines]
    return Drawing(tuple(lines[0]), cells, data, pictures, [_DIFFICULTY, _FINDING])


def _line(
    name: str,
    train: float | None,
    test: float,
    taught: Sequence[Tensor],
    student: Tensor | None,
    judged: Judged,
    is_hard: Tensor,
) -> dict[str, str]:
    """Cells by column."""
    difficulty = torch.cat(list(taught))
    errors = judged.wrong[is_hard]
    return {
        "row": name,
        OWN: number(train),
        "top-1 on test images": number(test),
        "gap": number(None if train is None else train - test),
        "mean difficulty of its images": number(float(difficulty.double().mean()), ".3f"),
        "the same, for the student": number(None if student is None else float(student.double().mean()), ".3f"),
        "hard images, %": number(_mean(difficulty > HARD)),
        "error on hard test images, %": number(_mean(errors) if len(errors) else None),
    }


def _mean(flags: Tensor) -> float:
    """Percent of ``flags`` that are set."""
    return 100 * float(flags.double().mean())
