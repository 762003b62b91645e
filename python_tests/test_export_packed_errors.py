"""What cannot be packed, and networks that a packed file does not fit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from exporting import student_of
from networks import tiny
from torch import nn

import hast_cuda as hc
from hast_cuda.exports import load_packed, save_packed


def test_what_cannot_be_packed_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    student = student_of(tiny(), 4, 4)
    path = tmp_path / "p"
    with pytest.raises(ValueError, match="no quantized layer"):
        save_packed(tiny(), path)
    with pytest.raises(ValueError, match=r"'features\.2' is not frozen"):
        save_packed(hc.quantize(tiny(), 4, 4), path)
    with pytest.raises(ValueError, match=r"'features\.0'.*real"):
        save_packed(hc.quantize(tiny(), 4, None, zero_point="real"), path)
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_packed(student, path, {"path": path})
    with pytest.raises(FileNotFoundError, match="not a directory"):
        save_packed(student, tmp_path / "nowhere" / "p")
    named = copy.deepcopy(student)
    named.features[0].register_buffer("scale", torch.ones(1))
    with pytest.raises(ValueError, match=r"'features\.0\.scale'.*rename"):
        save_packed(named, path)
    derived = copy.deepcopy(student)
    derived.output.__class__ = type("Derived", (hc.FakeQuantLinear,), {})
    with pytest.raises(ValueError, match=r"'output' is a Derived"):
        save_packed(derived, path)
    extra = copy.deepcopy(student)
    with_state = {"get_extra_state": lambda self: {"a": 1}}
    extra.__class__ = type("Extra", (type(extra),), with_state)
    with pytest.raises(TypeError, match=r"'_extra_state' is a dict"):
        save_packed(extra, path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: setattr(n, "output", nn.Linear(8, 6)), r"'output' is \[6, 8\].*\[5, 8\]"),
        (lambda n: setattr(n, "output", nn.Identity()), r"'output' is a Identity.*a Linear"),
        (lambda n: delattr(n, "output"), r"no layer of its own named 'output'"),
        (lambda n: setattr(n, "more", nn.Linear(2, 2)), r"2 tensors missing: 'more.weight'"),
        (lambda n: n.features.__setitem__(1, nn.Identity()), r"5 tensors unexpected: "),
        (lambda n: n.features.__setitem__(1, nn.BatchNorm2d(7)), r"of another shape: "),
        (lambda n: n.features.__setitem__(2, nn.ReLU6()), r"'features.2' is a ReLU6.*a ReLU"),
    ],
)
def test_other_networks_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    save_packed(student_of(tiny(), 4, 4), tmp_path / "p")
    network = tiny()
    change(network)
    with pytest.raises(TypeError, match=r"nn\.Module, got str"):
        load_packed(tmp_path / "p", "tiny")
    with pytest.raises(ValueError, match=message):
        load_packed(tmp_path / "p", network)
