from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli

from hast_cuda import cli
from hast_cuda.cli import VERBS, main
from hast_cuda.run import read_images
from hast_cuda.run.settings import name_for

pytest.importorskip("sklearn")

DIGITS = ("--model", "digits", "--device", "cpu")
SIZED = ("--image-size", "8", "--num-classes", "5", "--device", "cpu")
OWN = ("--model", "networks:tiny", "--normalization", "cifar10", *SIZED)
NO_NORM = "networks:without_batch_norm"
SMALL = ("--num-images", "8", "--synthesis-iterations", "2", "--batch-size", "8")
TUNING = (
    *("--reconstruction-iterations", "2", "--finetune-iterations", "2", "--set"),
    *("finetune.calibration_updates=1", "finetune.shrink_ranges=false"),
    *("finetune.calibration_batch_size=8", "finetune.evaluations=1"),
)
DATA = ("--data", "digits", "--test-limit", "20")
MAIN = "import sys; from hast_cuda.cli import main; sys.exit(main())"


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but what a test names; the variable is for tests on real images."""
    monkeypatch.delenv("HAST_CUDA_DATA", raising=False)


def test_info(hast: Cli) -> None:
    lines = dict(line.split(None, 1) for line in hast("info").splitlines())
    assert lines["torch"]
    assert {"hast_cuda", "core", "python", "numpy", "safetensors", "torchvision"} <= lines.keys()


def test_module_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "hast_cuda", "info"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert version("torch") in done.stdout


@pytest.mark.parametrize("verb", [*VERBS, None])
def test_help(verb: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"] if verb is None else [verb, "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert "usage: hast-cuda" in text
    if verb is None:
        assert all(name in text for name in VERBS)


def test_quantize_then_evaluate(hast: Cli, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ("quantize", *DIGITS, *SMALL, *TUNING, *DATA, "--out", out, "--seed", "3")
    bits = ("--weight-bits", "3", "--act-bits", "5", "--first-last-bits", "8", "--full-precision", "output")
    printed = hast(*command, *bits)
    result = json.loads((out / "result.json").read_text())
    assert result["bits"]["weights"] == 3
    assert result["bits"]["activations"] == 5
    first = {"weight_bits": 8, "act_bits": 8, "input_bits": 8}
    last = {"weight_bits": None, "act_bits": None}
    assert result["bits"]["overrides"] == {"stem.0": first, "output": last}
    assert (result["preset"], result["seed"], result["data"]) == ("default", 3, "digits")
    assert result["network"]["model"] == "digits"
    assert (result["num_test_images"], result["num_images"]) == (20, 8)
    recipe = json.loads((out / "config.json").read_text())["recipe"]
    assert [recipe[part]["batch_size"] for part in ("synthesis", "finetune")] == [8, 8]
    assert [recipe[part]["iterations"] for part in ("synthesis", "finetune")] == [2, 2]
    lines = printed.splitlines()
    assert (
        lines[0] == "layers   weights 38 x 3 bit + 1 x 8 bit, activations 37 x 5 bit + 1 x 8 bit (--table: all of them)"
    )
    assert lines[1].startswith(f"quality  {result['quantized']:.2f} +- ")
    assert lines[1].endswith(f"top-1 on 20 test images; the original {result['full_precision']:.2f} %")
    assert f"run directory: {out}" in printed
    assert lines[-2:] == [f"next     hast-cuda report {out}", f"         hast-cuda export {out} --to engine"]
    assert len(lines) == 7
    whole = hast(*command, *bits, "--table")
    assert "39 weights" in whole
    assert f"{result['full_precision']:6.2f} %" in whole
    student = hast("evaluate", *DIGITS, *DATA, "--run", out)
    assert student.startswith(f"{result['quantized']:.2f} +- ")
    assert student.endswith(" % top-1 on 20 images\n")
    teacher = json.loads(hast("evaluate", *DIGITS, *DATA, "--json"))
    assert (teacher["top1"], teacher["num_test_images"]) == (result["full_precision"], 20)
    assert json.loads(hast(*command, *bits, "--json"))["quantized"] == result["quantized"]
    assert hast(*command, *bits, "--quiet") == ""
    assert hast(*command, *bits) == printed  # nothing is left to do


def test_synthesize_then_finetune(hast: Cli, tmp_path: Path) -> None:
    made, tuned = tmp_path / "images", tmp_path / "tuned"
    settings = ("--set", "synthesis.crop_scale=[0.5,0.9]", "synthesis.schedule=plateau")
    printed = hast("synthesize", *DIGITS, *SMALL, *settings, "--out", made)
    assert printed == f"8 images in {made / 'images'}\n"
    config = json.loads((made / "config.json").read_text())
    assert config["synthesis"]["crop_scale"] == [0.5, 0.9]
    assert config["synthesis"]["schedule"] == "plateau"
    hast("finetune", *DIGITS, *TUNING, "--images", made / "images", "--out", tuned)
    result = json.loads((tuned / "result.json").read_text())
    assert result["num_images"] == 8
    assert result["full_precision"] is None
    assert not (tuned / "images").exists()
    assert json.loads((tuned / "config.json").read_text())["images"] == "../images/images"
    (moved := tmp_path / "moved").mkdir()
    for folder in (made, tuned):
        folder.rename(moved / folder.name)
    assert len(read_images(moved / "tuned")) == 8


def test_a_run_of_an_earlier_version_names_its_images_from_where_it_was_called(
    hast: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hast("synthesize", *DIGITS, *SMALL, "--out", "images")
    command = ("finetune", *DIGITS, *TUNING, "--images", "images/images", "--out", "tuned")
    printed = hast(*command)
    path = tmp_path / "tuned" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"images": "images/images"}))
    with pytest.raises(ValueError, match=r"tuned/images/images holds batches \[\]"):
        read_images("tuned")
    del config["fingerprints"]
    config["images"] = "images/images"
    path.write_text(json.dumps(config))
    assert len(read_images("tuned")) == 8
    assert hast(*command) == printed
    assert json.loads(path.read_text()) == config


def test_the_table_is_that_of_the_prepared_network(hast: Cli, tmp_path: Path) -> None:
    changed = ("--method", "dfq", "--set", "posttraining.keep_relu6=false")
    printed = hast("quantize", "--model", "foldable:inverted", *OWN[2:], *changed, "--out", tmp_path, "--table")
    assert "ReLU " in printed
    assert "ReLU6" not in printed


@pytest.mark.parametrize(
    ("images", "name"),
    [
        ("a/run/images", "images"),
        ("a/other/images", "../other/images"),
        ("a/images", "../images"),
        ("other/images", None),
        ("a", None),
    ],
)
def test_images_are_named_from_the_run_or_in_full(tmp_path: Path, images: str, name: str | None) -> None:
    assert name_for(tmp_path / images, tmp_path / "a" / "run") == (name or str(tmp_path / images))


def test_demo(hast: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    demo = importlib.import_module("hast_cuda.cli.demo")
    full = demo.demo_recipe()
    small = replace(
        full,
        synthesis=replace(full.synthesis, num_images=8, iterations=2),
        reconstruction=replace(full.reconstruction, iterations=2),
        finetune=replace(full.finetune, iterations=1, calibration_updates=1, evaluations=1),
    )
    monkeypatch.setattr(demo, "demo_recipe", lambda: small)
    printed = hast("demo", "--out", tmp_path / "run", "--device", "cpu")
    assert "3-bit" in printed
    assert "top-1 on 600 test images" in printed
    for name in ("images.png", "curves.png"):
        assert (tmp_path / "run" / name).read_bytes()[:4] == b"\x89PNG"
    assert f"report: {tmp_path / 'run' / 'report.html'}" in printed
    page = (tmp_path / "run" / "report.html").read_text()
    assert "digits, hast, W3A3" in page
    assert "--data digits" in page


QUANTIZE = ("quantize", "--out", "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*QUANTIZE, "--model", "absent.module:net", *OWN[2:]), "cannot be imported"),
        ((*QUANTIZE, *DIGITS, "--weights", "absent.pth"), "weights=absent.pth is not a file"),
        ((*QUANTIZE, *DIGITS, "--data", "absent.npz"), "data=absent.npz does not exist"),
        ((*QUANTIZE, *DIGITS, "--weight-bits", "1"), "weight_bits"),
        ((*QUANTIZE, *DIGITS, "--full-precision", "conv9"), "['conv9']"),
        ((*QUANTIZE, *DIGITS, "--images", "absent"), "absent holds batches []"),
        ((*QUANTIZE, *DIGITS, *DATA[:2], "--test-limit", "0"), "limit=0 must be at least 1"),
        ((*QUANTIZE, *DIGITS[:2], "--device", "meta"), "device is 'meta'; hast_cuda runs on cpu"),
        ((*QUANTIZE, *DIGITS[:2], "--device", "cuda:99"), "device is 'cuda:99' but torch sees"),
        ((*QUANTIZE, *DIGITS, "--set", "nonsense"), "--set nonsense: expected NAME=VALUE"),
        ((*QUANTIZE, *DIGITS, "--set", "finetune.rate=1"), "finetune.learning_rate"),
        ((*QUANTIZE, *DIGITS, "--set", "finetune.iterations=2.5"), "expected a value like"),
        ((*QUANTIZE, *DIGITS, "--set", "finetune.momentum=high"), "expected a value like 0.9"),
        ((*QUANTIZE, *DIGITS, "--set", "synthesis.crop_scale=[1]"), "crop_scale is (1.0,)"),
        ((*QUANTIZE, *DIGITS, "--set", "finetune.decay_at=[null]"), "expected a value like"),
        ((*QUANTIZE[:2], "file", *DIGITS, "--budget", "full"), "run directory file is a file"),
        (("synthesize", "--model", NO_NORM, *OWN[2:], "--out", "out"), "no BatchNorm"),
        (("evaluate", *DIGITS, *DATA, "--run", "absent"), "absent is not a run directory"),
        (("evaluate", "--model", "digits", *DATA, "--device", "tpu"), "device is 'tpu'"),
        (("finetune", *DIGITS, "--images", "absent", "--out", "out"), "absent holds batches []"),
    ],
)
def test_refusals(
    refused: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    assert message in refused(*arguments)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("arguments", [("quantize", *DIGITS), (*QUANTIZE, *DIGITS, "--preset", "best"), ("destroy",)])
def test_bad_command_lines(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert capsys.readouterr().err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAST_CUDA_DEBUG", "1")
    with pytest.raises(ValueError, match="device is 'tpu'"):
        main([*QUANTIZE, "--model", "digits", "--device", "tpu"])


def test_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "verb", lambda name: interrupt)
    assert main(["info"]) == 130
    assert "stopped" in capsys.readouterr().err


def test_reproduce_a_row_and_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["reproduce", "table1", "--dataset", "cifar10", "--bits", "4", "--budget", "small"]
    flags += ["--model", "digits", "--data", "digits", "--test-limit", "40", "--device", "cpu"]
    flags += ["--rows", "squant", "real_data", "--out", str(tmp_path)]
    for _ in range(2):
        assert main(flags) == 0
        shown = capsys.readouterr().out
        assert "| squant |" in shown
        assert "no training images given (--train-data)" in shown
        assert "| 92.24 |" in shown  # the paper's figure for these bits
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["facts"]["test images"] == "40 of cifar10"
    assert table["rows"]["real_data"].startswith("no training images")
    assert {"table.md", "table.csv", "table.html"} <= {p.name for p in tmp_path.iterdir()}


def test_reproduce_on_a_network_of_your_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["reproduce", "table1", "--dataset", "cifar10", "--bits", "4", "--budget", "small"]
    flags += ["--model", "networks:ten_classes", "--normalization", "cifar10", "--device", "cpu"]
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "test.npz", images=images, labels=np.arange(20) % 10)
    flags += ["--data", str(tmp_path / "test.npz"), "--rows", "squant", "--placement", "all", "--out"]
    assert main([*flags, str(tmp_path / "out")]) == 0
    assert "| squant |" in capsys.readouterr().out
    facts = json.loads((tmp_path / "out" / "table.json").read_text())["facts"]
    assert facts["network"] == "networks:ten_classes"
    assert facts["bits"].endswith('(placement="all")')
    config = json.loads((tmp_path / "out/runs/squant-w4-seed0/config.json").read_text())
    assert config["bits"]["placement"] == "all"


def test_reproduce_unknown_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["reproduce", "table7", "--dataset", "cifar10", "--bits", "4", "--rows", "both"]
    flags += ["--model", "digits", "--data", "digits", "--out", str(tmp_path)]
    assert main(flags) == 1
    assert "table7 has no rows ['both']; it has: direct, relaxed" in capsys.readouterr().err


def test_training_images_belong_to_one_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["quantize", "--model", "digits", "--train-data", "digits", "--out", str(tmp_path)]
    assert main(flags) == 1
    assert "train_data is for the method real_data" in capsys.readouterr().err


def test_analyses_of_a_run(hast: Cli, tmp_path: Path) -> None:
    out = tmp_path / "run"
    hast("quantize", *DIGITS, *DATA, *SMALL, *TUNING, "--out", out)
    common = [*DIGITS, "--run", out]
    hast("analyze", "difficulty", *common, "--data", "digits")
    hast("analyze", "statistics", *common, "--data", "digits")
    hast("analyze", "gradients", *common, "--batch-size", 4, "--batches", 2)
    hast("analyze", "hessian", *common, "--batch-size", 2, "--steps", 2)
    hast("analyze", "curves", "--run", out)
    found = {p.name for p in (out / "analysis").iterdir()}
    names = ("difficulty", "errors", "statistics", "gradients", "hessian", "curves")
    assert found == {f"{name}.{kind}" for name in names for kind in ("json", "png")}
    bins = json.loads((out / "analysis" / "difficulty.json").read_text())["difficulty"]
    assert sum(bins["synthetic"]["counts"]) == 8
    assert sum(bins["test"]["counts"]) == 600
    statistics = json.loads((out / "analysis" / "statistics.json").read_text())["statistics"]
    assert statistics["top1"]["stored statistics"] == pytest.approx(98.5)
    assert statistics["top1"]["those of the images"] < 98
    assert all(gap["mean"] > 0 and gap["variance"] > 0 for gap in statistics["gaps"].values())


def test_images_that_the_network_does_not_take_are_refused_first(refused: Cli, tmp_path: Path) -> None:
    grey = ("--model", "networks:tiny", "--normalization", "0.5/0.5", *SIZED)
    for verb in ("quantize", "synthesize"):
        line = refused(verb, *grey, "--out", tmp_path / verb)
        assert "the network does not take images of shape (1, 8, 8)" in line
        assert not (tmp_path / verb).exists()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
@pytest.mark.parametrize("verb", [(), ("quantize",)])
def test_help_on_any_terminal(verb: tuple[str, ...], encoding: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAIN, *verb, "--help"]
    where: dict[str, Any] = {"env": {**os.environ, "PYTHONIOENCODING": encoding}, "cwd": tmp_path}
    done = subprocess.run(command, **where, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"usage: hast-cuda" in done.stdout


@pytest.mark.parametrize("arguments", [("info",), ("--help",)])
def test_a_reader_that_has_gone_ends_it_in_silence(arguments: tuple[str, ...], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", MAIN, *arguments]
    done = subprocess.run(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_another_pipe_that_breaks_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError(32, "of another process")

    monkeypatch.setattr(cli, "_run", broken)
    assert main(["info"]) == 1
    assert "of another process" in capfd.readouterr().err
