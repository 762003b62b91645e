"""What a run refuses, and that it refuses before any work and any file."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import CHANNELS, CLASSES, SIZE, same_state, snapshot, tiny, without_batch_norm
from test_run import BITS, RECIPE, SHAPE, real_images, run
from torch import Tensor, nn

from hast_cuda.data import Images, ImageSet
from hast_cuda.methods import Recipe
from hast_cuda.nn import Override
from hast_cuda.run import Bits, RunDirectory, infer_shape, load_student
from hast_cuda.run.origins import KEY

ONES = torch.ones(4, *SHAPE)
CPU = torch.device("cpu")


def images(count: int = 4, **changed: Any) -> Images:
    parts = {"images": torch.zeros(count, *SHAPE), "labels": torch.arange(count)}
    return Images(**parts | changed)


def other_weights() -> nn.Module:
    network = tiny()
    network.output.weight.data *= 2
    return network


def lit(images: ImageSet) -> ImageSet:
    """The same labels, other pixels."""
    return replace(images, read=lambda indices: images.read(indices) // 2)


class Sequence(nn.Module):
    """A network without logits."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def shifted_norm() -> nn.BatchNorm2d:
    """One that has been trained."""
    norm = nn.BatchNorm2d(3)
    norm.running_mean.fill_(0.5)
    return norm


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"teacher": without_batch_norm()}, "no BatchNorm layer with running statistics"),
        ({"teacher": nn.Sequential(shifted_norm(), nn.Flatten())}, "no Conv2d or Linear"),
        ({"shape": (1, 8, 8)}, r"does not take images of shape \(1, 8, 8\)"),
        (
            {"teacher": nn.Sequential(shifted_norm(), nn.Conv2d(3, 3, 1))},
            r"classifies nothing .* one tensor \[N, classes",
        ),
        ({"teacher": Sequence()}, r"classifies nothing .* one tensor \[N, classes\]"),
        ({"bits": Bits(1, 4)}, "weight_bits"),
        ({"bits": Bits(4, 9)}, "act_bits"),
        ({"bits": Bits(4, 4, "some")}, "placement"),
        ({"bits": replace(BITS, overrides={"conv9": Override()})}, r"overrides match no .*\['conv9'\]"),
        ({"recipe": "best"}, "recipe is 'best'; allowed: 'default', 'paper', 'released'"),
        ({"recipe": "paper", "dataset": "mnist"}, "dataset is 'mnist'; allowed: 'cifar10'"),
        (
            {"images": images(images=torch.zeros(4, 3, 4, 4))},
            r"images are \[4, 3, 4, 4\] torch.float32; expected \[N, 3, 8, 8\] torch.float32",
        ),
        (
            {"images": images(images=torch.zeros(4, *SHAPE, dtype=torch.uint8))},
            r"images are \[4, 3, 8, 8\] torch.uint8",
        ),
        ({"images": images(0)}, r"images are \[0, 3, 8, 8\]"),
        ({"images": images(labels=torch.arange(3))}, "there are 4 images and 3 labels"),
        ({"images": images(6)}, "labels go from 0 to 5; the network has 5 classes"),
        ({"images": images(labels=torch.arange(4) - 1)}, "labels go from -1 to 2"),
        ({"images": images(images=torch.full((4, *SHAPE), torch.nan))}, "contain NaN or infinity"),
    ],
)
def test_refused_before_anything_is_written(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "out", **changed)
    assert not (tmp_path / "out").exists()


def test_teacher_of_another_type(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"teacher must be an nn.Module, got OrderedDict"):
        run(tmp_path / "out", teacher=tiny().state_dict())
    assert not (tmp_path / "out").exists()


def test_a_network_without_batch_norm_works_on_given_images(tmp_path: Path) -> None:
    recipe = Recipe(RECIPE.synthesis, replace(RECIPE.finetune, feature_weight=0.0))
    teacher = without_batch_norm()
    result = run(tmp_path / "a", teacher=teacher, images=images(), recipe=recipe).result
    assert result["num_images"] == 4
    released = replace(recipe, finetune=replace(recipe.finetune, calibration="generator"))
    with pytest.raises(ValueError, match="no BatchNorm layer with running statistics"):
        run(tmp_path / "b", teacher=teacher, images=images(), recipe=released)
    assert not (tmp_path / "b").exists()


def test_infer_shape_restores_the_mode(device: torch.device) -> None:
    teacher = tiny(device).train()
    teacher.features[1].eval()
    shape = infer_shape(teacher, SHAPE)
    assert (shape.channels, shape.height, shape.width) == (CHANNELS, SIZE, SIZE)
    assert shape.num_classes == CLASSES
    assert teacher.training
    assert not teacher.features[1].training
    with pytest.raises(ValueError, match="does not take images"):
        infer_shape(teacher, (1, 8, 8))
    assert teacher.training
    assert not teacher.features[1].training
    assert infer_shape(teacher.eval(), SHAPE) == shape
    assert not teacher.training


