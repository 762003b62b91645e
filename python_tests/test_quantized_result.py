"""What comes out of a run: saved, loaded, exported, shown."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from networks import pictures, tiny
from test_run import RECIPE, SHAPE, run
from torch import nn

import hast_cuda as hc
from hast_cuda.exports.packed_weight import packed_bytes
from hast_cuda.finetune.agreement import verdict
from hast_cuda.run import trial
from hast_cuda.run.summary import lines_of, quality, size, standard_error

NOISIEST = "lowest signal-to-noise 3.0 dB at a"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> hc.run.QuantizationResult:
    return run(tmp_path_factory.mktemp("runs") / "r")


def test_a_network_with_a_name_is_one_file_and_needs_nothing_else(tmp_path: Path) -> None:
    made = hc.zero_shot_quantize(hc.load_teacher("digits"), (1, 8, 8), weights=3, activations=5, method="dfq")
    assert made.result["bits"]["weights"] == 3
    assert made.result["bits"]["activations"] == 5
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    file = made.save(tmp_path / "student.safetensors")
    loaded = hc.load(file)  # with its BatchNorm layers folded, as dfq does it
    assert torch.equal(loaded(x), made.student(x))
    assert torch.equal(hc.load(hc.save(loaded, tmp_path / "again.safetensors"))(x), made.student(x))


def test_a_network_of_ones_own_needs_its_class(done: hc.run.QuantizationResult, tmp_path: Path) -> None:
    file = done.save(tmp_path / "student.safetensors")
    assert torch.equal(hc.load(file, tiny())(pictures(3)), done.student(pictures(3)))
    with pytest.raises(ValueError, match=r"hast_cuda\.load\('student.safetensors', TinyNet\(\.\.\.\)\)"):
        hc.load(file)


def test_a_file_for_another_program(done: hc.run.QuantizationResult, tmp_path: Path) -> None:
    found = done.export(tmp_path / "exports", "packed")
    assert found.checks is not None
    assert found.checks.source == "synthetic"
    assert found.checks.top1_agreement == 100
    assert packed_bytes(done.student) == done.result["bytes"] < done.result["float_bytes"]
    assert packed_bytes(done.student) == pytest.approx(found.bytes, abs=8000)  # its header


def test_it_says_how_good_and_how_small_it_is(done: hc.run.QuantizationResult) -> None:
    lines = str(done).splitlines()
    assert len(lines) == 6
    error = standard_error(done.result["quantized"], 40)
    assert lines[0].startswith(f"quality  {done.result['quantized']:.2f} +- {error:.2f} % top-1 on 40 test images; the")
    assert lines[3] == f"where    run directory: {done.run}"
    assert repr(done) == str(done)
    shown = done._repr_html_()
    assert shown.count("<tr>") == 6
    assert (
        "<script"
        not in hc.run.QuantizationResult(
            done.student, None, done.result, done.shape, done.teacher, done.prepared, Path("<script>")
        )._repr_html_()
    )


def test_a_page(done: hc.run.QuantizationResult, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = done.report(tmp_path / "page.html")
    assert page == tmp_path / "page.html"
    assert "Layers" in page.read_text()
    with pytest.raises(ValueError, match="give out="):
        run(None).report()


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (
            {"quantized": 91.2, "full_precision": 92.3, "num_test_images": 3000},
            "91.20 +- 0.52 % top-1 on 3000 test images; the original 92.30 %",
        ),
        (
            {"agreement": {"same_class": 70.0, "divergence": 0.9}, "num_held_out": 64, "signal_to_noise": {"a": 3.0}},
            f"70.0 % same class as the original on 64 images held out, KL 0.900 nats, {NOISIEST}: {verdict(70.0)}",
        ),
        ({}, "not measured: this method keeps no images to compare on, and no test images were given"),
    ],
)
def test_quality_in_words(result: dict[str, object], words: str) -> None:
    assert quality(result) == words


def test_lines_of_a_run_of_an_earlier_version() -> None:
    assert size({}) == "not recorded"
    assert [name for name, _ in lines_of({}, None)] == ["quality", "size", "time", "where"]


def test_files_have_the_users_umask(done: hc.run.QuantizationResult, tmp_path: Path) -> None:
    assert done.run is not None
    old = os.umask(0o027)
    try:
        done.save(tmp_path / "student.safetensors")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "student.safetensors").stat().st_mode) == 0o640
    made = [path for path in done.run.rglob("*") if path.suffix in (".json", ".jsonl", ".safetensors")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o666 & ~old}
    assert len(made) > 6


def test_a_wrong_network_is_refused_before_anything_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(*_: object, **__: object) -> None:
        raise AssertionError("seconds are spent")

    monkeypatch.setattr(trial, "_Trial", timed)
    wrong = nn.Sequential(tiny(), nn.Softmax(1))
    for how in (hc.zero_shot_quantize, hc.run.estimate):
        with pytest.raises(ValueError, match="gives probabilities"):
            how(wrong, SHAPE, budget="10m")
    with pytest.raises(AssertionError, match="seconds are spent"):
        hc.run.estimate(tiny(), SHAPE, budget="10m")


def test_widths_are_given_once() -> None:
    with pytest.raises(ValueError, match="give the one or the others"):
        hc.zero_shot_quantize(tiny(), SHAPE, hc.Bits(3, 3), weights=5, recipe=RECIPE)
    with pytest.raises(TypeError, match="weights must be an int"):
        hc.run.estimate(tiny(), SHAPE, weights="four")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unexpected keyword argument 'bit'"):
        hc.run.estimate(tiny(), SHAPE, bit=4)  # type: ignore[call-arg]
