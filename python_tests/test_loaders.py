"""Batches (images, labels) are taken wherever images are, as a DataLoader gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import CLASSES, pictures, tiny
from test_run import RECIPE, SHAPE
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import hast_cuda as hc
from hast_cuda.data.loaders import as_image_set, as_images
from hast_cuda.methods import change
from hast_cuda.nn.calibrate import activation_quantizers

X, Y = pictures(20), torch.arange(20) % CLASSES
HELD = hc.Images(X, Y, True)


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, Y), batch_size=8)


class Stream(IterableDataset[Any]):
    """Does not tell its length."""

    def __iter__(self) -> Any:
        return iter(zip(X, Y, strict=True))


def test_calibration_ignores_labels() -> None:
    expected, found, whole = (hc.quantize(tiny(), 4, 4) for _ in range(3))
    hc.calibrate(expected, [X[:8], X[8:16], X[16:]])
    hc.calibrate(found, loader())
    for name, quantizer in activation_quantizers(found).items():
        assert torch.equal(quantizer.range_state, activation_quantizers(expected)[name].range_state)
    hc.calibrate(whole, X)
    assert torch.isfinite(whole(X)).all()
    with pytest.raises(TypeError, match=r"batches\[0\] is a tuple that begins with a int; expected images"):
        hc.calibrate(hc.quantize(tiny(), 4, 4), [(1, X)])


@pytest.mark.parametrize(
    "make", [loader, lambda: DataLoader(Stream(), batch_size=8), lambda: [(X, Y)], lambda: [[X, Y, 1]]]
)
def test_accuracy(make: Any) -> None:
    assert hc.evaluate(tiny(), make()) == hc.evaluate(tiny(), HELD)


def test_a_run_tests_and_trains_on_them() -> None:
    real = change(RECIPE, {"reconstruction.iterations": 0})
    given = hc.zero_shot_quantize(tiny(), SHAPE, recipe=real, images=loader(), test=loader())
    held = hc.zero_shot_quantize(tiny(), SHAPE, recipe=real, images=HELD, test=HELD)
    assert given.result["num_test_images"] == 20
    assert given.images is not None
    assert given.images.real
    assert torch.equal(given.student(X), held.student(X))
    assert given.result["quantized"] == held.result["quantized"]


def test_exports_are_compared_on_them(tmp_path: Path) -> None:
    student = hc.calibrate(hc.quantize(tiny(), 4, 4), loader())
    done = hc.export(student, tmp_path, "packed", (3, 8, 8), network=tiny(), images=loader())
    assert done.checks is not None
    assert (done.checks.images, done.checks.source) == (20, "given")
    assert done.checks.top1 == hc.evaluate(student, HELD)


def test_a_set_of_them_can_be_read_in_any_order() -> None:
    found = as_image_set(loader(), hc.InputSpec(3, 8, 8, CLASSES))
    assert found is not None
    assert torch.equal(found.read([3, 1]), X[[3, 1]])
    assert torch.equal(next(found.batches(20))[0], X)
    held = as_images(loader())
    assert held is not None
    assert torch.equal(held.labels, Y)


@pytest.mark.parametrize(("images", "message"), [([], "empty"), ([(X,)], "no label"), ([(X, Y[:3])], "no label")])
def test_refusals(images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hc.evaluate(tiny(), images)
    with pytest.raises(ValueError, match="no batch" if not images else message):
        as_images(images)


def test_four_channels_and_other_sides(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = tiny()
    network.features[0] = torch.nn.Conv2d(4, 6, 3, padding=1, bias=False)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 10, 4), dtype=np.uint8)
    np.savez(tmp_path / "test.npz", images=pixels, labels=np.arange(6) % CLASSES)
    spec = hc.teachers.input_spec(network, normalization="0,0,0,0/1,1,1,1", image_size=(6, 10))
    assert (spec.size, spec.num_classes) == ((4, 6, 10), CLASSES)
    test = hc.load_images(tmp_path / "test.npz", spec=spec)
    done = hc.zero_shot_quantize(network, (4, 6, 10), recipe=RECIPE, test=test)
    assert done.images is not None
    assert done.images.images.shape[1:] == (4, 6, 10)
    pytest.importorskip("matplotlib")
    hc.report.draw_images(done.images.images[:2], done.images.labels, spec, tmp_path / "images.png")
    assert (tmp_path / "images.png").exists()
    with pytest.raises(ValueError, match="is a folder, whose images have 3 channels"):
        hc.load_images(tmp_path, spec=spec)


def test_a_library_builds_networks_of_other_channels() -> None:
    pytest.importorskip("pytorchcv")
    spec = hc.teachers.input_spec("resnet20_cifar10", model_args={"in_channels": 1}, image_size=(32, 48))
    assert (spec.size, len(spec.mean)) == ((1, 32, 48), 1)
    assert spec.mean[0] == pytest.approx((0.4914 + 0.4822 + 0.4465) / 3)
