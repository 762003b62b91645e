from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hast_cuda import report
from hast_cuda.analysis import (
    Hessian,
    LayerSensitivity,
    StatisticGap,
    bit_curve,
    difficulty_histogram,
    error_by_difficulty,
    hessian_spectrum,
    loss_curves,
)
from hast_cuda.analysis.allocation import uniform
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.report.plots import panels

plt = pytest.importorskip("matplotlib.pyplot")


def spectrum(scale: float) -> object:
    x = torch.randn(6, dtype=torch.float64, requires_grad=True)
    weights = scale * torch.arange(1.0, 7, dtype=torch.float64)
    return hessian_spectrum(Hessian(lambda: weights @ x.square(), [x]), steps=6)


def difficulties(seed: int) -> torch.Tensor:
    return torch.rand(200, generator=torch.Generator().manual_seed(seed))


def wrong(seed: int) -> torch.Tensor:
    return difficulties(seed) > 0.5


LAYERS = {"a": LayerSensitivity({2: 0.5, 8: 0.0}, {2: 0.2}, 10), "_b": LayerSensitivity({2: 0.1, 8: 0.01}, {}, 20)}
HELD_OUT = {"phase": "held out", "iteration": 3, "divergence": 0.1, "same_class": 90.0}
RUN = loss_curves(
    [HELD_OUT, *({"phase": "finetune", "iteration": i, "distillation": 10.0 / (i + 1)} for i in range(5))]
)
DRAWINGS: dict[str, Callable[[Path], None]] = {
    "difficulty": lambda p: report.draw_difficulty(
        {"a": difficulty_histogram(difficulties(0)), "b": difficulty_histogram(difficulties(1))}, p
    ),
    "error_by_difficulty": lambda p: report.draw_error_by_difficulty(
        {"student": error_by_difficulty(difficulties(0), wrong(1))}, p
    ),
    "loss_curves": lambda p: report.draw_loss_curves({"one": RUN, "two": RUN}, p),
    "cosines": lambda p: report.draw_cosines({"alignment_distillation": [0.1, 0.3, -0.2]}, p),
    "spectrum": lambda p: report.draw_spectrum(
        {"CE": spectrum(1.0), "KL": spectrum(0.1)},  # type: ignore[dict-item]
        p,
    ),
    "layers": lambda p: report.draw_layers(LAYERS, p),
    "bit curve": lambda p: report.draw_bit_curve({"a": bit_curve(LAYERS), "b": uniform(LAYERS)}, p),
    "statistics": lambda p: report.draw_statistics({"bn1": StatisticGap(0.1, 0.4), "bn2": StatisticGap(0.0, 1.5)}, p),
    "sensitivity": lambda p: report.draw_sensitivity({"perturbation": {0.01: [80.0, 81.0], 0.02: [79.0, 82.0]}}, p),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_picture_with_something_on_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.png"
    DRAWINGS[name](path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    pixels = plt.imread(path)
    assert min(pixels.shape[:2]) > 200
    assert pixels[:, :, :3].std() > 0.02
    assert not plt.get_fignums()  # closed again


def test_curves_come_in_the_order_of_a_runs_phases() -> None:
    names = [("finetune", "distillation"), ("held out", "divergence"), ("held out", "same_class")]
    assert panels([RUN]) == names


def test_a_drawing_that_fails_leaves_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> str:
        raise RuntimeError("no label")

    monkeypatch.setattr("hast_cuda.report.analysis_plots.label", broken)
    with pytest.raises(RuntimeError, match="no label"):
        report.draw_inception({"HIL": 2.0}, {}, tmp_path / "a.png")
    assert not plt.get_fignums()


CHARTS = [n for n in report.__all__ if n.startswith("draw_") and n != "draw_images"]


@pytest.mark.parametrize("name", CHARTS)
def test_nothing_to_draw(name: str, tmp_path: Path) -> None:
    rest = {"marks": {}} if name == "draw_inception" else {}
    with pytest.raises(ValueError, match="is empty: there is nothing to draw"):
        getattr(report, name)({}, path=tmp_path / "empty.png", **rest)
    assert not list(tmp_path.iterdir())


def test_what_has_no_place_on_an_axis_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    with pytest.raises(ValueError, match=r"cosines\['a'\] is empty"):
        report.draw_cosines({"a": []}, path)
    with pytest.raises(ValueError, match="configs is empty"):
        report.draw_learning_rate({"a": FinetuneConfig(iterations=0)}, path)
    with pytest.raises(ValueError, match="accuracies has nan"):
        report.draw_accuracies({"a": float("nan")}, path)
    with pytest.raises(ValueError, match=r"exponent is -1\.0"):
        report.inception_loss(0.0, -1.0)
    assert not path.exists()
