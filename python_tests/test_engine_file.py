"""The engine's reader of student.hast, sanitized: what it takes."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from emulated.build import CSRC, compiler
from engine.reading import lines
from engine.tiny import Content, Tensors, tiny, write

from hast_cuda.exports.packed_weight import pack, unpack

EXAMPLES = CSRC.parent / "examples"


def test_every_field_arrives(reader: Path, tmp_path: Path) -> None:
    content, tensors = tiny()
    found = lines(reader, "dump", [write(tmp_path / "student.hast", content, tensors)])
    assert found.pop() == "ok"
    classes = [f"class {name}" for name in content["classes"]]
    start = ["input 3 8 8 mean,0.5,0.25,0.125 std,0.25,0.5,1"]
    assert found[:6] == [*start, f"describe {json.dumps(content['describe'])}", "output 10", *classes]
    assert found[6:17] == [
        f"value {v['name']} {' '.join(map(str, v['shape']))} {v.get('bits', 0)} "
        f"{v.get('step', 1):.9g} {v.get('zero_point', 0)}"
        for v in content["values"]
    ]
    for line, expected in zip(found[17:], content["steps"], strict=True):
        assert line == dumped(expected, tensors)


def f32(number: float) -> str:
    return f"{torch.tensor(float(number)).item():.9g}"


def dumped(given: Content, tensors: Tensors) -> str:
    """The line of a step, by the format's description."""
    ops = ["convolution", "convert", "add", "multiply", "max_pool", "average_pool", "concatenate", "gather"]
    kinds = [None, "clip", "leaky_relu", "hard_swish", "hard_sigmoid", "sigmoid", "silu", "tanh"]
    activation = given["activation"] or {"kind": None}
    infinite = activation["kind"] == "clip"
    a = ("-inf" if infinite else "0") if activation.get("a") is None else f32(activation["a"])
    b = ("inf" if infinite else "0") if activation.get("b") is None else f32(activation["b"])
    residual = given.get("residual")
    words = ["step", given["name"], ops.index(given["op"]), -1 if residual is None else residual, given["output"]]
    words += [kinds.index(activation["kind"]), a, b]

    def add(key: str, numbers: Sequence[float]) -> None:
        words.append(",".join([key, *map(f32, numbers)]))

    add("inputs", given["inputs"])
    ones = [1, 1]
    for key, default in (("kernel", ones), ("stride", ones), ("dilation", ones), ("padding", [0] * 4)):
        add(key, given.get(key, default))
    words += ["groups", given.get("groups", 1), "count", int(given.get("count_padding", False))]
    name, bits = given["name"], given.get("bits")
    weights: list[float] = []
    if bits is not None:
        zero = tensors[f"{name}.zero_point"]
        count = 4 * 9 * {1: 3, 2: 2}[given["groups"]]
        codes = unpack(tensors[f"{name}.codes"], bits, count).reshape(4, -1).int()
        weights = (codes - zero[:, None]).flatten().tolist()
    add("weights", weights)
    empty = torch.empty(0)
    for key, part in (("float", "weight"), ("scale", "scale"), ("bias", "bias")):
        add(key, tensors.get(f"{name}.{part}", empty).flatten().tolist())
    add("channels", given.get("channels", []))
    return " ".join(map(str, words))


@pytest.mark.parametrize("bits", range(1, 9))
def test_weights_of_all_bits(reader: Path, tmp_path: Path, bits: int) -> None:
    content, tensors = tiny()
    content["steps"][1]["bits"] = bits
    codes = torch.randint(0, 2**bits, (4, 27), dtype=torch.uint8)
    tensors["layer.conv1.codes"] = pack(codes, bits)
    found = lines(reader, "dump", [write(tmp_path / "student.hast", content, tensors)])
    (line,) = (line for line in found if line.startswith("step layer.conv1 "))
    weights = codes.int() - tensors["layer.conv1.zero_point"][:, None]
    assert f" weights,{','.join(map(str, weights.flatten().tolist()))} float " in line


def test_names_of_any_script(reader: Path, tmp_path: Path) -> None:
    """The checksum has names escaped, and in the order of their code points."""
    content, tensors = tiny()
    for old, new in (("layer.conv1", '\uffee"\\/ä'), ("layer.conv2", "😀\u2028"), ("fc", "ffi")):
        (changed,) = (found for found in content["steps"] if found["name"] == old)
        changed["name"] = new
        for name in [name for name in tensors if name.startswith(old + ".")]:
            tensors[new + name.removeprefix(old)] = tensors.pop(name)
    assert lines(reader, "file", [write(tmp_path / "student.hast", content, tensors)]) == ["ok"]


def test_no_classes(reader: Path, tmp_path: Path) -> None:
    content, tensors = tiny()
    content["classes"] = []
    assert lines(reader, "file", [write(tmp_path / "student.hast", content, tensors)]) == ["ok"]


def test_sha256(reader: Path, tmp_path: Path) -> None:
    paths = [tmp_path / str(size) for size in (0, 1, 55, 56, 63, 64, 65, 119, 120, 1000, 9999)]
    for path in paths:
        path.write_bytes(random.Random(path.name).randbytes(int(path.name)))
    expected = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    assert lines(reader, "sha256", paths) == expected


@pytest.mark.parametrize(
    ("source", "flags"),
    [
        (CSRC / "engine" / "hast_engine.h", ["-std=c89"]),
        (CSRC / "engine" / "hast_engine.h", ["-x", "c++", "-std=c++17"]),
        (EXAMPLES / "classify.c", ["-std=c99"]),
    ],
    ids=["C89", "C++", "classify.c"],
)
def test_c_sources(reader: Path, source: Path, flags: list[str]) -> None:
    """The header is C of 1989 and C++; the example is C of 1999."""
    command = [str(compiler()), *(["-x", "c"] if flags[0] != "-x" else []), *flags]
    warnings = ["-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    done = subprocess.run(
        [*command, *warnings, f"-I{CSRC}", "-fsyntax-only", source], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
