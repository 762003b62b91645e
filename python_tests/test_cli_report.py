from __future__ import annotations

import functools
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import tiny
from safetensors.torch import load_file
from test_cli import OWN
from test_cli import SMALL as SMALL_IMAGES

from hast_cuda import cli, methods
from hast_cuda.cli import main
from hast_cuda.cli.bits import parse_bits
from hast_cuda.cli.command import command_of, shell
from hast_cuda.cli.network import Network
from hast_cuda.cli.options import Task
from hast_cuda.loops.execution import Execution
from hast_cuda.methods import Recipe, change
from hast_cuda.methods.recipe import dataset_like
from hast_cuda.nn import Override
from hast_cuda.run import Bits, RunDirectory, read_recipe
from hast_cuda.run.directory import plain

pytest.importorskip("matplotlib")

SMALL = (
    *SMALL_IMAGES,
    *("--reconstruction-iterations", "2", "--finetune-iterations", "2", "--set"),
    *("finetune.calibration_updates=1", "finetune.calibration_batch_size=8"),
    *("finetune.evaluations=1", "finetune.crop_scale=[0.5,0.9]", "synthesis.schedule=plateau"),
)
NETWORK = Network("networks:tiny", None, "cifar10", 8, 5)
RECIPE = methods.recipe("hast", "default", "cifar10")
CONFIG = {"method": "hast", "preset": "default", "network": NETWORK, "bits": Bits(), "recipe": RECIPE}


def call(*arguments: object) -> None:
    assert main([str(a) for a in arguments]) == 0


def begun(path: Path, **changed: Any) -> None:
    """A run directory before any work."""
    RunDirectory(path, CONFIG | changed, torch.device("cpu"))


