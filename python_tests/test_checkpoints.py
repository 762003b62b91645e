"""Checkpoints as people have them: every wrapper is taken off, and what does not fit is named."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import tiny
from safetensors.torch import save_file
from torch import Tensor, nn

from hast_cuda.teachers import load_weights

State = dict[str, Tensor]


def trained() -> nn.Module:
    network = tiny()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(0.1, 0.9)
    return network


def named(prefix: str, state: State) -> State:
    return {f"{prefix}{k}": v for k, v in state.items()}


def averaged(network: nn.Module) -> State:
    return torch.optim.swa_utils.AveragedModel(network).state_dict()


def other(state: State) -> State:
    return {k: v + 1 for k, v in state.items()}


FORMS: dict[str, Callable[[State], Any]] = {
    "bare": lambda s: s,
    "model": lambda s: {"model": s, "epoch": 3},
    "net": lambda s: {"net": s, "acc": 93.0},
    "state_dict": lambda s: {"state_dict": s, "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": []}},
    "model_state_dict": lambda s: {"model_state_dict": s},
    "any key": lambda s: {"weights of epoch 3": s},
    "nested": lambda s: {"checkpoint": {"model": {"state_dict": s}}},
    "DataParallel": lambda s: named("module.", s),
    "compiled": lambda s: named("_orig_mod.", s),
    "compiled in part": lambda s: {k.replace("features.", "features._orig_mod.", 1): v for k, v in s.items()},
    "compiled, DataParallel": lambda s: {"model": named("module._orig_mod.", s)},
    "lightning, model": lambda s: {"state_dict": named("model.", s), "pytorch-lightning_version": "2.4", "loops": {}},
    "lightning, net": lambda s: {"state_dict": named("net.", s)},
    "lightning, compiled": lambda s: {"state_dict": named("model._orig_mod.", s)},
    "averaged": lambda s: {"n_averaged": torch.tensor(3), **named("module.", s)},
    "timm": lambda s: {"arch": "tiny", "state_dict": s, "args": argparse.Namespace(lr=0.1, model="tiny"), "version": 2},
    "timm, average": lambda s: {"state_dict": other(s), "state_dict_ema": s, "args": argparse.Namespace()},
    "average of parallel": lambda s: {"model": other(s), "model_ema": named("module.", s)},
    "half": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
    "no counters": lambda s: {"net": {k: v for k, v in s.items() if "num_batches" not in k}},
}


FLAT = ("bare", "DataParallel", "compiled", "compiled in part", "averaged", "half")  # tensors alone


@pytest.mark.parametrize(("form", "suffix"), [*((f, ".pth") for f in FORMS), *((f, ".safetensors") for f in FLAT)])
def test_every_wrapper_is_taken_off(tmp_path: Path, form: str, suffix: str) -> None:
    wanted, path = trained().state_dict(), tmp_path / f"w{suffix}"
    content = FORMS[form](wanted)
    (torch.save if suffix == ".pth" else save_file)(content, path)
    network = tiny()
    load_weights(network, path)
    tolerance = 1e-3 if form == "half" else 0
    for key, value in network.state_dict().items():
        if "num_batches" not in key:
            torch.testing.assert_close(value, wanted[key], rtol=0, atol=tolerance)


def test_torchs_own_average(tmp_path: Path) -> None:
    network = trained()
    torch.save(averaged(network), tmp_path / "w.pth")
    load_weights(again := tiny(), tmp_path / "w.pth")
    torch.testing.assert_close(again.state_dict(), network.state_dict(), rtol=0, atol=0)


class Wrapped(nn.Module):
    """Its own names begin as wrappers' do."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(2, 3)


def test_a_prefix_of_the_network_itself_stays(tmp_path: Path) -> None:
    state = {"model.weight": torch.ones(3, 2), "model.bias": torch.zeros(3)}
    for content in (state, {"state_dict": named("model.", state)}):
        torch.save(content, tmp_path / "w.pth")
        load_weights(network := Wrapped(), tmp_path / "w.pth")
        assert network.model.weight.sum() == 6


REFUSED: dict[str, tuple[Callable[[State], Any], str]] = {
    "a loss beside it": (
        lambda s: {"state_dict": named("model.", s) | {"criterion.weight": torch.ones(2)}},
        r"w\.pth\['state_dict'\] do not fit \w+: \d+ missing: (\S+, ){3}\.\.\.; \d+ unexpected: (\S+, ){3}\.\.\.",
    ),
    "one more": (lambda s: s | {"total_ops": torch.zeros(1)}, r"1 unexpected: total_ops\. Fix"),
    "one less": (lambda s: {"net": {k: v for k, v in s.items() if k != "output.bias"}}, r"1 missing: output\.bias"),
    "two that fit": (lambda s: {"student": s, "teacher": other(s)}, r"2 state .*: \['student'\], \['teacher'\]"),
    "two averages": (lambda s: {"ema": s, "model_ema": other(s)}, r"2 state dicts that fit"),
    "another network beside it": (
        lambda s: {"generator": {"x": torch.ones(1)}, "model": {k: v[:1] if v.dim() else v for k, v in s.items()}},
        r"\['model'\] do not fit \w+: \d+ of another shape",
    ),
    "no tensors": (lambda s: {"model": {}, "epoch": 3}, "not tensors: model, epoch"),
    "too deep": (lambda s: {"a": {"b": {"c": {"d": s}}}}, "not tensors: a"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_does_not_fit_is_named(tmp_path: Path, name: str) -> None:
    make, message = REFUSED[name]
    torch.save(make(trained().state_dict()), tmp_path / "w.pth")
    network = tiny()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_weights(network, tmp_path / "w.pth")
    torch.testing.assert_close(dict(network.state_dict()), before, rtol=0, atol=0)
