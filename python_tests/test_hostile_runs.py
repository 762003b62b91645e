"""Run directories of strangers: refused with a ValueError, shown harmlessly, nothing executed."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import tiny
from test_hostile_files import ROOM, _little_memory
from test_run import run

from hast_cuda.cli import main
from hast_cuda.cli.network import chosen_network, network_of
from hast_cuda.report import write_report
from hast_cuda.report.facts import read_facts
from hast_cuda.run import RunDirectory, load_student, read_config, read_finetune_config, read_images, read_recipe

__all__ = ["ROOM", "_little_memory"]  # the fixture holds here, too
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    run(out)
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


BROKEN = [
    "",
    "{",
    "[]",
    "7",
    DEEP,
    '{"a": NaN}',
    '{"a": -Infinity}',
    '{"a": 1e999}',
    f'{{"a": 1{"0" * 5000}}}',
    f'{{"a": {2**64}}}',
    "\udcff",
]


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_files_that_hold_no_sane_object(copy: Path, number: int) -> None:
    readers = {
        "config.json": [read_config, read_recipe, lambda p: load_student(tiny(), p)],
        "environment.json": [read_facts],
        "progress.json": [read_facts, lambda p: RunDirectory.open(p).recall()],
        "result.json": [read_facts, lambda p: RunDirectory.open(p).result()],
    }
    for name, functions in readers.items():
        kept = (copy / name).read_bytes()
        (copy / name).write_bytes(BROKEN[number].encode("utf-8", "surrogateescape"))
        for read in functions:
            with pytest.raises(ValueError, match=rf"{name} (is not valid JSON|holds a)") as caught:
                read(copy)
            assert len(str(caught.value)) < 1000
        (copy / name).write_bytes(kept)


def test_a_file_of_gigabytes(copy: Path) -> None:
    for name in ("config.json", "result.json", "metrics.jsonl"):
        kept = (copy / name).read_bytes()
        with (copy / name).open("r+b") as file:
            file.truncate(2**36)  # a hole: no disk is used
        with pytest.raises(ValueError, match=rf"{name} has 68719476736 bytes"):
            read_facts(copy)
        (copy / name).write_bytes(kept)


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "7",
        '"x"',
        '{"phase": "test", "iteration": "x"}',
        '{"phase": 3, "iteration": 1}',
        '{"phase": "test", "iteration": -1}',
        '{"phase": "finetune", "iteration": 1e300}',
        '{"phase": "synthesis", "iteration": 1, "batch": true}',
        '{"phase": "test", "top1": 1e999}',
        '{"phase": "test", "iteration": 1, "top1": [1]}',
        f'{{"phase": "test", "top1": {DEEP}}}',
        f'{{"phase": "test", "top1": 1{"0" * 400}}}',
    ],
)
def test_lines_that_no_run_has_logged(copy: Path, line: str) -> None:
    with (copy / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"metrics.jsonl is not the log of a run \(") as caught:
        read_facts(copy)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("full_precision", "99"),
        ("quantized", -1),
        ("rounded", 101),
        ("num_test_images", 1.5),
        ("num_images", True),
        ("seconds", [1]),
        ("seconds", {"a": "x"}),
        ("seconds", {"a": -1}),
        ("finetune_iterations", None),
        ("quantized_best_epoch", {}),
        ("reconstructed", "high"),
        ("quantized_last", 101),
        ("kept_iteration", -1),
        ("num_held_out", 0.5),
        ("agreement", 3),
        ("agreement", {"divergence": 0.1}),
        ("agreement", {"divergence": -0.1, "same_class": 50}),
        ("agreement", {"divergence": 0.1, "same_class": 101}),
    ],
)
def test_results_of_other_types(copy: Path, name: str, value: Any) -> None:
    found = json.loads((copy / "result.json").read_text())
    (copy / "result.json").write_text(json.dumps(found | {name: value}))
    with pytest.raises(ValueError, match=rf"result.json: {name} is .*; expected .*; delete it"):
        read_facts(copy)


def changed(path: Path, dotted: str, value: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    *parts, last = dotted.split(".")
    place = config
    for part in parts:
        place = place[part]
    place[last] = value
    (path / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("dotted", "value"),
    [
        ("recipe.synthesis.num_images", "12"),
        ("recipe.synthesis.num_images", 2**60),
        ("recipe.synthesis.learning_rate", "fast"),
        ("recipe.synthesis.margins", ["a", "b"]),
        ("recipe.synthesis.margins", 3),
        ("recipe.synthesis.balanced_labels", 1),
        ("recipe.finetune.schedule", ["step"]),
        ("recipe.finetune.iterations", True),
        ("recipe.finetune.decay_at", [[1]]),
        ("recipe.finetune.surprise", 1),
        ("recipe.generator", "x"),
        ("recipe.posttraining.fold", "yes"),
        ("recipe.images", 3),
        ("recipe", []),
        ("images", 3),
        ("images", ["a"]),
    ],
)
def test_settings_of_other_types(copy: Path, dotted: str, value: Any) -> None:
    changed(copy, dotted, value)
    with pytest.raises(ValueError, match=r"config.json|settings that this version|images is"):
        read_recipe(copy)
    with pytest.raises(ValueError, match=r"config.json|settings that this version|images is"):
        read_facts(copy)


@pytest.mark.parametrize(
    "bits",
    [
        {"weights": "3"},
        {"weights": 99},
        {"activations": [3]},
        None,
        {"placement": "../x"},
        {"overrides": {"output": {"weight_bits": "3"}}},
        {"overrides": {"output": 3}},
        {"overrides": [1]},
    ],
)
def test_bits_of_other_types(copy: Path, bits: dict[str, Any] | None) -> None:
    changed(copy, "bits", bits and read_config(copy)["bits"] | bits)
    with pytest.raises(ValueError):  # noqa: PT011 - each names its own value
        load_student(tiny(), copy)


def test_images_that_lead_elsewhere_are_only_read_as_shards(copy: Path) -> None:
    for given in ("/etc", "../../../../etc", "\0", "absent"):
        changed(copy, "images", given)
        with pytest.raises(ValueError, match=r"holds batches \[\]|null (byte|character)"):
            read_images(copy)
    assert read_finetune_config(copy).iterations == 6


SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>](javascript:x) `|` ../../etc"


def test_names_are_shown_and_not_obeyed(copy: Path) -> None:
    for name in ("method", "preset", "data", "row"):
        changed(copy, name, SCRIPT)
    (copy / "environment.json").write_text(json.dumps({"device_name": SCRIPT, "device": SCRIPT}))
    record = {"phase": "../../" + SCRIPT, "iteration": 1, SCRIPT: 2.0, "note": SCRIPT}
    with (copy / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    (copy / "exports").mkdir()
    (copy / "exports" / "x.json").write_text(json.dumps({"kind": SCRIPT, "file": "../" + SCRIPT}))
    before = {p for p in copy.parent.rglob("*") if copy not in p.parents}
    page = write_report(copy).read_text()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert" in page
    assert "<script>alert" not in (copy / "report.md").read_text()
    assert {p for p in copy.parent.rglob("*") if copy not in p.parents} == before


def test_code_that_a_file_names_is_not_run(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evil.py").write_text("open('ran', 'w').close()\ndef network(): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    network = {"model": "evil:network", "normalization": "cifar10", "image_size": 8, "num_classes": 5, "weights": None}
    changed(copy, "network", network)
    with pytest.raises(ValueError, match="code that is not run because a file says so"):
        chosen_network(read_config(copy), {})  # what report and export ask
    assert main(["export", str(copy), "--to", "packed"]) == 1
    assert "give --model evil:network" in capsys.readouterr().err
    assert "evil" not in sys.modules
    assert not (tmp_path / "ran").exists()
    changed(copy, "network", {**network, "num_classes": None})  # which only the code could tell
    assert main(["report", str(copy)]) == 0
    assert main(["export", str(copy), "--to", "packed"]) == 1
    assert "evil" not in sys.modules
    assert not (tmp_path / "ran").exists()
    for other in (
        ["digits"],
        3,
        {"model": ["x"]},
        {"model": "digits", "weights": 3},
        {"model": "digits", "num_classes": 10**9},
        {"model": "digits", "model_args": "width=3"},
        {"model": "digits", "model_args": [3]},
        {"model": None},
    ):
        with pytest.raises(ValueError, match=r"the network in config.json is"):
            network_of({"network": other})


def test_a_continued_run_of_a_stranger(copy: Path) -> None:
    """The same command on their directory: what they logged is checked like the rest."""
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": []}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl is not the log"):
        RunDirectory.open(copy).read_log()
    (copy / "result.json").write_text('{"quantized": "100"}')
    with pytest.raises(ValueError, match="quantized is '100'"):
        run(copy)
    assert torch.is_tensor(read_images(copy).images)
