from __future__ import annotations

from typing import Any

import pytest

from hast_cuda.finetune import FinetuneConfig
from hast_cuda.synthesis import SynthesisConfig


@pytest.mark.parametrize(
    ("changed", "rates"),
    [
        ({"decay_at": (0.25, 0.75)}, [1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01]),
        ({"decay_at": ()}, [1] * 8),
        ({"decay_at": (0.0,)}, [0.1] * 8),
    ],
)
def test_step_schedule(changed: dict[str, Any], rates: list[float]) -> None:
    config = FinetuneConfig(iterations=8, learning_rate=1.0, **changed)
    assert [config.rate(i) for i in range(8)] == pytest.approx(rates)


@pytest.mark.parametrize("iterations", [3, 300, 29_400, 30_000])
def test_default_schedule_decays_at_two_thirds(iterations: int) -> None:
    config = FinetuneConfig(iterations=iterations)
    decay = iterations * 2 // 3
    assert [config.rate(decay - 1), config.rate(decay)] == pytest.approx([1e-5, 1e-6])


def test_cosine_schedule() -> None:
    config = FinetuneConfig(iterations=10, learning_rate=2.0, schedule="cosine")
    rates = [config.rate(i) for i in range(11)]
    assert (rates[0], rates[5], rates[10]) == pytest.approx((2, 1, 0))
    assert rates == sorted(rates, reverse=True)


def refusals(*cases: tuple[str, object, str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("field", "value", "message"), cases)


@refusals(
    ("iterations", -1, "iterations is -1; allowed: at least 0"),
    ("batch_size", 0, "batch_size is 0; it must be greater than 0"),
    ("learning_rate", float("inf"), "learning_rate is inf"),
    ("schedule", "linear", "schedule is 'linear'; allowed: 'step', 'cosine'"),
    ("decay_at", (0.5, 20), "decay_at is 20; allowed: from 0 to 1"),
    ("optimizer", "adam", "optimizer is 'adam'; allowed: 'sgd', 'adamw'"),
    ("momentum", 1.5, "momentum is 1.5; allowed: from 0 to 1"),
    ("weight_decay", -1.0, "weight_decay is -1.0; allowed: at least 0"),
    ("temperature", 0.0, "temperature is 0.0"),
    ("distillation_weight", -1.0, "distillation_weight is -1.0"),
    ("distillation_reduction", "sum", "distillation_reduction is 'sum'; allowed: 'batchmean'"),
    ("alignment", "spatial", "alignment is 'spatial'; allowed: 'relaxed', 'direct'"),
    ("perturb_by", "label", "perturb_by is 'label'; allowed: 'both'"),
    ("perturbation", -0.1, "perturbation is -0.1"),
    ("flip_fraction", 2.0, "flip_fraction is 2.0; allowed: from 0 to 1"),
    ("largest_step", 0.5, "largest_step is 0.5; allowed: at least 1"),
    ("crop_scale", (0.5, 1.5), r"crop_scale is \(0.5, 1.5\)"),
    ("max_grad_norm", -1.0, "max_grad_norm is -1.0"),
    ("calibration", "real", "calibration is 'real'; allowed: 'images', 'generator'"),
    ("calibration_updates", 0, "calibration_updates is 0"),
    ("ema", "wrong", "ema is 'wrong'; allowed: 'corrected', 'released'"),
    ("evaluations", 0, "evaluations is 0"),
)
def test_finetune_values_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FinetuneConfig(**{field: value})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"optimizer": "adamw", "flip_fraction": 0.1}, "flip_fraction enlarges the steps of SGD"),
        ({"optimizer": "adamw", "momentum": 1.0}, "momentum is 1: AdamW"),
        ({"perturb_by": "alignment", "feature_weight": 0.0}, "'alignment', a loss of weight 0"),
        ({"clean_weight": 0.0, "perturbed_weight": 0.0}, "one must count"),
        ({"clean_weight": 0.0, "perturbation": 0.0}, "one must count"),
        ({"distillation_weight": 0.0, "feature_weight": 0.0}, "one must count"),
    ],
)
def test_finetune_values_that_do_not_go_together(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FinetuneConfig(**changed)


@refusals(
    ("num_images", 0, "num_images is 0; it must be greater than 0"),
    ("learning_rate", float("nan"), "learning_rate is nan"),
    ("schedule", "linear", "schedule is 'linear'; allowed: 'plateau', 'cosine'"),
    ("match_reduction", "max", "'max'; allowed: 'mse', 'norm', 'sum', 'relative'"),
    ("match_weight", -1.0, "match_weight is -1.0"),
    ("noise", "laplace", "noise is 'laplace'; allowed: 'gaussian', 'natural', 'uniform'"),
    ("statistics", "layer", "statistics is 'layer'; allowed: 'batch', 'sample'"),
    ("spread", "iqr", "spread is 'iqr'; allowed: 'variance', 'std'"),
    ("slack_percentile", 90.0, "slack_percentile is 90.0; allowed: from 0 to 1"),
    ("layer_emphasis", 1.0, 'it needs statistics="sample"'),
    ("label_loss", "mse", "label_loss is 'mse'; allowed: 'hard_sample', 'soft'"),
    ("margins", (0.8, 0.05), r"margins is \(0.8, 0.05\); .* 0 <= lower <= upper <= 2"),
    ("margins", (0.5,), "margins is"),
    ("crop_scale", (0.9, 0.5), r"crop_scale is \(0.9, 0.5\); .* 0 < low <= high <= 1"),
    ("patience", -1, "patience is -1"),
)
def test_synthesis_values_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SynthesisConfig(**{field: value})
