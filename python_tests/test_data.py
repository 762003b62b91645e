from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from hast_cuda.data import Images, InputSpec, evaluate, load_images
from hast_cuda.teachers import input_spec, load_teacher

SPEC = InputSpec(3, 4, 4, 10, (0.1, 0.2, 0.3), (0.5, 0.25, 2.0))
GREY = InputSpec(1, 4, 4, 10, (0.5,), (0.5,))
CROP = InputSpec(3, 4, 4, 10, resize=6)

Archive = Callable[..., Path]


def random_images(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    def write(**arrays: Any) -> Path:
        np.savez(tmp_path / "set.npz", **arrays)
        return tmp_path / "set.npz"

    return write


@pytest.mark.parametrize("batch_size", [1, 3, 5, 99])
def test_npz_batches(archive: Archive, batch_size: int) -> None:
    images, labels = random_images(5, 4, 4, 3), np.array([3, 0, 9, 3, 1])
    loaded = load_images(archive(images=images, labels=labels), spec=SPEC)
    batches = list(loaded.batches(batch_size))
    assert [len(x) for x, _ in batches] == [len(y) for _, y in batches]
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    expected = (images / 255 - np.array(SPEC.mean)) / np.array(SPEC.std)
    torch.testing.assert_close(x, torch.tensor(expected.transpose(0, 3, 1, 2)).float())
    assert (x.dtype, y.dtype, y.tolist()) == (torch.float32, torch.int64, labels.tolist())
    assert len(loaded) == 5


@pytest.mark.parametrize("shape", [(2, 4, 4), (2, 4, 4, 1)])
def test_npz_of_grey_images(archive: Archive, shape: tuple[int, ...]) -> None:
    path = archive(images=random_images(*shape), labels=np.zeros(2, np.uint8))
    ((x, _),) = load_images(path, spec=GREY).batches(8)
    assert x.shape == (2, 1, 4, 4)


def test_npz_is_resized_by_the_rule(archive: Archive) -> None:
    images = np.zeros((2, 12, 24, 3), np.uint8)
    images[:, :, 6:18] = 255  # the centre crop of 4 out of 6x12 sees only this
    path = archive(images=images, labels=np.zeros(2, np.int64))
    ((x, _),) = load_images(path, spec=CROP).batches(8)
    torch.testing.assert_close(x, torch.ones(2, 3, 4, 4))
    with pytest.raises(ValueError, match="images of 12x24 pixels, the network takes exactly 4x4"):
        load_images(path, spec=SPEC)


def test_limit_is_spread_evenly(archive: Archive) -> None:
    labels = np.repeat(np.arange(10), 3)
    path = archive(images=random_images(30, 4, 4, 3), labels=labels)
    full, part = (load_images(path, spec=SPEC, limit=n) for n in (99, 10))
    assert (len(full), part.labels.tolist()) == (30, list(range(10)))
    ((x, _),), ((few, _),) = full.batches(99), part.batches(99)
    assert torch.equal(few, x[::3])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": random_images(2, 4, 4, 3)}, "no labels among its arrays"),
        ({"x": random_images(2, 4, 4, 3)}, "no images and no labels among"),
        ({"images": np.zeros((2, 4, 4, 3)), "labels": [0, 1]}, r"float64 .*must be uint8"),
        ({"images": random_images(2, 48), "labels": [0, 1]}, r"uint8 \[2, 48\]; they must be"),
        ({"images": random_images(2, 3, 4, 4), "labels": [0, 1]}, "transpose"),
        ({"images": random_images(2, 4, 4, 1), "labels": [0, 1]}, "1 channels, the network takes"),
        ({"images": random_images(2, 4, 4, 3), "labels": [0.0, 1.0]}, "labels are float64"),
        ({"images": random_images(2, 4, 4, 3), "labels": [0]}, r"labels are int64 \[1\].*\[2\]"),
        ({"images": random_images(2, 4, 4, 3), "labels": [0, 10]}, r"0\.\.10, .* 10 classes"),
        ({"images": random_images(2, 4, 4, 3), "labels": [-1, 1]}, r"-1\.\.1, .*labels 0\.\.9"),
        ({"images": random_images(0, 4, 4, 3), "labels": np.zeros(0, int)}, "at least one is"),
        ({"images": random_images(2, 5, 4, 3), "labels": [0, 1]}, "5x4 pixels"),
    ],
)
def test_npz_errors(archive: Archive, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"(?s)data=.*{message}"):
        load_images(archive(**arrays), spec=SPEC)


