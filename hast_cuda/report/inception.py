"""The inception loss with and without its weight, over the difficulty (Figure 4)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_range
from hast_cuda.report.canvas import closing, label, pyplot, require, save

POINTS = 200
HIGHEST = 0.99  # -log(1 - d) has no end at 1


@typed
def inception_loss(difficulty: float, exponent: float) -> float:
    """``-d^gamma log(1 - d)`` (Eq. 8) of an image of difficulty ``d = 1 - p_y`` in [0, 1).

    Raises:
        ValueError: a difficulty outside of [0, 1), an exponent below 0 or not finite.
    """
    check_range("exponent", exponent, 0)
    if not 0 <= difficulty < 1:
        message = f"difficulty is {difficulty}; expected [0, 1): at 1 the loss is infinite"
        raise ValueError(message)
    weight: float = difficulty**exponent
    return -weight * math.log1p(-difficulty)


@closing
@typed
def draw_inception(exponents: Mapping[str, float], marks: Mapping[str, float], path: Path) -> None:
    """Loss against difficulty, one curve per exponent, and the mean difficulty of image sets.

    Args:
        exponents: gamma of Eq. 8 by name; 0 is the inception loss without a weight.
        marks: difficulties in [0, 1] by the name of their images, each with the colour of the
            curve of its name.
        path: of the SVG or PNG file.

    Raises:
        ValueError: no exponent. ImportError: no matplotlib.
    """
    require("exponents", exponents)
    for name, exponent in exponents.items():
        check_range(f"exponents[{name!r}]", exponent, 0)
    for name, difficulty in marks.items():
        check_range(f"marks[{name!r}]", difficulty, 0, 1)
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    places = [HIGHEST * i / (POINTS - 1) for i in range(POINTS)]
    for index, (name, exponent) in enumerate(exponents.items()):
        axis.plot(
            places, [inception_loss(d, exponent) for d in places], color=f"C{index}",
            label=rf"{label(name)}: $\gamma$ = {exponent:g}",
        )  # fmt: skip
    names = list(exponents)
    for index, (name, difficulty) in enumerate(marks.items()):
        color = f"C{names.index(name) if name in names else len(names) + index}"
        axis.axvline(
            difficulty, color=color, linestyle="--", label=f"{label(name)}: mean {difficulty:.2f}"
        )
    axis.invert_xaxis()  # the optimisation goes to the right, as in the paper's figure
    axis.set_xlabel("difficulty, 1 - p(label)")
    axis.set_ylabel("loss")
    axis.grid(alpha=0.3)
    axis.legend()
    save(figure, path)
