"""Sets for other programs: bytes, files, manifests, and the examples of docs/calibration-sets.md."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from networks import tiny, without_batch_norm
from torch import Tensor

import hast_cuda as hc
from hast_cuda.analysis import statistic_gaps
from hast_cuda.calibration import CalibrationSet, calibration_set, to_normalized, to_pixels
from hast_cuda.calibration.make import balanced, default_config
from hast_cuda.calibration.tfrecord import crc32c
from hast_cuda.calibration.written import write_images
from hast_cuda.cli import main
from hast_cuda.data import Images, InputSpec, load_images
from hast_cuda.files.tensors import fingerprint
from hast_cuda.run import RunDirectory
from hast_cuda.synthesis import ImageStore, synthesize

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
SPEC = InputSpec(3, 8, 8, 5, MEAN, STD)
PAGE = (Path(__file__).parents[1] / "docs" / "calibration-sets.md").read_text(encoding="utf-8")
Make = Callable[..., CalibrationSet]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(**changed: Any) -> CalibrationSet:
        given: dict[str, Any] = {"num_images": 12, "iterations": 3, "seed": 4, **changed}
        torch.manual_seed(0)
        spec = given.pop("spec", SPEC)
        return calibration_set(given.pop("network", None) or tiny(), spec, tmp_path / "set", **given)

    return made


def test_bytes_survive_the_way_to_the_network_and_back() -> None:
    every = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    assert torch.equal(to_pixels(to_normalized(every, SPEC), SPEC), every)


def test_pixels_round_and_clip() -> None:
    spec = InputSpec(1, 1, 4, 2, (0.5,), (0.25,))
    values = torch.tensor([-2.1, 100.4 / 255 * 4 - 2, 100.6 / 255 * 4 - 2, 7.0]).view(1, 1, 1, 4)
    assert to_pixels(values, spec).flatten().tolist() == [0, 100, 101, 255]


@pytest.mark.parametrize(
    ("images", "message"),
    [(torch.zeros(1, 1, 8, 8), r"\[N, 3, H, W\]"), (torch.full((1, 3, 8, 8), float("nan")), "NaN")],
)
def test_what_is_no_picture(images: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_pixels(images, SPEC)


def test_normalized_takes_bytes_alone() -> None:
    with pytest.raises(ValueError, match=r"pixels are torch.int64; expected torch.uint8"):
        to_normalized(torch.zeros(1, 3, 8, 8, dtype=torch.int64), SPEC)


def read(folder: Path, to: str) -> tuple[Tensor, list[int]]:
    """uint8 [N, C, H, W] and labels, in an order of their own."""
    if to == "npy":
        pixels, labels = (np.load(folder / f"{name}.npy") for name in ("images", "labels"))
        assert (pixels.dtype, labels.dtype) == (np.uint8, np.int64)
        return torch.from_numpy(pixels.transpose(0, 3, 1, 2)), labels.tolist()
    found = load_images(folder if to == "png" else folder / "images.npz", spec=SPEC)
    return found.read(range(len(found))), found.labels.tolist()


@pytest.mark.parametrize("to", ["png", "npy", "npz"])
def test_files_hold_the_set_and_the_manifest_their_sums(make: Make, to: str) -> None:
    made = make(to=to)
    pixels, labels = read(made.folder, to)
    wanted = made.pixels
    if to == "png":  # read class after class, in order of their numbers
        order = torch.argsort(made.labels, stable=True)
        wanted = wanted[order]
        assert labels == made.labels[order].tolist()
    else:
        assert labels == made.labels.tolist()
    assert torch.equal(pixels, wanted)
    manifest = json.loads((made.folder / "manifest.json").read_text())
    assert manifest == json.loads(json.dumps(made.manifest))
    files = {p.relative_to(made.folder).as_posix(): p for p in made.folder.rglob("*") if p.is_file()}
    assert files.pop("manifest.json")
    assert manifest["sha256"] == {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in files.items()}


@pytest.mark.parametrize("to", ["onnxruntime", "openvino", "tensorrt", "hailo"])
def test_arrays_as_programs_take_them(make: Make, to: str) -> None:
    made = make(to=to)
    if to == "hailo":
        assert torch.equal(torch.from_numpy(np.load(made.folder / "calib_set.npy")).permute(0, 3, 1, 2), made.pixels)
        return
    found = np.load(made.folder / "images.npy")
    assert found.flags.c_contiguous
    assert torch.equal(torch.from_numpy(found), to_normalized(made.pixels, SPEC))


def records(file: Path) -> list[dict[str, Any]]:
    """The examples of a TFRecord file by another reader, its checksums checked."""
    data, found = file.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        parts = {0: data[:8], 12: data[12 : 12 + size]}
        for start, part in parts.items():
            (check,) = crc32c(np.frombuffer(part, np.uint8)[None])
            masked = (((check >> 15) | (check << 17)) + 0xA282EAD8) % 2**32
            end = start + len(part)
            assert int.from_bytes(data[end : end + 4], "little") == masked
        (features,) = fields(parts[12])[1]
        entries = [fields(entry) for entry in fields(features)[1]]
        found.append({entry[1][0].decode(): value_of(entry[2][0]) for entry in entries})
        data = data[16 + size :]
    return found


def fields(message: bytes) -> dict[int, list[bytes]]:
    """Those of a protobuf message, all of which have a length, by number."""
    found: dict[int, list[bytes]] = {}
    while message:
        key, message = varint(message)
        size, message = varint(message)
        assert key & 7 == 2
        found.setdefault(key >> 3, []).append(message[:size])
        message = message[size:]
    return found


def varint(message: bytes) -> tuple[int, bytes]:
    value = 0
    for place, byte in enumerate(message):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, message[place + 1 :]
    raise AssertionError("cut short")


def value_of(feature: bytes) -> Any:
    ((kind, (content,)),) = fields(feature).items()
    (value,) = fields(content)[1]
    return value if kind == 1 else varint(value)[0]


def test_records_of_tensorflow(tmp_path: Path) -> None:
    pixels = torch.randint(256, (3, 4, 5, 2), dtype=torch.uint8)
    write_images(tmp_path, "tfrecord", pixels, torch.tensor([0, 300, 127]), replace(SPEC, num_classes=301))
    found = records(tmp_path / "images.tfrecord")
    assert [record.pop("label") for record in found] == [0, 300, 127]
    for record, image in zip(found, pixels, strict=True):
        sizes = {"height": 5, "width": 2, "channels": 4}
        assert record == {"image": image.permute(1, 2, 0).numpy().tobytes(), **sizes}
    (tmp_path / "images.tfrecord").unlink()
    write_images(tmp_path, "tfrecord", pixels, None, SPEC)
    assert "label" not in records(tmp_path / "images.tfrecord")[0]


@pytest.mark.parametrize(
    ("heading", "to", "package"),
    [
        (r"TensorRT \(untried\)", "tensorrt", "polygraphy.backend.trt"),
        (r"Hailo \(untried\)", "hailo", "hailo_sdk_client"),
        (r"RKNN \(untried\)", "png", "rknn.api"),
    ],
)
def test_examples_read_their_sets(
    heading: str, to: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program = MagicMock()
    for depth in range(1, package.count(".") + 2):
        monkeypatch.setitem(sys.modules, ".".join(package.split(".")[:depth]), program)
    of_digits(to, iterations=2)
    exec(example(heading), {})
    if to == "tensorrt":
        images = program.Calibrator.call_args.kwargs["data_loader"]
        assert [(image["images"].shape, image["images"].dtype) for image in images] == [((1, 1, 8, 8), np.float32)] * 30
    elif to == "hailo":
        runner = program.ClientRunner.return_value
        assert runner.optimize.call_args.args[0].shape == (30, 8, 8, 1)
        assert "normalization([" in runner.load_model_script.call_args.args[0]
    else:
        files = Path("images.txt").read_text().splitlines()
        assert [Path(file).stem for file in files] == [f"{n:06d}" for n in range(30)]
        assert all(Path(file).is_file() for file in files)


def test_the_manifest_says_what_the_set_is(make: Make) -> None:
    torch.manual_seed(0)
    network = tiny()
    made = make(network=network, describe={"model": "mine"})
    manifest = made.manifest
    assert manifest["network"] == fingerprint(network.state_dict())
    assert (manifest["seed"], manifest["num_images"], manifest["model"]) == (4, 12, "mine")
    assert manifest["normalization"] == {"mean": list(MEAN), "std": list(STD)}
    assert sorted(manifest["images_per_class"]) == [2, 2, 2, 3, 3]
    assert manifest["images_per_class"] == made.labels.bincount().tolist()
    gaps = statistic_gaps(network, to_normalized(made.pixels, SPEC))
    assert manifest["statistic_gaps"]["bytes"] == {n: vars(gap) for n, gap in gaps.items()}
    assert manifest["statistic_gaps"]["made"].keys() == gaps.keys()
    assert manifest["statistic_gaps"]["made"] != manifest["statistic_gaps"]["bytes"]


def test_rounding_displayable_pixels_moves_statistics_less_than_clipping(tmp_path: Path) -> None:
    network, spec = hc.load_teacher("digits"), hc.teachers.input_spec("digits")
    options = {"num_images": 20, "iterations": 10, "to": "npy"}
    moved = []
    for displayable in (True, False):
        made = calibration_set(network, spec, tmp_path / str(displayable), displayable=displayable, **options)
        gaps = made.manifest["statistic_gaps"]
        moved.append(max(abs(gaps["made"][n]["variance"] - gaps["bytes"][n]["variance"]) for n in gaps["made"]))
    assert moved[0] < 0.02 < moved[1]


def test_logits_go_farther_than_those_of_hard_samples() -> None:
    """A calibrator by minimum and maximum cuts off what its images do not reach."""
    network, spec = hc.load_teacher("digits"), hc.teachers.input_spec("digits")
    config = replace(default_config(spec, 64), iterations=100)
    hard = replace(config, label_temperature=1.0, difficulty_exponent=2.0)
    images = [synthesize(network, spec, c).images for c in (hard, config)]
    with torch.no_grad():
        found = [float(network(x).amax(1).mean()) for x in images]
    assert found[1] > 1.1 * found[0]


def test_images_of_a_set_are_its_first_of_every_class() -> None:
    labels = torch.tensor([0, 0, 0, 1, 0, 2, 1])
    images = torch.arange(7.0).view(7, 1, 1, 1)
    assert balanced(Images(images, labels), 4).images.flatten().tolist() == [0, 1, 3, 5]
    assert balanced(Images(images, labels), 6).labels.tolist() == [0, 0, 0, 1, 2, 1]
    with pytest.raises(ValueError, match="num_images is 8, and there are 7 images"):
        balanced(Images(images, labels), 8)


def test_images_that_are_given(make: Make) -> None:
    given = Images(torch.randn(15, 3, 8, 8), torch.arange(15) % 5)
    made = make(images=given, num_images=10, iterations=None)
    assert torch.equal(made.pixels, to_pixels(given.images[:10], SPEC))
    assert (made.manifest["seed"], made.manifest["synthesis"]) == (None, None)


FEW = Images(torch.randn(5, 3, 8, 8), torch.arange(5))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"to": "jpeg"}, "to is 'jpeg'; allowed: 'png', 'npy', 'npz'"),
        ({"spec": InputSpec(3, 8, 8, 5)}, "no normalisation is known"),
        ({"normalization": "0.5/0.5"}, "1 means .* for 3 channels"),
        ({"num_images": 0}, "num_images is 0"),
        ({"network": without_batch_norm()}, "no BatchNorm"),
        ({"spec": InputSpec(2, 8, 8, 5, (0.5, 0.5), (0.5, 0.5))}, 'images have 2: give "npy"'),
        ({"images": FEW}, "iterations are for images that are made now"),
        ({"images": FEW, "iterations": None}, "num_images is 12, and there are 5 images"),
        ({"images": Images(torch.randn(12, 3, 4, 4), torch.arange(12) % 5), "iterations": None}, r"\[N, 3, 8, 8\]"),
    ],
)
def test_refusals_leave_nothing(make: Make, tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changed)
    assert not list(tmp_path.iterdir())


def test_pixels_as_they_are_is_a_normalisation_if_it_is_named(make: Make) -> None:
    assert make(spec=InputSpec(3, 8, 8, 5), normalization="none").manifest["normalization"]["std"] == [1.0] * 3


def test_a_folder_that_is_there_is_left_alone(make: Make, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine").write_text("mine")
    with pytest.raises(FileExistsError, match="set is there already: give another folder"):
        make()
    assert [p.name for p in (tmp_path / "set").iterdir()] == ["mine"]
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


DIGITS = ("--model", "digits", "--device", "cpu")


def run(*arguments: object) -> None:
    assert main(["calibration-set", *map(str, arguments)]) == 0


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    run(*DIGITS, "--num-images", 20, "--iterations", 2, "--out", out, "--to", "npz", "--seed", 3)
    shown = capsys.readouterr().out
    assert f"20 images in {out}" in shown
    assert "statistics, bytes: means off by" in shown
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["model"], manifest["seed"], manifest["images_per_class"]) == ("digits", 3, [2] * 10)
    spec = hc.teachers.input_spec("digits")
    made = calibration_set(
        hc.load_teacher("digits"), spec, tmp_path / "again", num_images=20, iterations=2, seed=3, to="npz"
    )
    assert torch.equal(load_images(out / "images.npz", spec=spec).read(range(20)), made.pixels)
    assert main(["calibration-set", *DIGITS, "--out", str(out)]) == 1
    assert "is there already" in capsys.readouterr().err


def test_the_command_on_images_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    network = {"model": "digits", "weights": None, "normalization": None, "image_size": None, "num_classes": None}
    with RunDirectory(folder, {"network": network, "seed": 0}, torch.device("cpu")):
        kept = Images(torch.randn(30, 1, 8, 8), torch.arange(30) % 10)
        ImageStore(folder / "images").save(0, kept)
    run("--run", folder, "--device", "cpu", "--num-images", 20, "--out", tmp_path / "set", "--to", "npy")
    found = np.load(tmp_path / "set" / "images.npy")
    wanted = to_pixels(kept.images[:20], hc.teachers.input_spec("digits"))
    assert np.array_equal(found, wanted.permute(0, 2, 3, 1).numpy())
    assert main(["calibration-set", "--out", str(tmp_path / "other")]) == 1
    assert "no network: give --model, or --run" in capsys.readouterr().err


def example(heading: str) -> str:
    """The code below a heading of the page."""
    found = re.search(rf"^## {heading}\n.*?```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded network, translated once."""
    pytest.importorskip("onnxscript")
    from hast_cuda.exports.verify import plain_onnx

    return plain_onnx(hc.load_teacher("digits"), tmp_path_factory.mktemp("onnx") / "network.onnx", (1, 8, 8))


