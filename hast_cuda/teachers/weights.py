"""Weights files into networks: safetensors or torch state dicts, never unpickled, strict."""

from __future__ import annotations

import argparse
import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_path
from hast_cuda.files.pickles import check_pickles
from hast_cuda.files.tensors import DamagedFileError, load_tensors, restore
from hast_cuda.teachers.checkpoints import counted, first, fitting, misfits, state_dicts


@typed
def load_weights(network: nn.Module, path: Path | str) -> None:
    """Replaces the network's weights by those of a file, strictly.

    Args:
        network: changed in place.
        path: .safetensors, or a torch file with a state dict, bare or under any key ("model", "net",
            "state_dict", ...; an average, "state_dict_ema", goes before what it is of). What
            DataParallel, torch.compile, AveragedModel or Lightning put in front of every name is
            dropped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a weights file, needs unpickling, does not fit the network, or holds several
            state dicts that do.

    Example:
        >>> network = torch.nn.Linear(2, 1)
        >>> torch.save({"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, "weights.pt")
        >>> load_weights(network, "weights.pt")
        >>> network.weight.sum().item()
        2.0
    """
    path = as_path("path", path)
    where, state = fitting(_read(path), network.state_dict(), path)
    load_state(network, state, f"{path}{where}")


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file with one state dict, on the CPU, by key. Raises as ``load_weights``."""
    found = state_dicts(_read(path), path)
    if len(found) > 1:
        raise ValueError(f"weights={path} hold {len(found)} state dicts: {first(found)}")
    return next(iter(found.values()))


def load_state(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Strict load; ``source`` names the tensors' origin in the ValueError on any mismatch."""
    expected: dict[str, Tensor] = network.state_dict()
    wrong = misfits(state, expected)
    if any(wrong.values()):
        found = "; ".join(f"{len(v)} {kind}: {first(v)}" for kind, v in wrong.items() if v)
        sizes = not wrong["missing"] and not wrong["unexpected"]
        model = "check num_classes and the width of the model"
        theirs = "give the model whose state dict this is (weights of torchvision or timm: torchvision:NAME, timm:NAME)"
        fix = model if sizes else theirs
        raise ValueError(f"weights={source} do not fit {type(network).__name__}: {found}. Fix: {fix}")
    mixed = [
        f"{k} (file {state[k].dtype}, network {expected[k].dtype})"
        for k in counted(expected)
        if expected[k].is_floating_point() != state[k].is_floating_point()
    ]
    if mixed:
        raise ValueError(f"weights={source} have another type of numbers: {first(mixed)}")
    floats = {k: v for k, v in state.items() if v.is_floating_point()}
    broken = [k for k, v in floats.items() if not v.float().isfinite().all()]
    if broken:
        raise ValueError(f"weights={source} contain NaN or infinity in {first(broken)}: export them again")
    restore(network, state, strict=False)


def _read(path: Path) -> object:
    if not path.is_file():
        raise FileNotFoundError(f"weights={path} is not a file")
    if path.suffix == ".safetensors":
        try:
            return load_tensors(path)[0]
        except DamagedFileError as error:
            raise ValueError(f"weights={path} is not a safetensors file: {error}") from error
    return _read_torch(path)


def _read_torch(path: Path) -> object:
    try:
        check_pickles(path)
        with warnings.catch_warnings():
            # torch warns of a foreign pickle protocol before it refuses the file.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            warnings.filterwarnings("ignore", "Validating sparse tensor", UserWarning)
            with torch.serialization.safe_globals([argparse.Namespace]):  # options: names and values
                content: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"weights={path} holds Python objects that only unpickling could read, which can run "
            "any code and is refused. Fix: where you trust the file, save the tensors alone with "
            "safetensors.torch.save_file(network.state_dict(), 'weights.safetensors')"
        ) from error
    except (
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        OverflowError,
        MemoryError,
        AssertionError,
        OSError,
        zipfile.BadZipFile,
        struct.error,
    ) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"weights={path} is not a torch state dict ({reason}). Fix: save "
            "network.state_dict() with torch.save or safetensors"
        ) from error
    return content
