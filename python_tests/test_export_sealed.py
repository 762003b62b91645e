"""Damaged packed files, and files with a fitting checksum whose contents are wrong."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exporting import student_of
from networks import tiny
from safetensors.torch import save_file
from torch import Tensor

from hast_cuda.exports import load_packed, read_packed, save_packed
from hast_cuda.exports.packed import FORMAT, write_packed
from hast_cuda.files.tensors import digest


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A packed network as bytes."""
    path = tmp_path_factory.mktemp("packed") / "p"
    torch.manual_seed(3)
    save_packed(student_of(tiny(), 3, 4, placement="all"), path)
    load_packed(path, tiny())
    return path.read_bytes()


def refused(data: bytes, path: Path, message: str = "") -> None:
    """Both readers say what file it is."""
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{path.name} .*{message}"):
        read_packed(path)
    with pytest.raises(ValueError, match=f"{path.name} .*{message}"):
        load_packed(path, tiny())


OF_FORMAT = b'{"__metadata__": {"format": "' + FORMAT.encode() + b'", "content": "'


@pytest.mark.parametrize(
    "header",
    [
        b"{}",
        b'{"__metadata__": []}',
        OF_FORMAT[:-14] + b"}}",
        OF_FORMAT + b"[" * 100_000 + b'", "sha256": ""}}',
        OF_FORMAT + b'{}", "sha256": "0"}, '
        b'"a": {"dtype": "U8", "shape": [99999999999], "data_offsets": [0, 99999999999]}}',
    ],
)
def test_absurd_headers(header: bytes, tmp_path: Path) -> None:
    """Beside those of test_hostile_files.py, which no safetensors file may have."""
    refused(struct.pack("<Q", len(header)) + header, tmp_path / "p")


def test_other_formats_are_named(intact: bytes, tmp_path: Path) -> None:
    refused(intact.replace(FORMAT.encode(), b"hast_cuda.packed.v2"), tmp_path / "p", "packed.v2")
    save_file(tiny().state_dict(), tmp_path / "weights", {"format": "pt"})
    refused((tmp_path / "weights").read_bytes(), tmp_path / "p", "'pt'")
    save_file(tiny().state_dict(), tmp_path / "weights")
    refused((tmp_path / "weights").read_bytes(), tmp_path / "p", "has format None")


def test_the_checksum_can_be_computed_from_its_description(intact: bytes, tmp_path: Path) -> None:
    size = int.from_bytes(intact[:8], "little")
    header = json.loads(intact[8 : 8 + size])
    metadata = header["__metadata__"]
    (tmp_path / "p").write_bytes(intact)
    tensors, content = read_packed(tmp_path / "p")
    assert metadata["sha256"] == digest(metadata["content"], tensors)
    assert content == json.loads(metadata["content"])
    bent = dict(tensors)
    bent["output.range"] = bent["output.range"].reshape(-1)  # the same bytes, another shape
    assert digest(metadata["content"], bent) != metadata["sha256"]


def _set(name: str, change: Callable[[Tensor], Tensor]) -> Callable[..., None]:
    def edit(tensors: dict[str, Tensor], content: dict[str, Any]) -> None:
        tensors[name] = change(tensors[name])

    return edit


def _spoil(value: float, index: int = 0) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor.flatten()[index] = value
        return tensor

    return change


def _record(name: str, **entries: Any) -> Callable[..., None]:
    def edit(tensors: dict[str, Tensor], content: dict[str, Any]) -> None:
        content["layers"][name] |= entries

    return edit


def _behind_the_last(tensor: Tensor) -> Tensor:
    return torch.cat([tensor[:-1], tensor[-1:] | 0x80])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t, c: t.pop("output.qweight"), r"'output\.qweight' is missing"),
        (lambda t, c: t.pop("output.input_quantizer.lower"), r"range of 'output.input_quantizer'"),
        (lambda t, c: t.pop("output.bias"), r"missing: 'output\.bias'"),
        (lambda t, c: t.update(more=torch.ones(1)), r"unexpected: 'more'"),
        (_set("output.scale", _spoil(torch.nan)), "NaN"),
        (_set("output.range", _spoil(torch.inf)), "infinity"),
        (_set("output.range", _spoil(1e3)), "lower > upper"),
        (_set("output.range", _spoil(-1e3)), "do not fit its range"),
        (_set("output.scale", _spoil(7.0)), "do not fit its range"),
        (_set("output.zero_point", _spoil(99)), "do not fit its range"),
        (_set("output.scale", lambda t: t.double()), "expected torch.float32"),
        (_set("output.qweight", lambda t: t[:-1].clone()), r"'output\.qweight' is torch.uint8"),
        (_set("features.0.qweight", lambda t: t.to(torch.int8)), "expected torch.uint8"),
        (_set("features.0.qweight", _behind_the_last), "behind its last value"),
        (lambda t, c: t.update({"output.lookup": torch.ones(5, 8)}), "not on the grid"),
        (lambda t, c: t.update({"output.lookup": torch.ones(5, 4)}), r"'output\.lookup' is"),
        (_set("output.input_quantizer.upper", lambda t: t - 99), "must not exceed"),
        (_set("output.input_quantizer.upper", lambda t: t * torch.nan), "NaN"),
        (_set("output.input_quantizer.upper", lambda t: t.reshape(1)), "not a pair of numbers"),
        (_set("output.input_quantizer.upper", lambda t: t.half()), "float16; expected float32"),
        (_record("output", bits=9), "'output' is not one.*bits is 9"),
        (_record("output", bits=True), "bits must be an int"),
        (_record("output", bits=4, stored_as="features.0"), "of the same bits, shape"),
        (_record("output", bits=4), r"'output\.qweight' is"),
        (_record("output", shape=[5, 9]), r"'output' is \[5, 8\].*\[5, 9\]"),
        (_record("output", shape=[2**62, 0]), r"'output' is \[5, 8\]"),
        (_record("output", shape=[-5, -8]), "shape is"),
        (_record("output", dtype="float8"), "dtype is 'float8'"),
        (_record("output", dtype="float64"), r"expected torch.float64"),
        (_record("output", kind="Conv9d"), "kind is 'Conv9d'"),
        (_record("output", kind="Conv2d"), "is a Linear, in the file a Conv2d"),
        (_record("output", stored_as="nobody"), "'nobody', which is no layer"),
        (_record("output", stored_as=3), "stored_as is 3"),
        (_record("output", colour="red"), "colour"),
        (_record("output", input={"bits": 4}), "'output' is not one"),
        (lambda t, c: c.pop("layers"), "'layers'"),
        (lambda t, c: c.update(layers=[1]), "not one of a quantized module"),
        (lambda t, c: c.update(aliases={"a": "b"}), "aliases"),
        (lambda t, c: c.update(aliases={"output.weight": "output.bias"}), "unexpected"),
        (lambda t, c: c.update(activations={"features.0": 3}), "'features.0' is not one"),
    ],
)
def test_contents_are_checked_behind_a_fitting_checksum(
    edit: Callable[..., None], message: str, intact: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "p"
    path.write_bytes(intact)
    tensors, content = read_packed(path)
    edit(tensors, content)
    write_packed(path, tensors, content)
    read_packed(path)
    with pytest.raises(ValueError, match=f"(?s)does not fit this TinyNet: .*{message}"):
        load_packed(path, tiny())


def test_a_failed_write_leaves_the_old_file(intact: bytes, tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_bytes(intact)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_packed(path, {}, {"a": float("nan")})
    assert path.read_bytes() == intact
    assert list(tmp_path.iterdir()) == [path]
