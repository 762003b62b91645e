"""Checks of values: the message names the argument or field, the value and what is allowed."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

LARGEST_CLASSES = 2**20
LARGEST_IMAGE = 2**28  # values: a gigabyte in float32
_LARGEST_FLOAT = sys.float_info.max


def check_flag(name: str, value: Any) -> None:
    """``value`` is True or False; the text "False" would count as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_whole(name: str, value: Any) -> None:
    """``value`` is an int."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r} ({type(value).__name__})")


def check_number(name: str, value: Any) -> None:
    """``value`` is a float, or an int that a float can hold; NaN and infinity are."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    if isinstance(value, int) and not -_LARGEST_FLOAT <= value <= _LARGEST_FLOAT:
        raise ValueError(f"{name} is an int of {value.bit_length()} bits, more than a float can hold")


def as_device(value: Any, name: str = "device", *, meta: bool = False, auto: bool = False) -> torch.device:
    """The device that ``value`` means; ValueError unless it is the CPU or a CUDA device here.

    ``auto`` allows "auto" too: a CUDA device where there is one, else the CPU.
    """
    if not isinstance(value, (str, torch.device)):
        raise TypeError(f"{name} must be a torch.device or its name, got {value!r}")
    if auto and value == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(value)
    except RuntimeError as error:
        allowed = "auto, cpu, cuda, cuda:N" if auto else "cpu, cuda, cuda:N"
        raise ValueError(f"{name} is {value!r}; allowed: {allowed}") from error
    if device.type not in ("cpu", "cuda") and not (meta and device.type == "meta"):
        raise ValueError(f"{name} is {str(value)!r}; hast_cuda runs on cpu and cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"{name} is {str(value)!r} but torch sees {torch.cuda.device_count()} CUDA devices")
    return device


def check_positive(name: str, value: float, *, most: float = math.inf) -> None:
    """``value`` is finite, > 0 and at most ``most``: what is beyond has no memory, or no end."""
    check_number(name, value)
    if math.isfinite(value) and value > most:
        raise ValueError(f"{name} is {value}; allowed: at most {most}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}; it must be greater than 0")


def check_range(name: str, value: float, low: float, high: float = math.inf, *, allowed: str = "") -> None:
    """``value`` is finite and in [low, high]; ``allowed`` says so in other words."""
    check_number(name, value)
    if not (math.isfinite(value) and low <= value <= high):
        bound = f"at least {low}" if math.isinf(high) else f"from {low} to {high}"
        raise ValueError(f"{name} is {value}; allowed: {allowed or bound}")


def check_scale(name: str, value: Sequence[float]) -> None:
    """``value`` is a (low, high) pair of fractions."""
    for number in value:
        check_number(name, number)
    if len(value) != 2 or not 0 < value[0] <= value[1] <= 1:
        raise ValueError(f"{name} is {value}; allowed: (low, high) with 0 < low <= high <= 1")


def check_choice(name: str, value: Any, allowed: Sequence[str | None]) -> None:
    """``value`` is one of ``allowed``."""
    if not isinstance(value, (str, type(None))) or value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(repr(a) for a in allowed)}")


def as_path(name: str, value: Path | str) -> Path:
    """A path that the system can be asked for; ValueError if it cannot."""
    if not str(value) or "\0" in str(value):
        why = "it has a null byte" if str(value) else "it is empty"
        raise ValueError(f"{name} is {str(value)!r}, the name of no file or directory: {why}")
    return Path(value)


def check_json(name: str, value: Any) -> None:
    """``value`` can be written as JSON: TypeError for other objects, ValueError for NaN and inf."""
    try:
        json.dumps(value, allow_nan=False)
    except TypeError as error:
        raise TypeError(f"{name} cannot be written as JSON: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} cannot be written as JSON: {error}") from error


def check_image_size(name: str, size: Sequence[int]) -> None:
    """``size`` is (C, H, W) of images that a network can take."""
    for number in size:
        check_whole(name, number)
    if len(size) != 3 or min(size) < 1 or math.prod(size) > LARGEST_IMAGE:
        raise ValueError(
            f"{name} is {tuple(size)}; allowed: (channels, height, width), each at least 1, with "
            f"at most {LARGEST_IMAGE} values together"
        )


def check_images(name: str, images: Tensor) -> None:
    """``images`` are [N, ...], floating point, on a device that has values, and not empty."""
    if images.dim() < 2 or not images.numel() or not images.is_floating_point():
        raise ValueError(
            f"{name} is {list(images.shape)} {images.dtype}; expected normalised images "
            "[N, C, H, W], floating point and not empty"
        )
    if images.is_meta:
        raise ValueError(f"{name} is on the meta device, which has no values")
    if images.layout != torch.strided:
        raise TypeError(f"{name} is a {images.layout} tensor; expected an ordinary dense one")


def check_values(name: str, network: nn.Module) -> None:
    """``network`` has values: it is not on the meta device."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_meta:
            raise ValueError(f"{name} is on the meta device, without values: load its weights first")


def check_trainable(name: str, network: nn.Module) -> None:
    """``network`` has values that training can change."""
    check_values(name, network)
    if any(tensor.is_inference() for tensor in (*network.parameters(), *network.buffers())):
        raise ValueError(f"{name} was made in torch.inference_mode, whose tensors cannot be trained: make it outside")


@contextmanager
def explained_forward(name: str, images: Tensor) -> Iterator[None]:
    """What a network raises at images that it does not take, as a ValueError that names them."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError) as error:  # BatchNorm2d, and a forward of more inputs
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"the network does not take {name}, {list(images.shape)} {images.dtype}: {reason}") from error
