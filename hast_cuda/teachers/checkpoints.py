"""The state dict in a checkpoint: under whichever key and prefix it was saved, if it fits a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

State = Mapping[str, Tensor]
# Of DataParallel and AveragedModel, Lightning, and the attribute that a wrapper keeps the network in.
_PREFIXES = ("module.", "model.", "net.", "network.")
_COMPILED = "_orig_mod."  # of torch.compile, wherever the compiled part was
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")  # what is evaluated where both are there
_COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel, beside "module."
_DEPTH = 3  # {"checkpoint": {"model": {"state_dict": ...}}}
_SHOWN = 3  # keys listed per kind of mismatch


def fitting(content: object, expected: State, path: Path) -> tuple[str, dict[str, Tensor]]:
    """Where in a file the state dict of a network is, and what it holds, by the names of ``expected``.

    The one that fits; where none does the one that comes closest. ValueError: none at all, or several that fit.
    """
    found = {where: _renamed(state, expected) for where, state in state_dicts(content, path).items()}
    fits = [where for where, state in found.items() if not any(misfits(state, expected).values())]
    averaged = [where for where in fits if where.endswith(tuple(f"[{key!r}]" for key in _AVERAGED))]
    fits = averaged or fits
    if len(fits) > 1:
        raise ValueError(f"weights={path} hold {len(fits)} state dicts that fit: {first(fits)}. Fix: save one alone")
    where = fits[0] if fits else min(found, key=lambda w: sum(map(len, misfits(found[w], expected).values())))
    return where, found[where]


def state_dicts(content: object, path: Path) -> dict[str, dict[str, Tensor]]:
    """Every state dict in a checkpoint, by where it is: "" or "['model']" and so on; ValueError: there is none."""
    if not isinstance(content, Mapping):
        raise ValueError(f"weights={path} holds a {type(content).__name__}; it must hold a state dict")
    # Only texts are shown: nested tuples can share parts and be endless to write out.
    strange = [type(k).__name__ for k in content if not isinstance(k, str)]
    if strange:
        raise ValueError(f"weights={path} is not a state dict; keys are: {first(strange)}")
    found = dict(_search(content, "", set()))
    if not found:
        others = [k for k, v in content.items() if not isinstance(v, Tensor)]
        raise ValueError(
            f"weights={path} is not a state dict; not tensors: {first(others) or 'it is empty'}. "
            "Fix: save network.state_dict(), bare or as {'state_dict': ...}"
        )
    for state in found.values():
        for name, tensor in state.items():
            if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
                raise ValueError(
                    f"weights={path}: {name[:80]!r} is a {tensor.dtype} tensor of layout "
                    f"{tensor.layout} on {tensor.device}: save dense tensors with their values"
                )
    return found


def misfits(state: State, expected: State) -> dict[str, list[str]]:
    """Keys by what is wrong with them; BatchNorm's update counters may be missing."""
    common = {k: (v, expected[k]) for k, v in state.items() if k in expected}
    return {
        "missing": [k for k in counted(expected) if k not in state],
        "unexpected": [k for k in state if k not in expected],
        "of another shape": [
            f"{k} (file {list(v.shape)}, network {list(x.shape)})" for k, (v, x) in common.items() if v.shape != x.shape
        ],
    }


def counted(expected: State) -> list[str]:
    """Keys that a file must have: old ones lack BatchNorm's update counter, which eval mode never reads."""
    return [k for k in expected if not k.endswith(".num_batches_tracked")]


def first(names: Iterable[str]) -> str:
    """Some of the names, as text of limited length."""
    names = [name[:200] for name in names]
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _search(content: Mapping[object, object], where: str, seen: set[int]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """State dicts, outermost first; what is shared in the file is looked at once."""
    seen.add(id(content))
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if content and len(tensors) == len(content):
        yield where, tensors
        return
    for key, value in content.items():
        inside = isinstance(key, str) and isinstance(value, Mapping) and id(value) not in seen
        if inside and where.count("[") < _DEPTH:
            yield from _search(value, f"{where}[{str(key)[:80]!r}]", seen)  # type: ignore[arg-type]


def _renamed(state: dict[str, Tensor], expected: State) -> dict[str, Tensor]:
    """Without what wrappers put in front of every name, as far as that makes the names fit."""
    closest, least = state, _wrong(state, expected)
    while least:
        state = _unwrapped(state)
        if not state:
            break
        wrong = _wrong(state, expected)
        if wrong < least:
            closest, least = state, wrong
    return closest


def _wrong(state: State, expected: State) -> int:
    """Names that do not fit; shapes do not depend on names."""
    return sum(k not in expected for k in state) + sum(k not in state for k in counted(expected))


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the outermost wrapper; empty where none is known."""
    if any(_COMPILED in k for k in state):
        return {k.replace(_COMPILED, ""): v for k, v in state.items()}
    named = {k: v for k, v in state.items() if k != _COUNTER}
    for prefix in _PREFIXES:
        if named and all(k.startswith(prefix) for k in named):
            return {k.removeprefix(prefix): v for k, v in named.items()}
    return {}
