"""Commands about a run: it remembers its network, and takes no other weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli
from networks import draw_batch_norms
from test_cli import DATA, DIGITS, OWN, SMALL, TUNING

from hast_cuda.cli import FIRST_STEPS, TOGETHER, VERBS, main, verb
from hast_cuda.cli.command import command_of
from hast_cuda.files.tensors import file_digest
from hast_cuda.files.versions import VERSION
from hast_cuda.teachers import build_network

NAME = "resnet20_cifar10"
CPU = ("--device", "cpu")


def write_weights(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    network = build_network(NAME)
    draw_batch_norms(network)
    torch.save({"model": network.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run made of a weights file, with its test images beside it; nobody edits it."""
    folder = tmp_path_factory.mktemp("runs")
    write_weights(folder / "w.pth", 3)
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "test.npz", images=images, labels=np.arange(6))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        made = ["quantize", "--model", NAME, "--weights", "w.pth", "--method", "rtn", *CPU, "--out", "run"]
        assert main(made) == 0
    return folder / "run"


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The run and its files, to edit."""
    shutil.copytree(run.parent, tmp_path / "copy")
    config = tmp_path / "copy" / "run" / "config.json"
    config.write_text(config.read_text().replace(str(run.parent), str(tmp_path / "copy")))
    return tmp_path / "copy" / "run"


def test_every_command_works_on_the_run_alone(hast: Cli, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "run"
    hast("quantize", *DIGITS, *DATA, *SMALL, *TUNING, "--out", out)
    accuracy = json.loads((out / "result.json").read_text())["quantized"]
    assert hast("evaluate", "--run", out, *DATA, *CPU).startswith(f"{accuracy:.2f} +- ")
    assert "written" in hast("analyze", "difficulty", "--run", out, *CPU)  # the others find it in the same way
    assert "packed" in hast("export", out, "--to", "packed", "--no-latency")
    assert "weight error" in (out / "report.md").read_text()
    assert "8 images" in hast("synthesize", "--run", out, *SMALL, *CPU, "--out", tmp_path / "more")
    hast("finetune", "--run", out, *TUNING, *CPU, "--weight-bits", 3, "--out", tmp_path / "tuned")
    tuned = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert (tuned["network"], tuned["bits"]["weights"], tuned["images"]) == (
        json.loads((out / "config.json").read_text())["network"],
        3,
        "../run/images",
    )
    hast("finetune", "--images", out / "images", *TUNING, *CPU, "--out", tmp_path / "other")
    assert "8 images" in hast("synthesize", *SMALL, *CPU, "--out", tmp_path / "more")  # goes on there


def test_what_a_run_remembers(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    assert config["network"] == {
        "model": NAME,
        "weights": str(run.parent / "w.pth"),
        "weights_sha256": file_digest(run.parent / "w.pth"),
        "normalization": None,
        "image_size": None,
        "num_classes": None,
    }
    arguments = command_of(run, Path("again"))
    assert arguments[:5] == ["quantize", "--model", NAME, "--weights", str(run.parent / "w.pth")]


def test_weights_are_found_again(hast: Cli, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "on 6 images" in hast("evaluate", "--run", run, "--data", run.parent / "test.npz", *CPU)


def test_weights_that_moved(hast: Cli, refused: Cli, copy: Path) -> None:
    weights = copy.parent / "w.pth"
    weights.rename(copy.parent / "moved.pth")
    command = ("evaluate", "--run", copy, "--data", copy.parent / "test.npz", *CPU)
    assert f"was made from {weights}, which is not there: give --weights w.pth" in refused(*command)
    assert "on 6 images" in hast(*command, "--weights", copy.parent / "moved.pth")
    made = ("quantize", "--model", NAME, "--method", "rtn", *CPU, "--out", copy, "--weights")
    hast(*made, copy.parent / "moved.pth")  # the same run, which finds its weights again
    assert "on 6 images" in hast(*command)


def test_other_weights_are_refused(refused: Cli, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = write_weights(copy.parent / "others.pth", 4)
    data = ("--data", copy.parent / "test.npz", *CPU)
    for command in (
        ("evaluate", "--run", copy, *data),
        ("export", copy, "--to", "packed"),
        ("report", copy),
        ("synthesize", "--run", copy, *SMALL, *CPU, "--out", copy.parent / "new"),
    ):
        line = refused(*command, "--weights", others)
        assert "was made from other weights than these" in line
        assert f"--weights {copy.parent / 'w.pth'}" in line
    assert not (copy.parent / "new").exists()
    made = ("quantize", "--model", NAME, "--method", "rtn", *CPU, "--out", str(copy), "--weights", str(others))
    assert main(made) == 1
    assert "  the network's weights: there" in capsys.readouterr().err
    others.rename(copy.parent / "w.pth")
    assert "w.pth, which is another file now: give --weights" in refused("evaluate", "--run", copy, *data)


def test_a_run_without_a_network_to_be_found(refused: Cli, tmp_path: Path) -> None:
    line = refused("synthesize", *SMALL, *CPU, "--out", tmp_path / "run")
    assert "no network is named: give --model NAME" in line
    assert "is not a run directory" in refused("synthesize", "--run", tmp_path, *SMALL, "--out", tmp_path / "run")
    assert "there are no images: give --images DIR, or --run" in refused("finetune", *DIGITS, "--out", tmp_path / "r")
    assert not (tmp_path / "run").exists()


def test_classes_and_arguments_of_an_own_network(hast: Cli, refused: Cli, tmp_path: Path) -> None:
    out = tmp_path / "run"
    network = ("--model", "networks:of_width", "--model-args", "width=4", "classes=7")
    hast("quantize", *network, *OWN[2:6], "--method", "rtn", "--placement", "all", *CPU, "--out", out)
    named = json.loads((out / "config.json").read_text())["network"]
    assert (named["model_args"], named["num_classes"]) == (["width=4", "classes=7"], 7)
    assert "--model-args width=4 classes=7 --method" in " ".join(command_of(out, tmp_path / "again"))
    export = ("export", out, "--to", "packed", "--no-latency", "--no-report")
    assert "code that is not run because a file says so" in refused(*export)
    assert "packed" in hast(*export, "--model", "networks:of_width")
    wrong = (*network[:4], *OWN[2:6], "--num-classes", "3", *CPU, "--out", tmp_path / "w")
    assert "num_classes=3, but the network gives 5" in refused("quantize", *wrong, "--method", "rtn")


def test_models(hast: Cli, refused: Cli) -> None:
    lines = hast("models", "resnet20_c").splitlines()
    assert [NAME, "BatchNorm"] in [line.split() for line in lines]
    assert "torchvision:vgg11     no BatchNorm: for rtn alone" in hast("models", "torchvision:vgg11*")
    assert len(hast("models").splitlines()) > 500
    assert "no network has a name like 'nothing'" in refused("models", "nothing")


def test_first_steps(hast: Cli) -> None:
    assert hast().splitlines() == FIRST_STEPS.splitlines()
    assert len(FIRST_STEPS.splitlines()) == 6
    assert hast("--version") == f"hast-cuda {VERSION}\n"


@pytest.mark.parametrize("name", [name for name in VERBS if name != "analyze"])  # that is several
def test_help_has_the_first_line_of_every_verb(name: str) -> None:
    assert (verb(name).__doc__ or "").splitlines()[0] == VERBS[name][1]
    assert set(TOGETHER) < VERBS.keys()


def test_help_imports_no_torch() -> None:
    code = """
import contextlib, sys
from hast_cuda.cli import main
for arguments in ([], ["--version"], ["--help"], ["-h"], ["destroy"]):
    with contextlib.suppress(SystemExit):
        main(arguments)
sys.exit(any(name in sys.modules for name in ("torch", "tyro")))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
