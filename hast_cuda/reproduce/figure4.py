"""Figure 4: the weight of Eq. 8 stops pulling before images are easy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hast_cuda import report
from hast_cuda.analysis import judge
from hast_cuda.report.words import number
from hast_cuda.reproduce.runner import Drawing, Say, Setting, images_for, recipe_of
from hast_cuda.reproduce.tables import Row

BATCH = 256
HARD = 0.5
PAPER = {"IL": 0.2, "HIL": 0.7}  # difficulties that the text of Section 3.3 names
NOTE = (
    f"Hard images have a difficulty over {HARD}. The paper names two difficulties, not how they "
    "were found; the weight of the loss (beta of Eq. 9) and the number of iterations matter to "
    "both rows."
)


def measure_figure4(rows: Sequence[Row], setting: Setting, seeds: Sequence[int], say: Say) -> Drawing:
    """Difficulty of images made with the inception loss (Eq. 5) and the weighted one (Eq. 8).

    Nothing is fine-tuned. Difficulty, cross entropy and loss are those of the finished images under
    the full-precision network, without crops; images of several seeds are counted together.
    ValueError: a row whose images are not optimised noise.
    """
    exponents: dict[str, float] = {}
    marks: dict[str, float] = {}
    lines: list[dict[str, str]] = []
    data: dict[str, Any] = {}
    for row in rows:
        chosen = recipe_of(row, setting)
        if chosen.images != "synthetic":
            raise ValueError(f'figure4 compares optimised images; those of {row.name} are "{chosen.images}"')
        found = []
        for seed in seeds:
            say(f"{row.name}, seed {seed}")
            made, _ = images_for(chosen, setting, seed)
            assert made is not None
            found.append(judge(setting.teacher, made.batches(BATCH), device=setting.device).difficulty)
        difficulty = torch.cat(found).double()
        gamma = chosen.synthesis.difficulty_exponent
        # A float32 probability below 2^-24 leaves a difficulty of 1, and a loss without end.
        entropy = -torch.log1p(-difficulty.clamp(max=1 - 2**-24))
        values = {
            "gamma": gamma,
            "images": len(difficulty),
            "difficulty": float(difficulty.mean()),
            "hard_percent": 100 * float((difficulty > HARD).double().mean()),
            "cross_entropy": float(entropy.mean()),
            "loss": float((difficulty**gamma * entropy).mean()),
        }
        exponents[row.name], marks[row.name] = gamma, values["difficulty"]
        data[row.name] = values
        lines.append(
            {
                "row": row.name,
                "gamma": f"{gamma:g}",
                "images": str(len(difficulty)),
                "mean difficulty": number(values["difficulty"], ".3f"),
                "hard images, %": number(values["hard_percent"]),
                "mean cross entropy": number(values["cross_entropy"], ".4f"),
                "mean loss (Eq. 8)": number(values["loss"], ".4f"),
                "difficulty in the paper": number(PAPER.get(row.name), ".1f"),
            }
        )
    pictures = {"figure4.png": lambda path: report.draw_inception(exponents, marks, path)}
    return Drawing(tuple(lines[0]), [list(line.values()) for line in lines], data, pictures, [NOTE])