@pytest.fixture
def network(onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The embedded network, and as network.onnx where the examples look."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(onnx_file, tmp_path / "network.onnx")
    return hc.load_teacher("digits")


def of_digits(to: str, **changed: Any) -> CalibrationSet:
    """A set where the examples look."""
    given = {"num_images": 30, "iterations": 20, **changed}
    return calibration_set(hc.load_teacher("digits"), hc.teachers.input_spec("digits"), "set", to=to, **given)


def agreement(network: Any, run: Callable[[Tensor], Tensor]) -> float:
    pytest.importorskip("sklearn")
    x = Images.read(load_images("digits", spec=hc.teachers.input_spec("digits"), limit=200)).images
    with torch.no_grad():
        return float((network(x).argmax(1) == run(x).argmax(1)).float().mean())


def test_example_of_onnxruntime(network: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    of_digits("onnxruntime")
    exec(example("onnxruntime"), {})
    from hast_cuda.exports.verify import onnx_network

    assert (tmp_path / "network.int8.onnx").stat().st_size > 0
    assert agreement(network, onnx_network(tmp_path / "network.int8.onnx")) > 0.95


def test_example_of_openvino(network: Any, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what they import
        pytest.importorskip("nncf")
        openvino = pytest.importorskip("openvino")
        of_digits("openvino")
        exec(example("OpenVINO, NNCF"), {})
        compiled = openvino.Core().compile_model("network.int8.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert b"FakeQuantize" in (tmp_path / "network.int8.xml").read_bytes()
    assert agreement(network, lambda x: torch.from_numpy(compiled([x.numpy()])[0])) > 0.95
