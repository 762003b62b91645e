"""ZeroQ, DSG and IntraQ as configurations of the one loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from counting import synthesis_iteration
from networks import CHANNELS, CLASSES, SIZE, draw_batch_norms, tiny
from test_host_reads import refuse_reads
from torch import nn

from hast_cuda.data import InputSpec
from hast_cuda.loops.seeding import generator
from hast_cuda.synthesis import ImageStore, SynthesisConfig, synthesize
from hast_cuda.synthesis.draws import draw_noise
from hast_cuda.synthesis.objective import measure_slack

pytestmark = pytest.mark.usefixtures("exact")
SHAPE = InputSpec(CHANNELS, SIZE, SIZE, CLASSES)
SMALL = SynthesisConfig(num_images=10, batch_size=4, iterations=8, learning_rate=0.1)
PER_SAMPLE: dict[str, Any] = {"statistics": "sample", "spread": "std", "match_reduction": "sum", "match_input": True}
ZEROQ = replace(SMALL, noise="narrow", label_weight=0.0, **PER_SAMPLE)
DSG = replace(
    SMALL,
    noise="uniform",
    slack_percentile=0.9,
    slack_images=16,
    layer_emphasis=1.0,
    label_weight=1.0,
    difficulty_exponent=0.0,
    **PER_SAMPLE,
)
# The margins are narrower than IntraQ's, so that both count in a few iterations.
INTRAQ = replace(
    SMALL,
    label_loss="soft",
    soft_target=0.6,
    label_weight=1.0,
    margins=(0.3, 0.31),
    augment_probability=0.5,
    crop_scale=(0.5, 1.0),
    balanced_labels=True,
)
METHODS = {"zeroq": ZEROQ, "dsg": DSG, "intraq": INTRAQ}
Records = list[dict[str, Any]]


@pytest.mark.parametrize("method", METHODS)
def test_runs_and_learns(device: torch.device, method: str) -> None:
    records: Records = []
    config = replace(METHODS[method], iterations=40)
    found = synthesize(tiny(), SHAPE, config, device=device, log=records.append)
    assert found.images.shape == (10, CHANNELS, SIZE, SIZE)
    assert found.images.isfinite().all()
    wanted = {"loss", "match", "label", "difficulty"}
    assert all(wanted <= record.keys() for record in records)
    first, last = records[0], records[-1]
    assert (first["batch"], first["iteration"], last["iteration"]) == (0, 0, 39)
    assert last["match"] < 0.9 * first["match"]


def test_noise_is_what_its_name_says() -> None:
    shape = (50, 3, 8, 8)
    gaussian, uniform, narrow = (
        draw_noise(SynthesisConfig(noise=name), shape, seed=1, batch=2) for name in ("gaussian", "uniform", "narrow")
    )
    assert torch.equal(gaussian, torch.randn(shape, generator=generator(1, "noise", 2)))
    assert (uniform.min().item(), uniform.max().item()) == pytest.approx((0, 1), abs=1e-3)
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.02)
    assert narrow.abs().max().item() == pytest.approx(0.0235, abs=1e-4)
    assert narrow.mean().item() == pytest.approx(0, abs=1e-3)
    assert not torch.equal(uniform, draw_noise(SynthesisConfig(noise="uniform"), shape, 1, 3))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 33), (1, 1)])
def test_natural_noise_has_the_spectrum_of_photographs(height: int, width: int) -> None:
    shape = (2000, 3, height, width)
    noise = draw_noise(SynthesisConfig(noise="natural"), shape, seed=1, batch=0)
    assert noise.shape == shape
    assert noise.dtype == torch.float32
    assert noise.mean().item() == pytest.approx(0, abs=0.06)
    assert noise.var().item() == pytest.approx(1, abs=0.06)
    flat = noise.transpose(0, 1).flatten(1)
    correlations = torch.corrcoef(flat)[~torch.eye(3, dtype=torch.bool)]
    torch.testing.assert_close(correlations, torch.full((6,), 0.8), atol=0.03, rtol=0)
    power = torch.fft.fft2(noise).abs().square().mean((0, 1))
    if height > 4:  # power falls like 1/f^2: a quarter at twice the frequency
        for axis in (power[0], power[:, 0]):
            ratios = axis[2] / axis[1], axis[4] / axis[2]
            assert ratios == pytest.approx((0.25, 0.25), abs=0.03)
        if height == width:  # frequency 0 has the power of the lowest one
            assert (power[0, 0] / power[0, 1]).item() == pytest.approx(1, abs=0.1)
    again = draw_noise(SynthesisConfig(noise="natural"), shape, seed=1, batch=1)
    assert not torch.equal(noise, again)


@pytest.mark.parametrize("lost", [[0], [1, 2]])
@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_gives_the_same_images(
    device: torch.device, tmp_path: Path, method: str, lost: list[int]
) -> None:
    store, made = ImageStore(tmp_path), []
    options: dict[str, Any] = {"seed": 1, "device": device, "store": store}
    whole = synthesize(tiny(), SHAPE, METHODS[method], **options)
    for index in lost:
        store.path(index).unlink()
    again = synthesize(tiny(), SHAPE, METHODS[method], log=lambda record: made.append(record["batch"]), **options)
    assert sorted(set(made)) == lost
    assert torch.equal(whole.images, again.images)


def test_batches_depend_on_each_other_with_margins_only(device: torch.device) -> None:
    bounded, free = (
        synthesize(tiny(), SHAPE, replace(INTRAQ, margins=margins), device=device).images
        for margins in (INTRAQ.margins, (0.0, 2.0))
    )
    assert torch.equal(bounded[:4], free[:4])  # no references yet
    assert not torch.equal(bounded[4:8], free[4:8])
    assert not torch.equal(bounded[8:], free[8:])


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_is_the_weighted_sum_of_its_terms(device: torch.device, method: str) -> None:
    records: Records = []
    config = replace(METHODS[method], match_weight=0.5)
    synthesize(tiny(), SHAPE, config, device=device, log=records.append)
    for record in records:
        terms = 0.5 * record["match"] + config.label_weight * record["label"]
        rest = record["loss"] - terms
        if method == "intraq" and record["batch"] > 0:
            assert rest > 1e-3  # the margins, with weight 1
        else:
            assert rest == pytest.approx(0, abs=1e-4 * record["loss"])


def test_soft_targets_reach_the_images(device: torch.device) -> None:
    soft, softer = (
        synthesize(tiny(), SHAPE, replace(INTRAQ, soft_target=target), device=device).images for target in (0.9, 0.3)
    )
    assert (soft - softer).abs().mean() > 1e-3


def test_the_slack_is_measured_once_with_the_seed_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def spy(*args: Any) -> Any:
        calls.append(args)
        return measure_slack(*args)

    monkeypatch.setattr("hast_cuda.synthesis.objective.measure_slack", spy)
    synthesize(tiny(), SHAPE, replace(DSG, iterations=1), seed=7)
    ((_, shape, _, _, seed),) = calls
    assert (shape, seed) == ((4, CHANNELS, SIZE, SIZE), 7)


@pytest.mark.parametrize("method", METHODS)
def test_an_iteration_reads_nothing_back(method: str) -> None:
    refuse_reads(synthesis_iteration(tiny(), (4, CHANNELS, SIZE, SIZE), METHODS[method]))


def test_a_network_whose_classifier_is_not_found_is_refused(tmp_path: Path) -> None:
    network = nn.Sequential(
        nn.Conv2d(CHANNELS, 2 * CLASSES, 3),
        nn.BatchNorm2d(2 * CLASSES),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.GLU(),
    ).eval()
    draw_batch_norms(network)
    store = ImageStore(tmp_path)
    with pytest.raises(ValueError, match=r"set margins to \(0, 2\)"):
        synthesize(network, SHAPE, INTRAQ, store=store)
    assert store.finished() == set()
    synthesize(network, SHAPE, replace(INTRAQ, margins=(0.0, 2.0), iterations=1), store=store)


def test_a_temperature_is_none_of_targets() -> None:
    with pytest.raises(ValueError, match='label_temperature divides the logits of label_loss="hard_sample"'):
        replace(INTRAQ, label_temperature=2.0)
