"""The engine's reader of student.hast, sanitized: what it takes, and how it refuses all else."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from emulated import sanitizer
from emulated.build import CSRC, compiler
from engine.build import HERE, READER, compile_program
from engine.tiny import FORMAT, Content, Tensors, convolution, step, tiny, value, write
from gates import cannot_run

from hast_cuda.exports.packed_weight import pack, unpack
from hast_cuda.files.tensors import digest

EXAMPLES = CSRC.parent / "examples"
# Allocations are in proportion to the file: a sanitizer's report for one of a gigabyte.
LIMITS = {"ASAN_OPTIONS": "max_allocation_size_mb=256", "UBSAN_OPTIONS": "print_stacktrace=1"}
Change = Callable[[Content, Tensors], None]


@pytest.fixture(scope="session")
def program(objects: Path) -> Path:
    """The reader with every check of the sanitizers."""
    if compiler() is None or sanitizer.preloaded() is None:
        cannot_run("there is no C++ compiler with AddressSanitizer (libasan)")
    return compile_program(HERE / "read_file.cpp", READER, objects)


def lines(program: Path, mode: str, paths: Sequence[Path]) -> list[str]:
    """What the reader says of each file; it never dies."""
    done = subprocess.run(
        [program, mode, *paths], capture_output=True, check=False, env={**os.environ, **LIMITS}, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode(errors="replace")
    return done.stdout.decode().splitlines()


def said(program: Path, folder: Path, data: bytes, mode: str = "file") -> str:
    (folder / "student.hast").write_bytes(data)
    (line,) = lines(program, mode, [folder / "student.hast"])
    return line


# ---- what it takes ----------------------------------------------------------------------------


def test_every_field_arrives(program: Path, tmp_path: Path) -> None:
    content, tensors = tiny()
    found = lines(program, "dump", [write(tmp_path / "student.hast", content, tensors)])
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
def test_weights_of_all_bits(program: Path, tmp_path: Path, bits: int) -> None:
    content, tensors = tiny()
    content["steps"][1]["bits"] = bits
    codes = torch.randint(0, 2**bits, (4, 27), dtype=torch.uint8)
    tensors["layer.conv1.codes"] = pack(codes, bits)
    found = lines(program, "dump", [write(tmp_path / "student.hast", content, tensors)])
    (line,) = (line for line in found if line.startswith("step layer.conv1 "))
    weights = codes.int() - tensors["layer.conv1.zero_point"][:, None]
    assert f" weights,{','.join(map(str, weights.flatten().tolist()))} float " in line


def test_names_of_any_script(program: Path, tmp_path: Path) -> None:
    """The checksum has names escaped, and in the order of their code points."""
    content, tensors = tiny()
    for old, new in (("layer.conv1", '\uffee"\\/ä'), ("layer.conv2", "😀\u2028"), ("fc", "ffi")):
        (changed,) = (found for found in content["steps"] if found["name"] == old)
        changed["name"] = new
        for name in [name for name in tensors if name.startswith(old + ".")]:
            tensors[new + name.removeprefix(old)] = tensors.pop(name)
    assert lines(program, "file", [write(tmp_path / "student.hast", content, tensors)]) == ["ok"]


def test_no_classes(program: Path, tmp_path: Path) -> None:
    content, tensors = tiny()
    content["classes"] = []
    assert lines(program, "file", [write(tmp_path / "student.hast", content, tensors)]) == ["ok"]


def test_sha256(program: Path, tmp_path: Path) -> None:
    paths = [tmp_path / str(size) for size in (0, 1, 55, 56, 63, 64, 65, 119, 120, 1000, 9999)]
    for path in paths:
        path.write_bytes(random.Random(path.name).randbytes(int(path.name)))
    expected = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    assert lines(program, "sha256", paths) == expected


# ---- what it refuses: the content --------------------------------------------------------------


def at(*keys: Any, to: Any) -> Change:
    """The field of the content behind ``keys`` becomes ``to``."""

    def change(content: Content, tensors: Tensors) -> None:
        found: Any = content
        for key in keys[:-1]:
            found = found[key]
        found[keys[-1]] = to

    return change


def without(*keys: Any) -> Change:
    def change(content: Content, tensors: Tensors) -> None:
        found: Any = content
        for key in keys[:-1]:
            found = found[key]
        del found[keys[-1]]

    return change


def tensor(name: str, to: torch.Tensor | None) -> Change:
    def change(content: Content, tensors: Tensors) -> None:
        if to is None:
            del tensors[name]
        else:
            tensors[name] = to

    return change


def both(*changes: Change) -> Change:
    def change(content: Content, tensors: Tensors) -> None:
        for one in changes:
            one(content, tensors)

    return change


def spoiled(name: str, index: int, number: float) -> Change:
    def change(content: Content, tensors: Tensors) -> None:
        tensors[name].view(-1)[index] = number

    return change


def swapped(i: int, j: int) -> Change:
    def change(content: Content, tensors: Tensors) -> None:
        steps = content["steps"]
        steps[i], steps[j] = steps[j], steps[i]

    return change


def wide_sum(content: Content, tensors: Tensors) -> None:
    """A linear layer of so many inputs that 8-bit codes and weights overflow 32 bits."""
    content["values"] = [
        value("images", 3, 1, 1),
        value("codes", 3, 1, 1, bits=8),
        value("many", 33_026, 1, 1, bits=8),
        value("logits", 3, 1, 1),
    ]
    content["input"].update(height=1, width=1)
    content["steps"] = [
        step("convert", "quantize", [0], 1),
        step("gather", "many", [1], 2, channels=[0] * 33_026, stride=[1, 1]),
        convolution("fc", [2], 3, 1, 8),
    ]
    content["output"] = 3
    for name in [name for name in tensors if not name.startswith("fc.") or name == "fc.weight"]:
        del tensors[name]
    tensors["fc.codes"] = torch.full((3 * 33_026,), 255, dtype=torch.uint8)
    tensors["fc.zero_point"] = torch.tensor([1, 0, 0], dtype=torch.int32)


def same_name(content: Content, tensors: Tensors) -> None:
    content["steps"].insert(2, {**content["steps"][1], "output": len(content["values"])})
    content["values"].append(value("again", 4, 8, 8, bits=4))


CONV1, CONV2, GATHER, POOL, CAT, MEAN, MULTIPLY, ADD, FC = range(1, 10)
LARGE = 2**30
REFUSED: dict[str, tuple[Change, str]] = {
    # the document
    "unknown field": (at("extra", to=1), "content: there is a field 'extra', which this version does not know"),
    "no describe": (without("describe"), "content: the field 'describe' is missing"),
    "describe is a text": (at("describe", to="x"), "content: 'describe': it is no JSON object"),
    "steps are none": (at("steps", to={}), "content: 'steps': is no JSON array"),
    "no steps": (at("steps", to=[]), "value 'pixels': no step makes it"),
    "input is a list": (at("input", to=[]), "input: it is no JSON object"),
    "unknown field of the input": (at("input", "dtype", to="x"), "input: there is a field 'dtype'"),
    "channels 0": (at("input", "channels", to=0), "input: 'channels': is 0, not from 1 to"),
    "height a text": (at("input", "height", to="8"), "input: 'height': is no integer"),
    "height a bool": (at("input", "height", to=True), "input: 'height': is no integer"),
    "height a fraction": (at("input", "height", to=8.5), "input: 'height': is no integer"),
    "height beyond int64": (at("input", "height", to=2**64), "input: 'height': is no integer"),
    "two means": (at("input", "mean", to=[0, 0]), "input: it has 3 channels, 2 means and 3 standard deviations"),
    "std 0": (at("input", "std", to=[1, 0, 1]), "input: a standard deviation is not above 0"),
    "std negative": (at("input", "std", to=[1, -1, 1]), "input: a standard deviation is not above 0"),
    "std denormal": (at("input", "std", to=[1, 1e-40, 1]), "input: a standard deviation is not above 0, or denormal"),
    "std infinite": (at("input", "std", to=[1, 1e39, 1]), "input: 'std': an element: is beyond float32"),
    "mean a text": (at("input", "mean", to=[1, "x", 1]), "input: 'mean': an element: is no number"),
    "mean null": (at("input", "mean", to=None), "input: 'mean': is no JSON array"),
    "a class too many": (at("classes", to=["a"] * 4), "output 'logits': it has 3 channels, there are 4 classes"),
    "a class of two lines": (at("classes", 1, to="a\nb"), r"class 1: 'a\?b' has control characters"),
    "a class of a number": (at("classes", 2, to=2), "class 2: its name is no text"),
    "output none": (at("output", to=11), "content: 'output': is 11, not from 0 to 10"),
    "output negative": (at("output", to=-1), "content: 'output': is -1, not from 0"),
    "output is the images": (at("output", to=0), "output 'images': these are the images"),
    "output codes": (
        both(at("values", 10, to=value("logits", 3, 1, 1, bits=8))),
        "output 'logits': it has bits: logits are float32",
    ),
    "output a map": (at("output", to=9), r"output 'sum': it has shape \[10, 4, 4\], logits have \[classes, 1, 1\]"),
    # values
    "no values": (at("values", to=[]), "content: there are no values"),
    "images of another shape": (
        at("values", 0, "shape", to=[3, 8, 9]),
        "value 'images': as the first it has the shape of the input",
    ),
    "images of codes": (
        at("values", 0, to=value("images", 3, 8, 8, bits=8)),
        "value 'images': as the first, the images, it has no bits",
    ),
    "a value without name": (without("values", 3, "name"), "value 3: the field 'name' is missing"),
    "an empty name": (at("values", 3, "name", to=""), "value 3: 'name': is no text, or an empty one"),
    "a name of two lines": (at("values", 3, "name", to="a\x7f"), r"value 3: 'name': 'a\?' has control characters"),
    "a field of a value": (at("values", 3, "dtype", to=1), "value 'second': there is a field 'dtype'"),
    "two sizes": (at("values", 3, "shape", to=[4, 8]), "value 'second': 'shape' has 2 numbers instead of 3"),
    "size 0": (at("values", 3, "shape", to=[4, 0, 8]), "value 'second': 'shape': an element: is 0, not from 1"),
    "size 2^31": (at("values", 3, "shape", to=[2**31, 1, 1]), "value 'second': 'shape': an element: is 2147483648"),
    "map too large": (
        at("values", 3, "shape", to=[LARGE, LARGE, LARGE]),
        "value 'second': its map of one image takes more than 4 GiB",
    ),
    "maps too large": (
        at("values", 3, "shape", to=[LARGE, 1, 1]),
        "value 'second': the maps of one image up to here take more than 4 GiB",
    ),
    "bits 0": (at("values", 2, "bits", to=0), "value 'first': 'bits': is 0, not from 1 to 8"),
    "bits 9": (at("values", 2, "bits", to=9), "value 'first': 'bits': is 9, not from 1 to 8"),
    "bits null": (at("values", 2, "bits", to=None), "value 'first': 'bits': is no integer"),
    "no bits but a step": (without("values", 2, "bits"), "value 'first': the field 'bits' is missing"),
    "no zero point": (without("values", 2, "zero_point"), "value 'first': the field 'zero_point' is missing"),
    "step 0": (at("values", 2, "step", to=0), "value 'first': its step is not above 0"),
    "step negative": (at("values", 2, "step", to=-0.5), "value 'first': its step is not above 0"),
    "step denormal": (at("values", 2, "step", to=1e-39), "value 'first': its step is not above 0, or denormal"),
    "step infinite": (at("values", 2, "step", to=1e40), "value 'first': 'step': is beyond float32"),
    "step too large": (at("values", 2, "step", to=1e38), "value 'first': its grid reaches beyond float32"),
    "zero point far": (at("values", 2, "zero_point", to=2**24 + 1), "value 'first': 'zero_point': is 16777217"),
    "a value nobody makes": (
        lambda content, _: content["values"].append(value("idle", 1, 1, 1)),
        "value 'idle': no step makes it",
    ),
    # steps
    "a step of null": (at("steps", 3, to=None), "step 3: it is no JSON object"),
    "a step without name": (without("steps", 3, "name"), "step 3: the field 'name' is missing"),
    "op unknown": (
        at("steps", POOL, "op", to="min_pool"),
        "step 'pool': 'op' is 'min_pool', none of convolution, convert, add, multiply, max_pool, average_pool, conc",
    ),
    "a field of another op": (at("steps", POOL, "groups", to=1), "step 'pool': there is a field 'groups'"),
    "no activation field": (without("steps", ADD, "activation"), "step 'plus': the field 'activation' is missing"),
    "input none": (at("steps", ADD, "inputs", to=[8, 11]), "step 'plus': 'inputs': an element: is 11, not from 0 to"),
    "input negative": (at("steps", ADD, "inputs", to=[-1, 6]), "step 'plus': 'inputs': an element: is -1"),
    "input is the output": (at("steps", ADD, "inputs", to=[9, 6]), "step 'plus': its input 'sum' is made by no step"),
    "before it is made": (swapped(CONV1, CONV2), "step 'layer.conv2': its input 'first' is made by no step before it"),
    "made twice": (
        lambda content, _: content["steps"].append(step("convert", "again", [3], 3)),
        "step 'again': its output 'second' was made before: a value is made once",
    ),
    "the images made": (
        lambda content, _: content["steps"].append(step("convert", "again", [1], 0)),
        "step 'again': its output 'images' was made before",
    ),
    "output of a step none": (at("steps", ADD, "output", to=99), "step 'plus': 'output': is 99, not from 0 to 10"),
    # activations
    "kind unknown": (
        at("steps", ADD, "activation", to={"kind": "gelu"}),
        "step 'plus': activation: 'kind' is 'gelu', none of clip, leaky_relu, hard_swish",
    ),
    "activation a text": (at("steps", ADD, "activation", to="silu"), "step 'plus': activation: it is no JSON object"),
    "clip without b": (
        at("steps", ADD, "activation", to={"kind": "clip", "a": 0}),
        "step 'plus': activation: the field 'b' is missing",
    ),
    "clip reversed": (
        at("steps", ADD, "activation", to={"kind": "clip", "a": 1, "b": 0.5}),
        "step 'plus': activation: 'a' is larger than 'b'",
    ),
    "leaky_relu without a": (
        at("steps", ADD, "activation", to={"kind": "leaky_relu", "a": None}),
        "step 'plus': activation: 'a': is no number",
    ),
    "hard_sigmoid infinite": (
        at("steps", ADD, "activation", to={"kind": "hard_sigmoid", "a": 1e39, "b": 0}),
        "step 'plus': activation: 'a': is beyond float32",
    ),
    "silu with a": (
        at("steps", ADD, "activation", to={"kind": "silu", "a": 1}),
        "step 'plus': activation: this kind has no 'a'",
    ),
    "activation with c": (
        at("steps", ADD, "activation", to={"kind": "silu", "c": 1}),
        "step 'plus': activation: there is a field 'c'",
    ),
    **{
        f"activation of {name}": (
            at("steps", index, "activation", to={"kind": "tanh"}),
            f"step '{name}': this op has no activation",
        )
        for index, name in ((GATHER, "narrow"), (POOL, "pool"), (CAT, "cat"), (MEAN, "mean"))
    },
    # convolutions
    "two inputs": (at("steps", CONV2, "inputs", to=[2, 2]), "step 'layer.conv2': it has 2 inputs instead of 1"),
    "residual none": (at("steps", CONV2, "residual", to=11), "step 'layer.conv2': 'residual': is 11"),
    "residual later": (
        at("steps", CONV2, "residual", to=4),
        "step 'layer.conv2': its residual 'narrow' is made by no step before it",
    ),
    "residual of another shape": (
        at("steps", CONV2, "residual", to=1),
        r"step 'layer.conv2': its residual 'pixels' has shape \[3, 8, 8\], its output 'second' \[4, 8, 8\]",
    ),
    "kernel 0": (at("steps", CONV1, "kernel", to=[0, 3]), "step 'layer.conv1': 'kernel': an element: is 0"),
    "kernel of one": (at("steps", CONV1, "kernel", to=[3]), "'kernel' has 1 numbers instead of 2"),
    "stride 0": (at("steps", CONV1, "stride", to=[1, 0]), "step 'layer.conv1': 'stride': an element: is 0"),
    "dilation 0": (at("steps", CONV1, "dilation", to=[0, 1]), "step 'layer.conv1': 'dilation': an element: is 0"),
    "padding negative": (at("steps", CONV1, "padding", to=[1, 1, 1, -1]), "'padding': an element: is -1"),
    "kernel too large": (
        at("steps", CONV1, "kernel", to=[11, 3]),
        "step 'layer.conv1': its kernel reaches over 11 rows, its padded input has 10",
    ),
    "dilation too large": (
        at("steps", CONV1, "dilation", to=[1, LARGE]),
        "step 'layer.conv1': its kernel reaches over 2147483649 columns, its padded input has 10",
    ),
    "rows": (
        at("steps", CONV1, "stride", to=[2, 1]),
        "step 'layer.conv1': its output 'first' has 8 rows, its window makes 4 of 8",
    ),
    "columns": (
        at("steps", CONV1, "padding", to=[1, 2, 1, 1]),
        "step 'layer.conv1': its output 'first' has 8 columns, its window makes 9 of 8",
    ),
    "padding too large": (
        at("steps", CONV1, "padding", to=[LARGE, LARGE, LARGE, LARGE]),
        "step 'layer.conv1': its output 'first' has 8 rows, its window makes 2147483654",
    ),
    "padded map too large": (
        both(
            at("steps", CONV1, "padding", to=[LARGE, 1, 7, 1]),
            at("steps", CONV1, "stride", to=[2**27, 1]),
            at("values", 2, "shape", to=[4, 9, 8]),
        ),
        "step 'layer.conv1': its padded input takes more than 4 GiB",
    ),
    "groups 0": (at("steps", CONV2, "groups", to=0), "step 'layer.conv2': 'groups': is 0"),
    "groups 3": (
        at("steps", CONV2, "groups", to=3),
        "step 'layer.conv2': its 3 groups do not divide its 4 input and 4 output channels",
    ),
    "padding off the grid": (
        at("values", 1, "zero_point", to=256),
        "step 'layer.conv1': it pads with zeros, which the grid of its input 'pixels' does not contain",
    ),
    "weight bits 9": (at("steps", CONV1, "bits", to=9), "step 'layer.conv1': 'bits': is 9, not from 1 to 8"),
    "no residual field": (without("steps", CONV1, "residual"), "step 'layer.conv1': the field 'residual' is missing"),
    "float weights on codes": (
        at("steps", CONV2, "bits", to=None),
        "step 'layer.conv2': its float weights read codes, which only those of a depthwise convolution may",
    ),
    # tensors
    "no scale": (tensor("fc.scale", None), "step 'fc': the file has no tensor 'fc.scale'"),
    "no codes": (tensor("layer.conv1.codes", None), "step 'layer.conv1': the file has no tensor 'layer.conv1.codes'"),
    "a name twice": (same_name, "step 'layer.conv1': another convolution has this name"),
    "a tensor too many": (tensor("fc.extra", torch.zeros(1)), "tensor 'fc.extra': no step uses it"),
    "scale too long": (
        tensor("fc.scale", torch.ones(4).double()),
        r"step 'fc': its tensor 'fc.scale' is float64 \[4\] instead of float64 \[3\]",
    ),
    "scale of integers": (
        tensor("fc.scale", torch.ones(3, dtype=torch.int32)),
        r"step 'fc': its tensor 'fc.scale' is int32 \[3\] instead of float64 \[3\]",
    ),
    "scale nan": (spoiled("fc.scale", 1, float("nan")), "step 'fc': its tensor 'fc.scale' has numbers that are not"),
    "bias infinite": (spoiled("fc.bias", 2, float("inf")), "'fc.bias' has numbers that are not finite"),
    "weight infinite": (spoiled("fc.weight", -1, -float("inf")), "'fc.weight' has numbers that are not finite"),
    "weight of another order": (
        lambda _, tensors: tensors.update({"fc.weight": tensors["fc.weight"].permute(0, 2, 3, 1).contiguous()}),
        r"'fc.weight' is float32 \[3, 4, 4, 10\] instead of float32 \[3, 10, 4, 4\]",
    ),
    "codes too short": (
        lambda _, tensors: tensors.update({"layer.conv1.codes": tensors["layer.conv1.codes"][:-1].clone()}),
        r"'layer.conv1.codes' is uint8 \[40\] instead of uint8 \[41\]",
    ),
    "bits behind the codes": (
        spoiled("layer.conv1.codes", -1, 255),
        "step 'layer.conv1': its codes have bits behind the last",
    ),
    "weight 256": (
        spoiled("layer.conv2.zero_point", 2, -256),
        r"step 'layer.conv2': output channel 2 has the weight \d+, not from -255 to 255",
    ),
    "zero point far of a weight": (
        spoiled("layer.conv2.zero_point", 0, -(2**31)),
        r"step 'layer.conv2': output channel 0 has the weight 21474\d+, not from -255 to 255",
    ),
    "sum of 32 bits": (wide_sum, "step 'fc': output channel 1 can sum to more than 32 bits hold"),
    # the other ops
    "convert to another shape": (
        at("values", 1, "shape", to=[3, 8, 4]),
        r"step 'quantize': its input 'images' has shape \[3, 8, 8\], its output 'pixels' \[3, 8, 4\]",
    ),
    "add of one": (at("steps", ADD, "inputs", to=[8]), "step 'plus': it has 1 inputs instead of 2"),
    "add of other shapes": (at("steps", ADD, "inputs", to=[8, 5]), "step 'plus': its second input 'largest' has shape"),
    "add of swapped": (at("steps", MULTIPLY, "inputs", to=[7, 6]), "step 'excite': its first input 'mean' has shape"),
    "pool of other channels": (
        at("values", 5, "shape", to=[3, 4, 4]),
        "step 'pool': it has 4 input and 3 output channels",
    ),
    "pool to another grid": (
        at("values", 5, "zero_point", to=1),
        "step 'pool': the grids of its input 'first' and its output 'largest' differ",
    ),
    "pool to floats": (at("values", 5, to=value("largest", 4, 4, 4)), "step 'pool': the grids of its input 'first'"),
    "pool of padding before": (
        both(at("steps", POOL, "padding", to=[3, 1, 0, 0]), at("values", 5, "shape", to=[4, 5, 4])),
        "step 'pool': one of its windows has nothing but padding",
    ),
    "pool of padding behind": (
        both(at("steps", POOL, "padding", to=[1, 1, 0, 4]), at("values", 5, "shape", to=[4, 4, 6])),
        "step 'pool': one of its windows has nothing but padding",
    ),
    "pool over the input": (
        both(
            at("steps", POOL, "padding", to=[1, 1, 0, 11]),
            at("steps", POOL, "kernel", to=[3, 2]),
            at("steps", POOL, "dilation", to=[1, 9]),
            at("steps", POOL, "stride", to=[2, 3]),
        ),
        "step 'pool': one of its windows has nothing but padding",
    ),
    "average of padding": (
        both(
            at("steps", MEAN, "count_padding", to=False),
            at("steps", MEAN, "padding", to=[4, 0, 0, 0]),
            at("values", 7, "shape", to=[10, 5, 1]),
        ),
        "step 'mean': one of its windows has nothing but padding",
    ),
    "count_padding 1": (at("steps", MEAN, "count_padding", to=1), "'count_padding': is neither true nor false"),
    "average with dilation": (at("steps", MEAN, "dilation", to=[1, 1]), "step 'mean': there is a field 'dilation'"),
    "concatenate none": (at("steps", CAT, "inputs", to=[]), "step 'cat': it has no inputs"),
    "concatenate other maps": (at("steps", CAT, "inputs", to=[4, 3]), "step 'cat': its input 'second' has shape"),
    "concatenate fewer": (
        at("steps", CAT, "inputs", to=[4]),
        "step 'cat': its inputs have 6 channels, its output 'joined' 10",
    ),
    "gather 4 of 4": (at("steps", GATHER, "channels", 0, to=4), "step 'narrow': 'channels': an element: is 4, not"),
    "gather -2": (at("steps", GATHER, "channels", 0, to=-2), "step 'narrow': 'channels': an element: is -2, not from"),
    "gather fewer": (
        at("steps", GATHER, "channels", to=[0, 1]),
        "step 'narrow': it names 2 channels, its output has 6",
    ),
    "gather with another stride": (
        at("steps", GATHER, "stride", to=[2, 3]),
        r"step 'narrow': its output 'narrow' has shape \[6, 4, 4\], its stride makes \[6, 4, 3\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_refused(program: Path, tmp_path: Path, name: str) -> None:
    change, message = REFUSED[name]
    content, tensors = tiny()
    change(content, tensors)
    (line,) = lines(program, "file", [write(tmp_path / "student.hast", content, tensors)])
    assert re.search(message, line), line


# ---- what it refuses: the file -----------------------------------------------------------------


def raw(header: Any, data: bytes = b"", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + data


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def metadata(**entries: Any) -> bytes:
    return raw({"__metadata__": entries})


FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no student.hast, or one cut short: the file has 0 bytes"),
    "seven bytes": (bytes(7), "the file has 7 bytes"),
    "2^62": (raw({}, size=2**62), "the file has 10 bytes, its header claims 4611686018427387904"),
    "2^64 - 1": (raw({}, size=2**64 - 1), "its header claims 18446744073709551615"),
    "17 MB": (raw(b" " * 17_000_000), "the header: it has 17000000 bytes, more than 16777216"),
    "no header": (raw(b""), "no student.hast: the header: no valid JSON at byte 0: a value is missing"),
    "a list": (raw([]), "the header: it is no JSON object"),
    "deep": (raw(b"[" * 200_000), "no valid JSON at byte 65: more than 64 levels"),
    "no UTF-8": (raw(b'"\xff"'), "no valid JSON at byte 1: no valid UTF-8"),
    "entry of a number": (raw({"x": 1}), "tensor 'x': it is no JSON object"),
    "dtype": (raw({"x": entry("F16", [2], 0, 4)}, bytes(4)), "tensor 'x': its dtype is 'F16', not U8, I32, F32 or F64"),
    "negative": (raw({"x": entry("F32", [-1], 0, 4)}, bytes(4)), "tensor 'x': 'shape': an element: is -1"),
    "reversed": (raw({"x": entry("F32", [1], 4, 0)}, bytes(4)), "tensor 'x': its bytes 4 to 0 are not in the file"),
    "outside": (raw({"x": entry("F32", [2], 0, 8)}, bytes(4)), "tensor 'x': its bytes 0 to 8 are not in the file"),
    "overflow": (
        raw({"x": entry("F32", [2**33, 2**33], 0, 16)}, bytes(16)),
        r"tensor 'x': a float32 of shape \[8589934592, 8589934592\] does not have 16 bytes",
    ),
    "overflow to 0": (raw({"x": entry("U8", [2**32, 2**32], 0, 0)}), "does not have 0 bytes"),
    "9 dimensions": (raw({"x": entry("U8", [1] * 9, 0, 1)}, b"x"), "tensor 'x': it has more than 8 dimensions"),
    "three offsets": (
        raw({"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 1]}}, b"x"),
        "tensor 'x': 'data_offsets' has 3 numbers instead of 2",
    ),
    "a field of a tensor": (raw({"x": {**entry("U8", [1], 0, 1), "order": 1}}, b"x"), "there is a field 'order'"),
    "overlapping": (
        raw({"x": entry("U8", [3], 0, 3), "y": entry("U8", [3], 2, 5)}, bytes(5)),
        "the tensors: two overlap",
    ),
    "gap": (
        raw({"x": entry("U8", [3], 0, 3), "y": entry("U8", [3], 4, 7)}, bytes(7)),
        "the tensors: bytes between two are nobody's",
    ),
    "bytes behind": (raw({"x": entry("U8", [3], 0, 3)}, bytes(5)), "the tensors: they end at byte 3 of 5"),
    "metadata of a list": (raw({"__metadata__": []}), "__metadata__: it is no JSON object"),
    "metadata of numbers": (metadata(format=1), "metadata 'format': it is no text"),
    "no metadata": (raw({}), "no student.hast: its metadata has no entry 'format'"),
    "another format": (metadata(format="x" * 300), f"its format is '{'x' * 100}...', this version reads '{FORMAT}'"),
    "a format cut within ä": (metadata(format="x" + "ä" * 50), f"its format is 'x{'ä' * 49}...', this"),
    "no content": (metadata(format=FORMAT), "its metadata has no entry 'content'"),
    "no checksum": (metadata(format=FORMAT, content="{}"), "its metadata has no entry 'sha256'"),
    "wrong checksum": (
        metadata(format=FORMAT, content="{}", sha256="0" * 64),
        "the file is damaged: its checksum does not fit its contents",
    ),
    "unknown metadata": (
        metadata(format=FORMAT, content="{}", sha256=digest("{}", {}), more="x"),
        "metadata: there is an entry 'more'",
    ),
    "content no JSON": (
        metadata(format=FORMAT, content="{,}", sha256=digest("{,}", {})),
        "content: no valid JSON at byte 1: expected a key",
    ),
    "content a list": (metadata(format=FORMAT, content="[]", sha256=digest("[]", {})), "content: it is no JSON object"),
}


@pytest.mark.parametrize("name", list(FILES))
def test_refused_file(program: Path, tmp_path: Path, name: str) -> None:
    data, message = FILES[name]
    line = said(program, tmp_path, data)
    assert re.search(message, line), line


JSON_REFUSED = [
    (b"", "byte 0: a value is missing"),
    (b"{} x", "byte 3: something follows the value"),
    (b"\xef\xbb\xbf{}", "byte 0: a value is missing"),
    (b"nul", "a value is missing"),
    (b"NaN", "a value is missing"),
    (b"-Infinity", "byte 1: a number without digits"),
    (b"01", "a number that begins with 0"),
    (b"1.", "a number without digits"),
    (b".5", "a value is missing"),
    (b"+1", "a value is missing"),
    (b"1e", "a number without digits"),
    (b"1e999", "byte 0: a number beyond double"),
    (b"[1,]", "byte 3: a value is missing"),
    (b"[1 2]", "byte 3: expected ',' or ']'"),
    (b'{"a":1,}', "expected a key"),
    (b"{'a':1}", "expected a key"),
    (b'{"a" 1}', "expected ':'"),
    (b'{"a":1 "b":2}', "expected ',' or '}'"),
    (b'{"a":1,"b":2,"\\u0061":3}', 'has the key "a" twice'),
    (b'"a', "byte 2: a string does not end"),
    (b'"a\n"', "a control character in a string"),
    (b'"\\x"', "an unknown escape"),
    (b'"\\', "an unknown escape"),
    (b'"\\u12g4"', "four hexadecimal digits"),
    (b'"\\ud800"', "half of a surrogate pair"),
    (b'"\\ud800\\u0041"', "half of a surrogate pair"),
    (b'"\\udc00"', "half of a surrogate pair"),
    (b'"\xc0\x80"', "no valid UTF-8"),
    (b'"\xed\xa0\x80"', "no valid UTF-8"),
    (b'"\xf4\x90\x80\x80"', "no valid UTF-8"),
    (b'"\xe2\x82"', "no valid UTF-8"),
    (b'"\xe2', "no valid UTF-8"),
    (b"[" * 66, "more than 64 levels"),
]
JSON_TAKEN = [
    b" [ ] ",
    b"\t{\r\n}",
    b'{"a":[1,-0,0.5e-3,1E+2,true,false,null,-9223372036854775808,9223372036854775808]}',
    b'"\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e4\\uD83D\\uDE00\xf0\x9f\x98\x80"',
    b"1e-999",
    b"[" * 64 + b"]" * 64,
]


def test_json(program: Path, tmp_path: Path) -> None:
    texts = [*JSON_TAKEN, *(text for text, _ in JSON_REFUSED)]
    paths = [tmp_path / str(i) for i in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text)
    found = lines(program, "json", paths)
    assert found[: len(JSON_TAKEN)] == ["ok"] * len(JSON_TAKEN)
    for line, (text, message) in zip(found[len(JSON_TAKEN) :], JSON_REFUSED, strict=True):
        assert line.startswith("no valid JSON at byte "), (text, line)
        assert message in line, (text, line)


# ---- accidents and malice ----------------------------------------------------------------------


def refused(program: Path, folder: Path, contents: Sequence[bytes]) -> list[str]:
    paths = [folder / str(i) for i in range(len(contents))]
    for path, data in zip(paths, contents, strict=True):
        path.write_bytes(data)
    found = lines(program, "file", paths)
    assert len(found) == len(paths)  # a line each
    assert max(map(len, found)) < 500
    return found


def test_cut_short(program: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "student.hast", *tiny()).read_bytes()
    found = refused(program, tmp_path, [data[:size] for size in range(0, len(data), 97)])
    assert len(found) > 50
    assert "ok" not in found


def test_any_byte_changed(program: Path, tmp_path: Path) -> None:
    """No flipped bit stays unseen."""
    whole = write(tmp_path / "student.hast", *tiny()).read_bytes()
    draw, changed = random.Random(0), []
    for _ in range(300):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        changed.append(bytes(data))
    assert "ok" not in refused(program, tmp_path, changed)


def test_bytes_changed_on_purpose(program: Path, tmp_path: Path) -> None:
    """Bytes of the content and of tensors change, and the checksum with them."""
    content, tensors = tiny()
    text = json.dumps(content, sort_keys=True)
    draw, contents = random.Random(1), []
    for _ in range(250):
        characters = list(text)
        for _ in range(draw.randint(1, 3)):
            place = draw.randrange(len(characters))
            characters[place] = draw.choice(["", draw.choice('0123456789{}[],:"-.e'), characters[place] * 2])
        spoilt = {name: tensor.clone() for name, tensor in tensors.items()}
        for name in draw.sample(sorted(spoilt), draw.randint(0, 2)):
            data = spoilt[name].view(torch.uint8).view(-1)
            data[draw.randrange(len(data))] = draw.randrange(256)
        contents.append(write(tmp_path / "student.hast", "".join(characters), spoilt).read_bytes())
    found = refused(program, tmp_path, contents)
    assert not [line for line in found if "checksum" in line]
    assert len(set(found)) > 40  # many rules


NUMBERS = [0, -1, 1, 2, 3, 7, 255, 256, 2**24, 2**30, 2**31 - 1, 2**31, 2**32, 2**63 - 1, -(2**63), 2**64, 0.5, 1e39]


def places(found: Any, *path: Any) -> list[tuple[Any, ...]]:
    """Paths of everything within a JSON value."""
    inner = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    return [path, *(place for key, value in inner for place in places(value, *path, key))]


def test_content_changed_on_purpose(program: Path, tmp_path: Path) -> None:
    """Fields get other numbers and other types, vanish or take one another's places."""
    draw, contents = random.Random(2), []
    for _ in range(400):
        content, tensors = tiny()
        for _ in range(draw.randint(1, 3)):
            *way, key = draw.choice(places(content)[1:])
            parent: Any = content
            for part in way:
                parent = parent[part]
            other: Any = content
            for part in draw.choice(places(content)):
                other = other[part]
            other = json.loads(json.dumps(other))  # not the content within itself
            what = draw.random()
            if what < 0.1:
                del parent[key]
            else:
                parent[key] = draw.choice(NUMBERS) if what < 0.7 else draw.choice([None, True, "", [], {}, other])
        contents.append(write(tmp_path / "student.hast", content, tensors).read_bytes())
    found = refused(program, tmp_path, contents)
    assert not [line for line in found if "checksum" in line]
    assert len(set(found)) > 120  # many rules


# ---- the C API ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "flags"),
    [
        (CSRC / "engine" / "hast_engine.h", ["-std=c89"]),
        (CSRC / "engine" / "hast_engine.h", ["-x", "c++", "-std=c++17"]),
        (EXAMPLES / "classify.c", ["-std=c99"]),
    ],
    ids=["C89", "C++", "classify.c"],
)
def test_c_sources(program: Path, source: Path, flags: list[str]) -> None:
    """The header is C of 1989 and C++; the example is C of 1999."""
    command = [str(compiler()), *(["-x", "c"] if flags[0] != "-x" else []), *flags]
    warnings = ["-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    done = subprocess.run(
        [*command, *warnings, f"-I{CSRC}", "-fsyntax-only", source], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
