"""A student.hast whose content does not fit together is refused, and why."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from engine.changes import Change, at, both, same_name, spoiled, swapped, tensor, wide_sum, without
from engine.reading import lines
from engine.tiny import step, tiny, value, write

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
def test_refused(reader: Path, tmp_path: Path, name: str) -> None:
    change, message = REFUSED[name]
    content, tensors = tiny()
    change(content, tensors)
    (line,) = lines(reader, "file", [write(tmp_path / "student.hast", content, tensors)])
    assert re.search(message, line), line
