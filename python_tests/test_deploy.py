"""The engine's files where there is no torch: imports, the reader, images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hast_cuda
from hast_cuda.deploy import EngineFile, read_file
from hast_cuda.deploy.images import as_batch, normalised
from hast_cuda.deploy.reference import run, trace
from hast_cuda.files.tensors import save_tensors

_ALONE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocked())
import hast_cuda
import hast_cuda.deploy
from hast_cuda.deploy.reference import run
import numpy as np
assert "quantize" in dir(hast_cuda)
logits = run(hast_cuda.deploy.read_file(sys.argv[1]), np.full((2, 2, 2, 1), 51, np.uint8))
print(logits.tolist())
try:
    hast_cuda.quantize
except ImportError as error:
    print(error)
"""
_BLOCKED = {"torch", "torchvision", "safetensors", "pytorchcv", "tqdm", "filelock", "tyro", "onnx", "onnx_ir"}


def content() -> dict[str, Any]:
    """A linear layer with 2-bit weights on images of 1 x 2 x 2, quantized to 4 bits."""
    fields = {"activation": None, "kernel": [2, 2], "stride": [1, 1], "dilation": [1, 1], "padding": [0] * 4}
    return {
        "input": {"channels": 1, "height": 2, "width": 2, "mean": [0.1], "std": [0.5]},
        "classes": [],
        "describe": {},
        "values": [
            {"name": "images", "shape": [1, 2, 2]},
            {"name": "codes", "shape": [1, 2, 2], "bits": 4, "step": 0.125, "zero_point": 8},
            {"name": "logits", "shape": [2, 1, 1]},
        ],
        "output": 2,
        "steps": [
            {"op": "convert", "name": "quantizer", "inputs": [0], "output": 1, "activation": None},
            {"op": "convolution", "name": "fc", "inputs": [1], "output": 2, "bits": 2, "groups": 1, "residual": None}
            | fields,
        ],
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of :func:`content`, with weights 0, 1, 2, 3 less 1, and 3, 2, 1, 0 less 2."""
    tensors = {
        "fc.codes": torch.tensor([0b11100100, 0b00011011], dtype=torch.uint8),
        "fc.zero_point": torch.tensor([1, 2], dtype=torch.int32),
        "fc.scale": torch.tensor([0.5, 0.25]),
        "fc.bias": torch.tensor([1.0, -1.0]),
    }
    text = json.dumps(content(), sort_keys=True)
    save_tensors(tmp_path / "a.hast", tensors, {"format": "hast_cuda.engine.v1", "content": text}, text=text)
    return tmp_path / "a.hast"


def test_numpy_is_all_that_a_file_needs(path: Path) -> None:
    script = _ALONE.format(blocked=_BLOCKED)
    environment = {**os.environ, "PYTHONPATH": str(Path(hast_cuda.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(path)],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    # (51 / 255 - 0.1) / 0.5 = 0.2, code 8 + 2: 0.25; weights -1, 0, 1, 2 and 1, 0, -1, -2
    logits, refusal = done.stdout.splitlines()
    assert json.loads(logits) == [[1 + 0.5 * 0.25 * 2, -1 + 0.25 * 0.25 * -2]] * 2
    assert refusal == "torch is blocked"


def test_importing_the_package_loads_no_torch() -> None:
    script = "import sys, hast_cuda, hast_cuda.deploy; assert 'torch' not in sys.modules; hast_cuda.methods.available()"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(hast_cuda.__file__).parents[1])


def test_every_public_name_is_found_where_it_lives() -> None:
    assert set(hast_cuda.__all__) <= set(dir(hast_cuda))
    for name in hast_cuda.__all__:
        found = getattr(hast_cuda, name)
        assert found.__module__.startswith("hast_cuda."), name
        assert found.__name__ == ("export_network" if name == "export" else name)
    rooms = {p.parent.name for p in Path(hast_cuda.__file__).parent.glob("*/__init__.py")}
    assert rooms <= set(dir(hast_cuda))
    with pytest.raises(AttributeError, match="module 'hast_cuda' has no attribute 'quantise'"):
        hast_cuda.quantise  # noqa: B018 - it raises


def test_every_value_can_be_looked_at(path: Path) -> None:
    file = read_file(path)
    images = np.array([[[0.3, -2.0], [5.0, 0.0625]]], np.float32)
    values = trace(file, images)
    assert values["codes"].tolist() == [[[[0.25, -1.0], [0.875, 0.0]]]]  # round half to even, clamped
    assert np.array_equal(run(file, images), values["logits"].reshape(1, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "lies from"),
        (lambda data: data[:40], "it has 40 bytes, its header claims"),
        (lambda data: b"", "it has 0 bytes, its header claims 0"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "its checksum does not fit its contents"),
        (lambda data: data.replace(b"engine.v1", b"engine.v2"), "its format is 'hast_cuda.engine.v2'"),
        (lambda data: data.replace(b'"F32"', b'"F16"'), "its header is not one of a safetensors file"),
        (lambda data: data.replace(b"__metadata__", b"__metadatum_"), "its header is not one of a safetensors file"),
        (lambda data: data.replace(b"classes", b"clauses"), "its checksum does not fit its contents"),
    ],
)
def test_damaged_files_are_refused(change: Any, message: str, path: Path) -> None:
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as error:
        read_file(path)
    assert str(path) in str(error.value)


def test_tensors_are_read_as_they_were_written(path: Path) -> None:
    file = read_file(path)
    assert isinstance(file, EngineFile)
    assert file.input_shape == (1, 2, 2)
    assert file.content == content()
    assert file.tensors["fc.zero_point"].tolist() == [1, 2]
    assert file.tensors["fc.scale"].dtype == np.float32


def test_images_of_any_reasonable_form() -> None:
    rgb, grey = (3, 4, 5), (1, 4, 5)
    assert as_batch(np.zeros((2, 4, 5, 3), np.uint8), rgb).shape == (2, 4, 5, 3)
    assert as_batch(np.zeros((4, 5, 3), np.uint8), rgb).shape == (1, 4, 5, 3)
    assert as_batch(np.zeros((4, 5), np.uint8), grey).shape == (1, 4, 5, 1)
    assert as_batch(np.zeros((7, 4, 5), np.uint8), grey).shape == (7, 4, 5, 1)
    assert as_batch(np.zeros((4, 5, 1), np.uint8), grey).shape == (1, 4, 5, 1)
    wide = np.zeros((2, 5, 4, 3)).transpose(0, 3, 2, 1)
    batch = as_batch(wide, rgb)
    assert (batch.shape, batch.dtype) == ((2, 3, 4, 5), np.float32)
    assert batch.flags.c_contiguous
    pixels = np.array([0, 255, 51], np.uint8).reshape(1, 1, 1, 3)
    numbers = normalised(pixels, np.array([0.5, 0.5, 0.0]), np.array([0.5, 0.25, 2.0]))
    assert numbers.reshape(-1).tolist() == pytest.approx([-1, 2, 0.1])


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros((2, 3, 4, 5), np.uint8), ValueError, r"\[2, 3, 4, 5\]; expected pixels .* of \[N, 4, 5, 3\]"),
        (np.zeros((2, 4, 5, 3), np.float32), ValueError, r"expected normalised images .* of \[N, 3, 4, 5\]"),
        (np.zeros((3, 4, 5), np.int64), TypeError, "must be uint8 pixels or normalised floats, got int64"),
        (torch.zeros(1, 3, 4, 5), TypeError, "images must be a numpy array, got Tensor"),
        (np.array(1.0), ValueError, r"images have shape \[\]"),
    ],
)
def test_other_images_are_refused(images: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_batch(images, (3, 4, 5))
