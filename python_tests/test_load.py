"""``hast_cuda.load``: a student back from a run directory or a packed file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hast_cuda as hc
from hast_cuda.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the embedded network, with a packed file."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["quantize", "--model", "digits", "--method", "squant", "--out", str(out)]) == 0
    assert main(["export", str(out), "--to", "packed", "--no-report"]) == 0
    return out


def images() -> torch.Tensor:
    """Any that the network takes."""
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_run_and_packed_file_give_one_network(run: Path) -> None:
    from_run = hc.load(run)
    from_file = hc.load(run / "exports" / "student.packed.safetensors")
    with torch.no_grad():
        expected = from_run(images())
        assert torch.equal(from_file(images()), expected)
        given = hc.load(str(run), hc.load_teacher("digits"))
        assert torch.equal(given(images()), expected)
        named = hc.load(run / "exports" / "student.packed.safetensors", "digits")
        assert torch.equal(named(images()), expected)
    assert not from_run.training


def test_in_a_fresh_process(run: Path) -> None:
    code = (
        "import sys, torch, hast_cuda as hc\n"
        "x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))\n"
        "print(hc.load(sys.argv[1])(x).argmax(1).tolist())"
    )
    found = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(hc.load(run)(images()).argmax(1).tolist())


def test_refusals(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        hc.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="not a classifier of pytorchcv"):
        hc.load(run, "no_such_network")
    with pytest.raises(ValueError, match="corrupt or belongs to another network"):
        hc.load(run, "resnet20_cifar10")
    student = hc.quantize(hc.load_teacher("digits"), 4, None)
    hc.export(student, tmp_path, "packed", (1, 8, 8))
    with pytest.raises(ValueError, match="names no network that a file may name"):
        hc.load(tmp_path / "student.packed.safetensors")
    code = {"network": {"model": "os:getcwd"}}
    hc.export(student, tmp_path, "packed", (1, 8, 8), describe=code)
    with pytest.raises(ValueError, match="names no network that a file may name"):
        hc.load(tmp_path / "student.packed.safetensors")