def test_other_test_images_alone_are_for_evaluate(tmp_path: Path) -> None:
    run(tmp_path, test=None)
    for bits, said in ((BITS, True), (Bits(2, 3), False)):
        with pytest.raises(ValueError, match="holds a run with another configuration") as caught:
            run(tmp_path, test=real_images(), bits=bits)
        assert ("hast-cuda evaluate or hc.evaluate" in str(caught.value)) is said


def test_another_configuration_shows_the_difference(tmp_path: Path) -> None:
    run(tmp_path, test=None)
    before = (tmp_path / "config.json").read_bytes()
    recipe = replace(RECIPE, finetune=replace(RECIPE.finetune, batch_size=9, crop_scale=(0.5, 0.7)))
    with pytest.raises(ValueError, match="holds a run with another configuration") as caught:
        run(tmp_path, test=None, recipe=recipe, bits=Bits(2, 3))
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert lines == [
        "bits.weights: there 3, now 2",
        "recipe.finetune.batch_size: there 8, now 9",
        "recipe.finetune.crop_scale: there [0.5, 1.0], now [0.5, 0.7]",
    ]
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({}, {"teacher": other_weights()}, "the network's weights"),
        ({"images": images()}, {"images": images(images=ONES)}, "the images given"),
        ({"images": images()}, {"images": images(labels=torch.zeros(4).long())}, "the images given"),
        ({}, {"images": images()}, "the images given"),
        ({"test": real_images()}, {"test": lit(real_images())}, "the test images"),
        ({"test": None}, {"test": real_images()}, "the test images"),
    ],
)
def test_a_run_is_made_from_one_network_and_one_set_of_images(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], words: str
) -> None:
    student = run(tmp_path, **first).student
    advice = r"\n  these change no student: test it with hast-cuda evaluate or hc.evaluate" if "test" in second else ""
    other = rf"give another --out, or the same network, .*\n  {words}: there .*, now .*{advice}$"
    with pytest.raises(ValueError, match=other):
        run(tmp_path, **second)
    assert same_state(run(tmp_path, **first).student, snapshot(student))


def test_what_an_earlier_version_made_its_run_from_is_not_known(tmp_path: Path) -> None:
    run(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop(KEY).keys() == {"network", "images", "test"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    run(tmp_path, teacher=other_weights(), test=None)  # not refused, and not written down as known
    assert json.loads((tmp_path / "config.json").read_text()) == config


def test_a_directory_whose_configuration_is_broken(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is not valid JSON .* another --out"):
        run(tmp_path)


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_where_the_directory_should_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match=r"run directory .* is a file; .*--out"):
        run(tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", [".", "below"])
def test_a_directory_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(PermissionError, match=r"run directory .* (is not writable|cannot be created)"):
            run(tmp_path / name)
    finally:
        tmp_path.chmod(0o700)


def test_log_line_cut_short_by_a_kill(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path, {"a": 1}, CPU)
    assert directory.read_log() == []
    directory.log({"iteration": 1})
    with directory.metrics.open("a") as file:
        file.write('{"iterat')
    reader = RunDirectory.open(tmp_path)
    assert reader.read_log() == [{"iteration": 1}]
    assert not any(hasattr(reader, name) for name in ("log", "remember", "finish"))
    directory.close()
    directory = RunDirectory(tmp_path, {"a": 1}, CPU)
    directory.log({"iteration": 2})
    assert directory.read_log() == [{"iteration": 1}, {"iteration": 2}]


def finished(path: Path) -> Path:
    run(path, test=None)
    return path


def test_student_of_another_network(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"student.safetensors is corrupt or belongs to another"):
        load_student(without_batch_norm(), finished(tmp_path))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"bits": {"weights": 3}}'])
def test_configuration_of_a_student(tmp_path: Path, content: str) -> None:
    (finished(tmp_path) / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config.json .*is not the configuration of a run"):
        load_student(tiny(), tmp_path)


@pytest.mark.parametrize("damage", [b"", None])
def test_images_of_a_finished_run_are_made_again(tmp_path: Path, damage: bytes | None) -> None:
    before = run(tmp_path, test=None)
    shard = tmp_path / "images" / "batch_00001.safetensors"
    whole = shard.read_bytes()
    if damage is None:
        shard.unlink()
        again = run(tmp_path, test=None)
    else:
        shard.write_bytes(damage)
        message = r"batch_00001.safetensors is corrupt .*made again"
        with pytest.warns(RuntimeWarning, match=message) as caught:
            again = run(tmp_path, test=None)
        assert caught[0].filename == run.__code__.co_filename  # who called the package
    assert before.images is not None
    assert again.images is not None
    assert torch.equal(again.images.images, before.images.images)
    assert shard.read_bytes() == whole


def test_test_images_of_another_size_are_refused_before_any_is_made(tmp_path: Path) -> None:
    test = real_images()
    cut = replace(test, read=lambda indices: test.read(indices)[:, :2])
    with pytest.raises(ValueError, match=r"read gave images \[40, 2, .*; expected \[40, 3, "):
        run(tmp_path / "run", test=cut)
    assert not (tmp_path / "run").exists()
