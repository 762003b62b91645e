"""Weights files into networks: safetensors or torch state dicts, never unpickled, strict."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_path
from hast_cuda.files.pickles import check_pickles
from hast_cuda.files.tensors import DamagedFileError, load_tensors

_LONG = 80  # characters of a name that is no longer told
_SHOWN = 4  # keys listed per kind of mismatch


@typed
def load_weights(network: nn.Module, path: Path | str) -> None:
    """Replaces the network's weights by those of a file, strictly.

    Args:
        network: changed in place.
        path: .safetensors, or a torch file with a state dict, bare or under the key "state_dict";
            a "module." prefix on every key (DataParallel) is dropped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a weights file, needs unpickling, or does not fit the network.

    Example:
        >>> network = torch.nn.Linear(2, 1)
        >>> torch.save({"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, "weights.pt")
        >>> load_weights(network, "weights.pt")
        >>> network.weight.sum().item()
        2.0
    """
    load_state(network, read_state(as_path("path", path)), str(path))


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file on the CPU, by key. Raises as ``load_weights``."""
    if not path.is_file():
        raise FileNotFoundError(f"weights={path} is not a file")
    if path.suffix == ".safetensors":
        try:
            return load_tensors(path)[0]
        except DamagedFileError as error:
            raise ValueError(f"weights={path} is not a safetensors file: {error}") from error
    return _tensors(_read_torch(path), path)


def load_state(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Strict load; ``source`` names the tensors' origin in the ValueError on any mismatch."""
    expected: dict[str, Tensor] = network.state_dict()
    common = {k: (v, expected[k]) for k, v in state.items() if k in expected}
    # Old files lack BatchNorm's update counter, which eval mode never reads.
    counted = [k for k in expected if not k.endswith(".num_batches_tracked")]
    misfits = {
        "missing": [k for k in counted if k not in state],
        "unexpected": [k for k in state if k not in expected],
        "of another shape": [
            f"{k} (file {list(v.shape)}, network {list(x.shape)})" for k, (v, x) in common.items() if v.shape != x.shape
        ],
    }
    if any(misfits.values()):
        found = "; ".join(f"{len(v)} {kind}: {_first(v)}" for kind, v in misfits.items() if v)
        fix = _fix(misfits["missing"], misfits["unexpected"])
        raise ValueError(f"weights={source} do not fit {type(network).__name__}: {found}. Fix: {fix}")
    mixed = [
        f"{k} (file {state[k].dtype}, network {expected[k].dtype})"
        for k in counted
        if expected[k].is_floating_point() != state[k].is_floating_point()
    ]
    if mixed:
        raise ValueError(f"weights={source} have another type of numbers: {_first(mixed)}")
    floats = {k: v for k, v in state.items() if v.is_floating_point()}
    broken = [k for k, v in floats.items() if not v.float().isfinite().all()]
    if broken:
        raise ValueError(f"weights={source} contain NaN or infinity in {_first(broken)}: export them again")
    network.load_state_dict(state, strict=False)


def _fix(missing: list[str], unexpected: list[str]) -> str:
    """What to do about names that do not fit."""
    if not missing:
        if not unexpected:
            return "check num_classes and the width of the model"
        return "save {k: state[k] for k in network.state_dict()}, where what is beyond it has no meaning"
    ends, found = [name.removesuffix(missing[0]) for name in unexpected if name.endswith(missing[0])], set(unexpected)
    for prefix in ends[:_SHOWN]:  # of torch.compile, Lightning, averages, a network inside of another
        if len(prefix) < _LONG and all(f"{prefix}{name}" in found for name in missing):
            return (
                f"every name has {prefix!r} in front; save {{k.removeprefix({prefix!r}): v for k, v in state.items() "
                f"if k.startswith({prefix!r})}}"
            )
    return "give the model whose state dict this is"


def _read_torch(path: Path) -> object:
    try:
        check_pickles(path)
        with warnings.catch_warnings():
            # torch warns of a foreign pickle protocol before it refuses the file.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            warnings.filterwarnings("ignore", "Validating sparse tensor", UserWarning)
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


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ValueError(f"weights={path} holds a {type(content).__name__}; it must hold a state dict")
    # Only texts are shown: nested tuples can share parts and be endless to write out.
    strange = [type(k).__name__ for k in content if not isinstance(k, str)]
    if strange:
        raise ValueError(f"weights={path} is not a state dict; keys are: {_first(strange)}")
    others = [k for k, v in content.items() if not isinstance(v, Tensor)]
    if others or not content:
        raise ValueError(
            f"weights={path} is not a state dict; not tensors: {_first(others) or 'it is empty'}. "
            f"Fix: {_inside(content)}"
        )
    for name, tensor in content.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise ValueError(
                f"weights={path}: {name[:80]!r} is a {tensor.dtype} tensor of layout "
                f"{tensor.layout} on {tensor.device}: save dense tensors with their values"
            )
    state = dict(content)
    if all(k.startswith("module.") for k in state):
        state = {k.removeprefix("module."): v for k, v in state.items()}
    return state


def _inside(content: Mapping[str, object]) -> str:
    """What to do about a dict that holds state dicts, by the places of these."""
    outer = {key: value for key, value in content.items() if len(key) < _LONG}
    places = [f"[{key!r}]" for key, value in outer.items() if _is_state(value)]
    for key, value in outer.items():
        inner = value if isinstance(value, Mapping) else {}
        known = [k for k, v in inner.items() if isinstance(k, str) and len(k) < _LONG and _is_state(v)]
        places += [f"[{key!r}][{k!r}]" for k in known]
    if not places:
        return "save network.state_dict(), bare or as {'state_dict': ...}"
    where = f" (or {_first(places[1:])})" if places[1:] else ""
    return f"the weights are inside: torch.save(torch.load(FILE, weights_only=True){places[0]}, 'weights.pth'){where}"


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def _first(names: Iterable[str]) -> str:
    names = [name[:200] for name in names]
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
