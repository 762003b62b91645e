from __future__ import annotations

from typing import Any

import pytest

from hast_cuda.finetune import FinetuneConfig
from hast_cuda.finetune import config as finetuning
from hast_cuda.synthesis import SynthesisConfig
from hast_cuda.synthesis import config as synthesis


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


WRONG: list[tuple[Any, str, object, str]] = [
    (FinetuneConfig, "iterations", -1, "iterations is -1; allowed: from 0 to"),
    (FinetuneConfig, "batch_size", 0, "batch_size is 0; it must be greater than 0"),
    (FinetuneConfig, "decay_at", (0.5, 20), "decay_at is 20; allowed: from 0 to 1"),
    (FinetuneConfig, "largest_step", 0.5, "largest_step is 0.5; allowed: at least 1"),
    (FinetuneConfig, "crop_scale", (0.5, 1.5), r"crop_scale is \(0.5, 1.5\)"),
    (SynthesisConfig, "learning_rate", float("nan"), "learning_rate is nan"),
    (SynthesisConfig, "label_temperature", 0.0, "label_temperature is 0"),
    (SynthesisConfig, "layer_emphasis", 1.0, 'it needs statistics="sample"'),
    (SynthesisConfig, "margins", (0.8, 0.05), r"margins is \(0.8, 0.05\); .* <= upper <= 2"),
    (SynthesisConfig, "margins", (0.5,), "margins is"),
    (SynthesisConfig, "crop_scale", (0.9, 0.5), r"crop_scale is \(0.9, 0.5\); .* 0 < low"),
]
for made, config in ((FinetuneConfig, finetuning), (SynthesisConfig, synthesis)):
    positive = (*getattr(config, "POSITIVE", ()), *getattr(config, "MOST", ()))
    WRONG += [(made, n, 0, f"{n} is 0; it must be greater than 0") for n in positive]
    WRONG += [(made, n, -1, f"{n} is -1; allowed: at least 0") for n in config.NOT_NEGATIVE]
    WRONG += [(made, n, 1.5, f"{n} is 1.5; allowed: from 0 to 1") for n in config.FRACTIONS]
    WRONG += [(made, n, "x", f"{n} is 'x'; allowed: '{v[0]}'") for n, v in config.CHOICES.items()]


@pytest.mark.parametrize(("make", "field", "value", "message"), WRONG)
def test_values_refused(make: Any, field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**{field: value})


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