def test_files_that_are_no_archives(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    with pytest.raises(FileNotFoundError, match=r"data=.* does not exist: give an \.npz"):
        load_images(path, spec=SPEC)
    for content in [b"", b"text", b"PK\x03\x04 cut", pickle.dumps({"images": 1})]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not a usable image archive"):
            load_images(path, spec=SPEC)
    np.save(tmp_path / "one.npy", random_images(2, 4, 4, 3))
    with pytest.raises(ValueError, match="it holds one array"):
        load_images(tmp_path / "one.npy", spec=SPEC)


def test_arguments(archive: Archive) -> None:
    path = archive(images=random_images(2, 4, 4, 3), labels=[0, 1])
    with pytest.raises(ValueError, match="limit=0 must be at least 1"):
        load_images(path, spec=SPEC, limit=0)
    with pytest.raises(ValueError, match="split='val' must be"):
        load_images(path, spec=SPEC, split="val")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size is 0; allowed: at least 1"):
        next(load_images(path, spec=SPEC).batches(0))


def test_digits() -> None:
    pytest.importorskip("sklearn")
    spec = input_spec("digits")
    train, test = (load_images("digits", spec=spec, split=s) for s in ("train", "test"))
    assert (len(train), len(test), len(test.labels.unique())) == (1197, 600, 10)
    ((x, _),) = train.batches(2000)
    assert x.shape == (1197, 1, 8, 8)
    assert abs(float(x.mean())) < 1e-3
    assert abs(float(x.std()) - 1) < 1e-3
    with pytest.raises(ValueError, match="8x8 pixels, the network takes exactly 32x32"):
        load_images("digits", spec=InputSpec(1, 32, 32, 10, (0.5,), (0.5,)))


class Payload:
    """Says that it was unpickled."""

    executed = False

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (setattr, (Payload, "executed", True))


def fake_cifar(root: Path, kind: type[CIFAR10], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two images per file that torchvision takes for the published one."""
    folder = root / kind.base_folder
    folder.mkdir()
    key = "labels" if kind is CIFAR10 else "fine_labels"

    def write(name: str, content: object) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    def batches(files: list[list[str]], labels: list[int]) -> list[list[str]]:
        pixels = random_images(2, 3072)
        return [[name, write(name, {"data": pixels, key: labels})] for name, _ in files]

    monkeypatch.setattr(kind, "train_list", batches(kind.train_list, [1, 2]))
    monkeypatch.setattr(kind, "test_list", batches(kind.test_list, [3, 4]))
    meta = {kind.meta["key"]: [str(i) for i in range(100)]}
    checksum = write(kind.meta["filename"], meta)
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": checksum})
    return folder


@pytest.mark.parametrize("name", ["resnet20_cifar10", "resnet20_cifar100"])
@pytest.mark.parametrize("inner", [True, False])
def test_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, inner: bool) -> None:
    spec = input_spec(name)
    for kind in (CIFAR10, CIFAR100):
        fake_cifar(tmp_path, kind, monkeypatch)
    folder = (CIFAR10 if spec.num_classes == 10 else CIFAR100).base_folder
    path = tmp_path / folder if inner else tmp_path
    ((x, y),) = load_images(path, spec=spec).batches(2)
    assert y.tolist() == [3, 4]
    expected = torch.from_numpy(random_images(2, 3072)).view(2, 3, 32, 32) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (spec.mean, spec.std))
    torch.testing.assert_close(x, (expected - mean) / std)
    assert set(load_images(path, spec=spec, split="train").labels.tolist()) == {1, 2}
    if not inner:
        seven = InputSpec(3, 32, 32, 7, spec.mean, spec.std)
        with pytest.raises(ValueError, match="has 7 classes: give the one folder"):
            load_images(path, spec=seven)


def image_tree(root: Path, names: list[str], size: tuple[int, int] = (4, 4)) -> Path:
    for value, name in enumerate(names):
        (root / name).mkdir(parents=True)
        Image.new("RGB", size, (value, 0, 255)).save(root / name / "a.png")
    return root


def test_image_folder(tmp_path: Path) -> None:
    spec = InputSpec(3, 4, 4, 3)
    root = image_tree(tmp_path, ["ant", "bee", "cow"])
    (root / ".ipynb_checkpoints").mkdir()  # hidden folders are no classes
    ((x, y),) = load_images(root, spec=spec).batches(9)
    assert y.tolist() == [0, 1, 2]
    torch.testing.assert_close(x[:, 0, 0, 0] * 255, torch.tensor([0.0, 1.0, 2.0]))
    assert x[:, 2].eq(1).all()
    with pytest.raises(ValueError, match="3 class folders, the network has 10 classes"):
        load_images(root, spec=SPEC)
    ((x, _),) = load_images(root, spec=InputSpec(1, 4, 4, 3)).batches(9)
    assert x.shape == (3, 1, 4, 4)


def test_a_folder_of_other_things_is_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def search(_root: str) -> None:
        raise AssertionError("searched")

    monkeypatch.setattr("hast_cuda.data.folders.make_dataset", search)
    for name in ("bin", "home", "proc"):
        (tmp_path / name / "deep").mkdir(parents=True)
    with pytest.raises(ValueError, match="3 class folders, the network has 10 classes"):
        load_images(tmp_path, spec=SPEC)


def test_image_folder_with_numbered_classes(tmp_path: Path) -> None:
    root = image_tree(tmp_path, ["7", "03", "1"])
    assert sorted(load_images(root, spec=SPEC).labels.tolist()) == [1, 3, 7]
    image_tree(root, ["10"])
    with pytest.raises(ValueError, match=r"labels 1\.\.10"):
        load_images(root, spec=SPEC)


def test_image_folder_splits(tmp_path: Path) -> None:
    image_tree(tmp_path / "train", ["1", "2"])
    with pytest.raises(ValueError, match="no folder test or val for split='test'"):
        load_images(tmp_path, spec=SPEC)
    image_tree(tmp_path / "val", ["3", "4"])
    assert load_images(tmp_path, spec=SPEC).labels.tolist() == [3, 4]
    assert load_images(tmp_path, spec=SPEC, split="train").labels.tolist() == [1, 2]


def test_image_folder_is_lazy_and_resized(tmp_path: Path) -> None:
    root = image_tree(tmp_path, ["0", "1"], size=(13, 9))
    (root / "1" / "a.png").write_bytes(b"not an image")
    batches = load_images(root, spec=CROP).batches(1)
    assert next(batches)[0].shape == (1, 3, 4, 4)
    with pytest.raises(ValueError, match=r"1/a\.png is not a readable image"):
        next(batches)
    with pytest.raises(ValueError, match=r"0/a\.png has images of 9x13 pixels"):
        next(load_images(root, spec=SPEC).batches(1))


@pytest.mark.parametrize("names", [[], ["0"]])
def test_folders_without_images(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="not a folder with one folder of images per class"):
        load_images(tmp_path, spec=SPEC)


def test_images_in_memory_are_evaluated_as_those_of_files() -> None:
    test = load_images("digits", spec=input_spec("digits"), limit=50)
    images = Images.read(test)
    assert images.real
    assert len(images) == 50
    network = load_teacher("digits")
    assert evaluate(network, images) == evaluate(network, test)
    with pytest.raises(ValueError, match="channels=2 must be 1"):
        load_images("digits", spec=InputSpec(2, 8, 8, 10))
    cut = replace(test, read=lambda indices: test.read(indices)[:, :, :4])
    with pytest.raises(ValueError, match=r"read gave images \[16, 1, 4, 8\] of .*; expected \[16, 1, 8, 8\]"):
        next(cut.batches(16))


def one_image(folder: Path, image: Image.Image, kind: str = "png", spec: InputSpec = GREY) -> torch.Tensor:
    (folder / "0").mkdir()
    image.save(folder / "0" / f"a.{kind}")
    ((x, _),) = load_images(folder, spec=spec).batches(1)
    return x * 0.5 + 0.5 if spec is GREY else x


@pytest.mark.parametrize("kind", ["png", "tiff", "pgm"])
def test_16_bits_are_scaled_not_cut(tmp_path: Path, kind: str) -> None:
    ramp = np.linspace(0, 65535, 16).reshape(4, 4).astype(np.uint16)
    found = one_image(tmp_path, Image.fromarray(ramp), kind)
    torch.testing.assert_close(found[0, 0], torch.tensor(ramp / 65535).float(), atol=1 / 250, rtol=0)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_known_white_are_refused(tmp_path: Path, dtype: Any) -> None:
    image = Image.fromarray(np.linspace(0, 1000, 16).reshape(4, 4).astype(dtype))
    with pytest.raises(ValueError, match=r"a\.tiff is not a readable image \(pixels of mode '[FI]' .* 8 or 16 bits"):
        one_image(tmp_path, image, "tiff")


@pytest.mark.parametrize(
    ("mode", "kind"), [("P", "png"), ("RGBA", "png"), ("LA", "png"), ("1", "png"), ("CMYK", "tiff")]
)
def test_other_ways_to_store_8_bits(tmp_path: Path, mode: str, kind: str) -> None:
    plain = Image.fromarray(np.where(random_images(4, 4) > 127, 255, 0).astype(np.uint8)).convert("RGB")
    image = plain.convert(mode)
    if mode == "P":
        image.info["transparency"] = bytes([0] * 256)
    found = one_image(tmp_path, image, kind)
    torch.testing.assert_close(found[0, 0], torch.tensor(np.array(plain)[..., 0] / 255).float(), atol=1e-2, rtol=0)
