"""Weights and images of strangers: refused with a ValueError, without running or allocating."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import tiny
from PIL import Image
from test_data import SPEC, Payload, image_tree

from hast_cuda.data import folders as image_folders
from hast_cuda.data import load_images
from hast_cuda.data.archives import npz_arrays
from hast_cuda.exports import read_packed
from hast_cuda.files.tensors import DamagedFileError, load_tensors
from hast_cuda.synthesis import ImageStore
from hast_cuda.teachers import input_spec
from hast_cuda.teachers.weights import load_weights

ROOM = 2**29  # bytes that reading a hostile file may take, at most


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    """What allocates wildly fails here, and would be no ValueError of the right message."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    assert not Payload.executed


def safetensors(header: Any, data: bytes = b"", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + data


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


SAFETENSORS = {
    "empty": b"",
    "header of 2^62 bytes": safetensors({}, size=2**62),
    "header of 90 MB that is not there": safetensors({}, size=90_000_000),
    "deep": safetensors(b"[" * 200_000),
    "no UTF-8": safetensors(b"\xff\xfe\x00"),
    "list": safetensors([]),
    "2^40 elements": safetensors({"x": entry("F32", [2**40], 0, 2**42)}, bytes(16)),
    "product overflows": safetensors({"x": entry("F32", [2**33, 2**33], 0, 16)}, bytes(16)),
    "negative shape": safetensors({"x": entry("F32", [-4], 0, 16)}, bytes(16)),
    "ends before it starts": safetensors({"x": entry("F32", [4], 16, 0)}, bytes(16)),
    "overlapping": safetensors({"x": entry("F32", [4], 0, 16), "y": entry("F32", [4], 8, 24)}, bytes(24)),
    "unknown dtype": safetensors({"x": entry("F33", [4], 0, 16)}, bytes(16)),
    "metadata of numbers": safetensors({"__metadata__": {"a": 1}}),
}


@pytest.mark.parametrize("name", list(SAFETENSORS))
def test_safetensors(tmp_path: Path, name: str) -> None:
    (tmp_path / "batch_00000.safetensors").write_bytes(SAFETENSORS[name])
    path = tmp_path / "batch_00000.safetensors"
    with pytest.raises(DamagedFileError):
        load_tensors(path)
    with pytest.raises(ValueError, match=r"weights=.*is not a safetensors file"):
        load_weights(tiny(), path)
    with pytest.raises(ValueError, match=r"shard .* is corrupt .*delete it"):
        ImageStore(tmp_path).load(0)
    with pytest.raises(ValueError, match=r"is damaged or not an export|has format None"):
        read_packed(path)


def zipped(pickled: bytes, compression: int = zipfile.ZIP_STORED, **records: bytes) -> bytes:
    """A torch file with a pickle of one's own."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
        for name, content in records.items():
            archive.writestr(f"archive/data/{name}", content)
    return buffer.getvalue()


def legacy(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


class Bytes:
    """Asks for 2^40 bytes when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return bytearray, (2**40,)


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def shared(depth: int) -> object:
    """A tuple that is small in memory and endless when written out."""
    value: object = ("x",)
    for _ in range(depth):
        value = [value, value]
    return value


def large_storage() -> bytes:
    """The old format, claiming 2^33 numbers for a tensor of 77."""
    content = legacy({"w": torch.zeros(77)})
    claim = b"X\x03\x00\x00\x00cpu"
    assert content.count(claim) == 1
    before, after = content.split(claim)
    at = after.index(b"K\x4d")  # BININT1 77
    return before + claim + after[:at] + b"\x8a\x05" + (2**33).to_bytes(5, "little") + after[at + 2 :]


TORCH: dict[str, tuple[Callable[[], bytes], str]] = {
    "code": (lambda: saved({"w": Payload()}), "holds Python objects"),
    "code, old format": (lambda: legacy({"w": Payload()}), "holds Python objects"),
    "code beside weights": (
        lambda: saved({"state_dict": tiny().state_dict(), "args": Payload()}),
        "only unpickling could read.*refused.*save_file",
    ),
    "a whole network": (lambda: saved(tiny()), "only unpickling could read"),
    "a list": (lambda: saved([torch.zeros(1)]), "holds a list"),
    "nothing in it": (lambda: saved({}), "it is empty"),
    "a checkpoint": (lambda: saved({"model": {}, "epoch": 3}), "not tensors: model, epoch"),
    "no bytes": (lambda: b"", "is not a"),
    "plain pickle of code": (lambda: pickle.dumps(Payload()), "Python objects|not a torch"),
    "bytearray": (lambda: zipped(pickle.dumps(Bytes(), 2)), "bytearray"),
    "bytearray, no zip": (lambda: pickle.dumps(Bytes(), 2), "bytearray"),
    "2^33 numbers": (large_storage, "asks for 8589934592 numbers"),
    "zip bomb": (
        lambda: zipped(pickle.dumps({}, 2), zipfile.ZIP_DEFLATED, **{"0": bytes(2**28)}),
        "compressed, which torch never writes",
    ),
    "zip in a zip": (lambda: zipped(zipped(saved({"w": torch.ones(2)}))), "not a torch|objects"),
    "an escape that is none": (lambda: zipped(b"S'\\q'\n."), "not a torch|objects"),
    "cut": (lambda: saved({"w": torch.ones(2000)})[:3000], "not a torch state dict"),
    "endless value": (lambda: saved({"w": shared(60)}), "not tensors: w"),
    "numbers as names": (lambda: saved({3: torch.ones(2)}), "keys are: int"),
    "sparse": (lambda: saved({"w": torch.ones(2, 2).to_sparse()}), "dense tensors"),
    "meta": (lambda: saved({"w": torch.empty(2**40, device="meta")}), "dense tensors|not a torch"),
    "2^40 of one number": (
        lambda: saved(tiny().state_dict() | {"output.bias": torch.zeros(1).expand(2**40)}),
        "of another shape: output.bias",
    ),
    "whole numbers": (
        lambda: saved(tiny().state_dict() | {"output.bias": torch.zeros(5, dtype=torch.int64)}),
        "another type of numbers: output.bias",
    ),
    "long names": (lambda: saved(OrderedDict({"x" * 10**6: torch.ones(1)})), "unexpected"),
}


@pytest.mark.parametrize("name", list(TORCH))
def test_torch_files(tmp_path: Path, name: str) -> None:
    make, message = TORCH[name]
    (tmp_path / "w.pth").write_bytes(make())
    with pytest.raises(ValueError, match=f"(?s)weights=.*w.pth.*({message})") as caught:
        load_weights(tiny(), tmp_path / "w.pth")
    assert len(str(caught.value)) < 3000


def test_the_old_format_is_still_read(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(legacy(tiny().state_dict()))
    load_weights(tiny(), tmp_path / "w.pth")


def npy(shape: str, data: bytes = b"", descr: str = "|u1") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def npz(images: bytes, compression: int = zipfile.ZIP_STORED, **more: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("images.npy", images)
        archive.writestr("labels.npy", npy("(2,)", bytes(2)))
        for name, content in more.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def with_method(number: int) -> bytes:
    """Images that claim to be compressed in another way."""
    content = bytearray(npz(npy("(2, 4, 4, 3)", bytes(96))))
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(signature) + offset] = number
    return bytes(content)


def with_dictionary(size: int) -> bytes:
    """Images packed by LZMA, whose header asks for so much memory."""
    content = bytearray(npz(npy("(2, 4, 4, 3)", bytes(96)), zipfile.ZIP_LZMA))
    start = 30 + len("images.npy") + 5
    content[start : start + 4] = size.to_bytes(4, "little")
    return bytes(content)


def bomb() -> bytes:
    """100 MB of zeros in 100 kB."""
    return npz(npy("(2, 4096, 4096, 3)", bytes(2 * 4096 * 4096 * 3)), zipfile.ZIP_DEFLATED)


OBJECTS = io.BytesIO()
np.save(OBJECTS, np.array([Payload()]), allow_pickle=True)
NPZ: dict[str, tuple[Callable[[], bytes], str]] = {
    "objects": (lambda: npz(OBJECTS.getvalue()), "allow_pickle=False refuses"),
    "2^40 images": (lambda: npz(npy("(1099511627776, 4, 4, 3)", bytes(96))), "claims .*holds 96"),
    "negative": (lambda: npz(npy("(-1, 4, 4, 3)", bytes(96))), "claims"),
    "bomb": (bomb, "as no photographs do"),
    "header of code": (lambda: npz(npy("__import__('os').getpid()")), "not a usable"),
    "header of 60 kB": (lambda: npz(npy("(" + "1," * 30_000 + ")")), "not a usable"),
    "deep header": (lambda: npz(npy("(" * 3000 + ")" * 3000)), "not a usable"),
    "floats": (lambda: npz(npy("(2, 4, 4, 3)", bytes(768), "<f8")), "images are float64"),
    "cut": (lambda: npz(npy("(2, 4, 4, 3)", bytes(96)))[:-40], "not a usable"),
    "unknown method": (lambda: with_method(99), "not a usable"),
    "greedy dictionary": (lambda: with_dictionary(2**32 - 1), "wants a dictionary of 4294967295"),
}


@pytest.mark.parametrize("name", list(NPZ))
def test_npz(tmp_path: Path, name: str) -> None:
    make, message = NPZ[name]
    (tmp_path / "set.npz").write_bytes(make())
    with pytest.raises(ValueError, match=rf"(?s)data=.*set.npz.*{message}"):
        load_images(tmp_path / "set.npz", spec=SPEC)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_npz_of_every_compression(tmp_path: Path, compression: int) -> None:
    (tmp_path / "set.npz").write_bytes(npz(npy("(2, 4, 4, 3)", bytes(range(96))), compression))
    with np.load(tmp_path / "set.npz") as archive:
        assert np.array_equal(archive["images"].ravel(), np.arange(96))
    pixels, labels = npz_arrays(tmp_path / "set.npz")
    assert torch.equal(pixels.permute(0, 2, 3, 1).flatten(), torch.arange(96, dtype=torch.uint8))
    assert labels.tolist() == [0, 0]


def test_npz_extracts_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    content = npz(npy("(2, 4, 4, 3)", bytes(96)), **{"../out.npy": b"x", "/etc/out.npy": b"x"})
    (tmp_path / "in" / "set.npz").write_bytes(content)
    assert len(load_images(tmp_path / "in" / "set.npz", spec=SPEC)) == 2
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "set.npz"]


def test_npz_over_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hast_cuda.data.archives.LARGEST", 95)
    (tmp_path / "set.npz").write_bytes(npz(npy("(2, 4, 4, 3)", bytes(96))))
    with pytest.raises(ValueError, match="images has 96 bytes, more than the 95"):
        load_images(tmp_path / "set.npz", spec=SPEC)


def test_cifar_folders(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ValueError, match=r"differs from the published files \(MD5\)"):
        load_images(folder, spec=input_spec("resnet20_cifar10"))
    os.mkfifo(folder / "data_batch_1")  # to read it would never end
    with pytest.raises(ValueError, match="data_batch_1 is none of the published files"):
        load_images(folder, spec=input_spec("resnet20_cifar10"))


def broken_images() -> dict[str, tuple[bytes, str]]:
    png, ppm = io.BytesIO(), b"P6 200000 200000 255\n"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(png, "PNG")
    whole = png.getvalue()
    return {
        "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n", "cannot identify"),
        "cut": (whole[: len(whole) // 2], "image file is truncated|broken"),
        "no data": (whole[:40], ""),
        "bomb": (ppm, "decompression bomb"),
        "80 million pixels": (b"P6 8001 10000 255\n", "more than 80000000 in all"),
        "text": (b"<script>", "cannot identify"),
    }


@pytest.mark.parametrize("name", list(broken_images()))
def test_images(tmp_path: Path, name: str) -> None:
    content, message = broken_images()[name]
    (image_tree(tmp_path, ["0"]) / "0" / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=rf"0/a\.png is not a readable image .*{message}"):
        next(load_images(tmp_path, spec=SPEC).batches(1))


def test_folders_of_links(tmp_path: Path) -> None:
    outside = image_tree(tmp_path / "outside", ["0"]) / "0" / "a.png"
    root = image_tree(tmp_path / "root", ["0"])
    (root / "0" / "b.png").symlink_to(root / "0" / "a.png")
    assert len(load_images(root, spec=SPEC)) == 2  # it stays inside
    (root / "0" / "c.png").symlink_to(outside)
    with pytest.raises(ValueError, match=r"c\.png is a link to .*outside of"):
        load_images(root, spec=SPEC)
    (root / "0" / "c.png").unlink()
    os.mkfifo(root / "0" / "d.png")
    with pytest.raises(ValueError, match=r"d\.png is not a file"):
        load_images(root, spec=SPEC)
    image_tree(tmp_path / "large", ["9" * 200])
    with pytest.raises(ValueError, match="has a folder for label 999"):
        load_images(tmp_path / "large", spec=SPEC)


def test_only_picture_formats_are_decoded() -> None:
    assert not {"EPS", "WMF", "FITS", "GBR"} & set(image_folders._FORMATS)