def rebuilt(run: Path) -> str:
    """The command on the page of a run."""
    text = (run / "report.md").read_text()
    line = text.split("## Run it again\n\n```\n")[1].split("\n```")[0]
    assert "\n" not in line
    return line


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of quantize that nobody edits."""
    out = tmp_path_factory.mktemp("runs") / "first one"
    bits = "--weight-bits 3 --act-bits 5 --placement all --full-precision output features.0"
    call("quantize", *OWN, *SMALL, "--out", out, *bits.split(), "--seed", 7, "--no-merge")
    return out


def test_the_command_of_a_page_makes_the_run_again(quantized: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("report", quantized)
    assert f"written: {quantized / 'report.html'}" in capsys.readouterr().out
    program, *arguments = shlex.split(rebuilt(quantized))
    assert program == "hast-cuda"
    call(*arguments)
    again = quantized.with_name("first one-again")
    assert (again / "config.json").read_bytes() == (quantized / "config.json").read_bytes()
    first, second = (load_file(run / "student.safetensors") for run in (quantized, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def parsed(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[Recipe, dict[str, Any]]:
    """What the command line would run: the recipe, and the arguments of the verb."""
    seen: dict[str, Any] = {}
    verb = cli.verb(arguments[0])

    @functools.wraps(verb)
    def catch(*args: Any, **kwargs: Any) -> None:
        assert not args
        seen.update(kwargs)

    monkeypatch.setattr(cli, "verb", lambda name: catch)
    call(*arguments)
    task = seen.pop("task")
    assert isinstance(task, Task)
    widths = seen.pop("widths", None)
    given, spec = task.budget, task.network.spec()
    return change(given.recipe(spec), given.changes(spec)), {**vars(task), **(vars(widths) if widths else {}), **seen}


@pytest.mark.parametrize("method", methods.available())
@pytest.mark.parametrize("preset", methods.PRESETS)
def test_every_method_round_trips(method: str, preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = methods.recipe(method, preset, dataset_like(NETWORK.spec()))
    ends = {} if base.synthesis.generator_rate else {"lowest": (-2.0, -1.5, -1.0), "highest": (2.0, 1.5, 1.0)}
    wanted = change(
        base,
        {
            "synthesis.num_images": 77,
            "synthesis.crop_scale": (0.25, 0.75),
            "synthesis.min_learning_rate": 1e-7,
            "synthesis.balanced_labels": True,
            "synthesis.noise": "gaussian" if base.synthesis.generator_rate else "uniform",
            "finetune.decay_at": (),
            "finetune.batch_size": 3,
            "generator.warmup": 5,
            "generator.decay_at": (0.125, 0.5),
            "posttraining.range_width": 3.0,
            **{f"synthesis.{name}": values for name, values in ends.items()},
        },
    )
    config = {
        "method": method,
        "preset": preset,
        "network": NETWORK,
        "seed": 9,
        "recipe": wanted,
        "bits": Bits(2, 8, "all", {"a*": Override(), "b c": Override()}),
        "data": "test.npz",
        "test_limit": 30,
        "train_data": "train set",
        "execution": Execution(precision="bf16"),
    }
    run = RunDirectory(tmp_path, config, torch.device("cpu"))
    line = shell(command_of(run.path, Path("new one"), "cuda"))
    found, seen = parsed(shlex.split(line)[1:], monkeypatch)
    assert found == wanted == read_recipe(tmp_path)
    assert seen["network"] == NETWORK
    assert (seen["weight_bits"], seen["act_bits"], seen["placement"]) == (2, 8, "all")
    assert seen["full_precision"] == ("a*", "b c")
    assert (seen["data"], seen["test_limit"], seen["train_data"]) == ("test.npz", 30, "train set")
    assert seen["execution"] == Execution(precision="bf16")
    assert (seen["budget"].seed, seen["budget"].device, seen["out"]) == (9, "cuda", Path("new one"))


def test_bits_of_single_layers_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = {"a[[]0]*": Override(8, 3), "b=c": Override(None, 4), "d": Override()}
    begun(tmp_path, bits=Bits(4, 4, overrides=overrides))
    _, seen = parsed(command_of(tmp_path, Path("out")), monkeypatch)
    assert dict(map(parse_bits, seen["layers"].bits)) == overrides
    assert not seen["full_precision"]


def test_images_of_another_run(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for given, expected in (("../images", str(tmp_path / "images")), ("else/where", "else/where")):
        run = tmp_path / given.replace("/", "-")
        begun(run, images=given)
        arguments = command_of(run, Path("out"))
        assert arguments[arguments.index("--images") + 1] == expected


def test_images_alone_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "images"
    call("synthesize", *OWN, *SMALL_IMAGES, "--set", "synthesis.noise=uniform", "--out", made)
    call("report", made)
    arguments = shlex.split(rebuilt(made))[1:]
    assert arguments[0] == "synthesize"
    recipe, _ = parsed(arguments, monkeypatch)
    config = json.loads((made / "config.json").read_text())["synthesis"]
    assert config == plain(recipe.synthesis)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"network": "tiny"}, "no option names it; give --model"),
        ({"network": {"model": "x", "layers": 3}}, "no option names it"),
        ({"method": "mine"}, "method 'mine' with preset 'default'"),
        ({"method": "rtn"}, "its images are 'synthetic', those of rtn 'none'"),
        ({"bits": Bits(overrides={"a": Override(8, 8, 8)})}, "the input of layer a has bits of its own"),
    ],
)
def test_runs_without_a_command(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    begun(tmp_path, **changed)
    with pytest.raises(ValueError, match=re.escape(message)):
        command_of(tmp_path, Path("out"))


def test_page_without_a_command(tmp_path: Path) -> None:
    begun(tmp_path, method=None)
    call("report", tmp_path)
    assert "No command line makes this run: method None" in (tmp_path / "report.html").read_text()


def test_what_the_run_does_not_say(tmp_path: Path) -> None:
    begun(tmp_path, method="real_data", recipe=methods.recipe("real_data", "default", "cifar10"))
    call("report", tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "Add --train-data" in text
    assert f"--out {tmp_path}\n" in text  # unfinished: the same directory
    assert "The same command goes on where the run was stopped." in text


def test_network_that_is_gone(quantized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((quantized / "config.json").read_text())
    config["network"]["model"] = "gone.module:net"
    for name in ("result.json", "student.safetensors"):
        (tmp_path / name).write_bytes((quantized / name).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    call("report", tmp_path)
    assert "could not be loaded, so the page says less: " in capsys.readouterr().out
    assert (
        "could not be loaded (the network in config.json is &#x27;gone.module:net&#x27;"
        in (tmp_path / "report.html").read_text()
    )
    call("report", tmp_path, *OWN[:-2])
    assert "weight error" in (tmp_path / "report.md").read_text()
    weights = tmp_path / "weights.pt"
    torch.save(tiny().state_dict(), weights)
    call("report", quantized, "--model", "networks:tiny", "--weights", weights, "--out", tmp_path / "other.html")
    assert "weight error" in (tmp_path / "other.md").read_text()


def test_classes_of_the_images_that_the_run_names(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    data = ("--data", "digits", "--test-limit", "50")
    call("quantize", "--model", "digits", "--method", "squant", *data, "--out", tmp_path)
    call("report", tmp_path)
    page = tmp_path / "report.md"
    assert "Of 50 test images." in page.read_text().split("## Classes")[1]
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "data": "gone.npz"}))
    call("report", tmp_path)
    assert "## Classes" not in page.read_text()
    assert "The test images are not there any more, so there are no accuracies by class" in page.read_text()


def test_comparison(quantized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    call("quantize", *OWN, "--method", "squant", "--out", other)
    call("report", other, quantized)
    assert f"written: {other / 'report' / 'comparison.html'}" in capsys.readouterr().out
    assert "# 2 runs compared" in (other / "report" / "comparison.md").read_text()
    call("report", other, quantized, "--out", tmp_path / "both.html")
    assert (tmp_path / "both.html").is_file()
    assert not (other / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("report", "absent"), "absent is not a run directory (no config.json)"),
        (("report", "run", "absent"), "absent is not a run directory (no config.json)"),
        (("report", "run", "run"), "a run is given twice: run, run"),
        (("report", "run", "other", "--model", "digits"), "model: only for the page of one run"),
        (("report", "run", "--out", "page"), "expected a name that ends with .html"),
        (("report", "run", "--model", "digitz"), "digitz"),
        (("report", "run", *OWN[:2], "--weights", "absent.pt"), "absent.pt is not a file"),
    ],
)
def test_refusals(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HAST_CUDA_DEBUG", raising=False)
    begun(Path("run"))
    assert main(arguments) == 1
    (error,) = [x for x in capsys.readouterr().err.splitlines() if "hast-cuda: error: " in x]
    assert message in error
    assert not list(tmp_path.rglob("*.html"))
