"""The steps of a file in plain numpy: an oracle for the engine, slow on purpose.

All is float64, where products of integers are exact, but values without a grid: these are float32, as
in the engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hast_cuda.deploy.file import EngineFile
from hast_cuda.deploy.images import as_batch, normalised

Array = np.ndarray[Any, Any]
Entry = dict[str, Any]


def run(file: EngineFile, images: Array) -> Array:
    """Logits float32 [N, classes] of images as :func:`hast_cuda.deploy.images.as_batch` takes them."""
    values = trace(file, images)
    logits = values[file.content["values"][file.content["output"]]["name"]]
    return logits.reshape(len(logits), -1)


def trace(file: EngineFile, images: Array) -> dict[str, Array]:
    """Every value by its name, as real numbers [N, C, H, W]: float64 on a grid, else float32."""
    content = file.content
    mean, std = (np.asarray(content["input"][key]) for key in ("mean", "std"))
    reals: dict[int, Array] = {0: normalised(as_batch(images, file.input_shape), mean, std)}
    for step in content["steps"]:
        reals[step["output"]] = follow(file, step, reals)
    return {content["values"][index]["name"]: real for index, real in reals.items()}


def follow(file: EngineFile, step: Entry, reals: dict[int, Array]) -> Array:
    """What ``step`` makes of the values before it, by their index."""
    made = _STEPS[step["op"]](file, step, [reals[index] for index in step["inputs"]], reals)
    activated = _activation(step["activation"], made.astype(np.float64))
    entry = file.content["values"][step["output"]]
    if list(activated.shape[1:]) != entry["shape"]:
        raise ValueError(f"step {step['name']!r} makes {activated.shape[1:]}; expected {entry['shape']}")
    return on_grid(activated, entry)


def on_grid(x: Array, entry: Entry) -> Array:
    """The nearest numbers of a value's grid; ``x`` itself where it has none."""
    if "bits" not in entry:
        return x.astype(np.float32)
    step, zero_point = entry["step"], entry["zero_point"]
    codes = np.clip(np.rint(x / step + zero_point), 0, 2 ** entry["bits"] - 1)  # ties as in Eq. 2
    real: Array = step * (codes - zero_point)
    return real


def weights_of(file: EngineFile, step: Entry, channels: int) -> Array:
    """float64 [out, in / groups, rows, columns]: integers, or the floats of a layer without codes."""
    name, bits = step["name"], step["bits"]
    scale = file.tensors[f"{name}.scale"]
    shape = (len(scale), channels // step["groups"], *step["kernel"])
    if bits is None:
        floats: Array = file.tensors[f"{name}.weight"].astype(np.float64)
        return floats.reshape(shape)
    stream = np.unpackbits(file.tensors[f"{name}.codes"], bitorder="little")[: int(np.prod(shape)) * bits]
    codes = (stream.reshape(-1, bits).astype(np.int64) << np.arange(bits)).sum(1).reshape(shape)
    integers: Array = codes - file.tensors[f"{name}.zero_point"].reshape(-1, 1, 1, 1)
    return integers.astype(np.float64)


def windows(x: Array, step: Entry, fill: float) -> Array:
    """[N, C, rows out, columns out, rows of the kernel, columns of the kernel] of a padded map."""
    (top, left, bottom, right), kernel = step["padding"], step["kernel"]
    (down, across), dilation = step["stride"], step.get("dilation", (1, 1))
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    views = np.lib.stride_tricks.sliding_window_view(padded, reach, (2, 3))
    return views[:, :, ::down, ::across, :: dilation[0], :: dilation[1]]


def _convolution(file: EngineFile, step: Entry, inputs: list[Array], reals: dict[int, Array]) -> Array:
    (x,), groups = inputs, step["groups"]
    weights = weights_of(file, step, x.shape[1])
    seen = windows(x.astype(np.float64), step, 0.0)
    images, channels, rows, columns, *kernel = seen.shape
    if groups == channels and len(weights) == channels:
        sums = np.einsum("nchwij,cij->nchw", seen, weights[:, 0])
    else:
        parts = seen.reshape(images, groups, channels // groups, rows, columns, *kernel)
        features = parts.transpose(0, 1, 3, 4, 2, 5, 6).reshape(images, groups, rows * columns, -1)
        matrices = weights.reshape(groups, len(weights) // groups, -1)
        sums = (features @ matrices.transpose(0, 2, 1)).transpose(0, 1, 3, 2)
        sums = sums.reshape(images, len(weights), rows, columns)
    scale, bias = (file.tensors[f"{step['name']}.{part}"].reshape(-1, 1, 1) for part in ("scale", "bias"))
    made: Array = sums * scale + bias
    return made if step["residual"] is None else made + reals[step["residual"]]


def _average_pool(_: EngineFile, step: Entry, inputs: list[Array], __: dict[int, Array]) -> Array:
    x = inputs[0].astype(np.float64)
    sums = windows(x, step, 0.0).sum((4, 5))
    ones = np.ones((1, 1, *x.shape[2:]))
    counts = np.prod(step["kernel"]) if step["count_padding"] else windows(ones, step, 0.0).sum((4, 5))
    made: Array = sums / counts
    return made


def _gather(_: EngineFile, step: Entry, inputs: list[Array], __: dict[int, Array]) -> Array:
    (x,), (down, across) = inputs, step["stride"]
    channels = np.asarray(step["channels"])
    return np.where((channels < 0).reshape(-1, 1, 1), np.float32(0), x[:, channels, ::down, ::across])


def _max_pool(_: EngineFile, step: Entry, inputs: list[Array], __: dict[int, Array]) -> Array:
    made: Array = windows(inputs[0], step, -np.inf).max((4, 5))
    return made


_STEPS: dict[str, Callable[[EngineFile, Entry, list[Array], dict[int, Array]], Array]] = {
    "convolution": _convolution,
    "convert": lambda _, __, inputs, ___: inputs[0],
    "add": lambda _, __, inputs, ___: inputs[0] + inputs[1],
    "multiply": lambda _, __, inputs, ___: inputs[0] * inputs[1],
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "concatenate": lambda _, __, inputs, ___: np.concatenate(inputs, 1),
    "gather": _gather,
}


def _activation(given: Entry | None, x: Array) -> Array:
    if given is None:
        return x
    a, b = (given.get(key) for key in ("a", "b"))
    low, high = -np.inf if a is None else a, np.inf if b is None else b
    made: Array = _FUNCTIONS[given["kind"]](x, low, high)
    return made


def _sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):  # exp of a large number: the sigmoid is 0
        made: Array = 1 / (1 + np.exp(-x))
    return made


_FUNCTIONS: dict[str, Callable[[Array, float, float], Any]] = {
    "clip": np.clip,
    "leaky_relu": lambda x, a, _: np.where(x < 0, a * x, x),
    "hard_swish": lambda x, _, __: x * np.clip(x / 6 + 0.5, 0, 1),
    "hard_sigmoid": lambda x, a, b: np.clip(a * x + b, 0, 1),
    "sigmoid": lambda x, _, __: _sigmoid(x),
    "silu": lambda x, _, __: x * _sigmoid(x),
    "tanh": lambda x, _, __: np.tanh(x),
}
