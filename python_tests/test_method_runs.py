"""Every method from one call to a student on disk, and the table that compares them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from edge_networks import TINY, few_steps, labelled, small_recipe
from networks import CHANNELS, CLASSES, SIZE, pictures, tiny
from test_run import real_images
from torch import Tensor

from hast_cuda import FakeQuantActivation, methods
from hast_cuda.data import Images, InputSpec
from hast_cuda.methods import Recipe, change
from hast_cuda.reproduce import Outcome, Row, Setting, run_row
from hast_cuda.reproduce import runner as reproduce_runner
from hast_cuda.reproduce.written import facts_of
from hast_cuda.run import Bits, load_student, read_finetune_config, read_images, zero_shot_quantize
from hast_cuda.synthesis import ImageStore

SHAPE = InputSpec(CHANNELS, SIZE, SIZE, CLASSES)


def training() -> Images:
    return labelled(10, CLASSES)


def outputs(network: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = network.eval()(pictures(4))
    return found


# As published, those that differ from ours in more than numbers; the others of these share their code.
RELEASED = ("hast", "intraq", "gdfq", "dsg", "genie", "dfq")


@pytest.mark.parametrize(
    ("name", "preset"),
    [*((name, "default") for name in methods.available()), *((name, "released") for name in RELEASED)],
)
def test_every_method_runs_and_its_student_loads(name: str, preset: str, tmp_path: Path) -> None:
    recipe = small_recipe(name, preset)
    images = training() if recipe.images == "real" else None
    arguments: dict[str, Any] = {"recipe": recipe, "test": real_images(), "out": tmp_path, "images": images, "seed": 1}
    done = zero_shot_quantize(tiny(), SHAPE, Bits(3, 3), **arguments)
    assert (done.images is None) == (recipe.images in ("generated", "none"))
    assert 0 <= done.result["quantized"] <= 100
    loaded = load_student(tiny(), tmp_path)
    assert torch.equal(outputs(loaded), outputs(done.student))
    again = zero_shot_quantize(tiny(), SHAPE, Bits(3, 3), **arguments)  # finds it done
    assert again.result == done.result
    assert torch.equal(outputs(again.student), outputs(done.student))


def test_gradient_of_clipped_activations(tmp_path: Path) -> None:
    """It changes the training and nothing before it; the loaded student has it too."""
    students, starts = {}, set()
    for ste in ("identity", "clipped"):
        # a rate at which the few steps move weights across the grid, so that outputs differ
        changes = {"finetune.ste": ste, "finetune.learning_rate": 1e-4, "finetune.keep": "last"}
        recipe = change(small_recipe("hast"), changes)
        done = zero_shot_quantize(tiny(), SHAPE, Bits(2, 2), recipe=recipe, test=real_images(), out=tmp_path / ste)
        students[ste] = done.student
        starts.add(done.result["start_of_finetuning"])
        for network in (done.student, load_student(tiny(), tmp_path / ste)):
            found = [m.ste for m in network.modules() if isinstance(m, FakeQuantActivation)]
            assert set(found) == {ste}
    assert len(starts) == 1
    assert not torch.equal(outputs(students["identity"]), outputs(students["clipped"]))


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("real_data", False, "trains on real images and none were given"),
        ("squant", True, 'images were given, but those of this recipe are "none"'),
        ("gdfq", True, 'images were given, but those of this recipe are "generated"'),
    ],
)
def test_images_that_do_not_belong(name: str, given: bool, message: str, tmp_path: Path) -> None:
    images = training() if given else None
    with pytest.raises(ValueError, match=message):
        zero_shot_quantize(tiny(), SHAPE, recipe=small_recipe(name), images=images, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


ROWS = (Row("1:1", "hast"), Row("1:0", "hast", {"finetune.perturbed_weight": 0.0}))


def setting(out: Path, **changed: Any) -> Setting:
    """A table's setting on the tiny network."""
    asked = {"dataset": "cifar10", "bits": 3, "preset": "default", "budget": "full", "describe": {"network": "tiny"}}
    network = {"teacher": tiny(), "model": "tiny", "shape": SHAPE}
    return Setting(**{**asked, **network, "out": out, "test": real_images(), "train": None, **changed})


@pytest.fixture
def _tiny_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    def limited(recipe: Recipe, *_: str) -> Recipe:
        return change(recipe, TINY | few_steps(recipe))

    monkeypatch.setattr(reproduce_runner, "apply_budget", limited)


@pytest.mark.usefixtures("_tiny_budget")
def test_rows_share_images_and_resume(tmp_path: Path) -> None:
    said: list[str] = []
    outcomes = [run_row(row, setting(tmp_path), [0, 1], said.append) for row in ROWS]
    assert len(list((tmp_path / "images").iterdir())) == 2  # one set per seed
    runs = sorted(p.name for p in (tmp_path / "runs").iterdir())
    assert len(runs) == 4
    assert all(name[:3] == "1_0" or name[:3] == "1_1" for name in runs)
    again = run_row(ROWS[0], setting(tmp_path), [0, 1], said.append)
    assert again.results == outcomes[0].results
    assert outcomes[0].results != outcomes[1].results


@pytest.mark.usefixtures("_tiny_budget")
def test_activations_may_have_bits_of_their_own(tmp_path: Path) -> None:
    mixed = setting(tmp_path, activation_bits=8)
    (result,) = run_row(Row("rtn", "rtn"), mixed, [0], lambda _: None).results
    assert (result["bits"]["weights"], result["bits"]["activations"]) == (3, 8)
    assert (tmp_path / "runs" / "rtn-w3a8-seed0").is_dir()
    assert facts_of(mixed, 1)["bits"].startswith("3 for weights, 8 for activations")


@pytest.mark.usefixtures("_tiny_budget")
def test_images_of_a_row_are_found_from_its_run(tmp_path: Path) -> None:
    run_row(Row("hast", "hast"), setting(tmp_path), [0], lambda _: None)
    (made,) = (tmp_path / "images").iterdir()
    found = read_images(tmp_path / "runs" / "hast-w3-seed0")
    assert torch.equal(found.images, ImageStore(made).load_all().images)
    assert read_finetune_config(tmp_path / "runs" / "hast-w3-seed0").iterations == 3


def test_a_finished_run_needs_its_images_no_more(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"recipe": small_recipe("hast"), "test": real_images(), "out": tmp_path}
    done = zero_shot_quantize(tiny(), SHAPE, Bits(3, 3), **arguments)
    shutil.rmtree(tmp_path / "images")
    again = zero_shot_quantize(tiny(), SHAPE, Bits(3, 3), **arguments)
    assert (again.result, again.images) == (done.result, None)
    assert not (tmp_path / "images").exists()


@pytest.mark.usefixtures("_tiny_budget")
def test_a_row_without_its_images_says_so(tmp_path: Path) -> None:
    absent = run_row(Row("real_data", "real_data"), setting(tmp_path), [0], lambda _: None)
    assert absent == Outcome(Row("real_data", "real_data"), [], absent.absent)
    assert absent.absent == "no training images given (--train-data)"
    found = run_row(Row("real_data", "real_data"), setting(tmp_path, train=training()), [0], lambda _: None)
    (result,) = found.results
    assert result["num_images"] == 10
    config = json.loads((tmp_path / "runs" / "real_data-w3-seed0" / "config.json").read_text())
    assert config["recipe"]["images"] == "real"
