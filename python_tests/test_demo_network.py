from __future__ import annotations

import builtins
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from hast_cuda.data import digits
from hast_cuda.data.digits import load_digit_images
from hast_cuda.teachers.digits import WEIGHTS, DigitsResNet, load_digits_network

pytest.importorskip("sklearn")

HELD_OUT_SHA256 = "d2c9c7f29c09a073472701d703364590340da70956bd3dc75f1a32ff2ed0615c"


def normalized(images: Tensor) -> Tensor:
    return (images.float() / digits.WHITE - digits.MEAN[0]) / digits.STD[0]


def test_split_is_fixed_stratified_and_disjoint() -> None:
    train, train_labels = load_digit_images("train")
    test, test_labels = load_digit_images("test")
    assert (train.shape, test.shape) == ((1197, 1, 8, 8), (600, 1, 8, 8))
    assert train.dtype == test.dtype == torch.uint8
    assert train_labels.dtype == test_labels.dtype == torch.int64
    assert test_labels.bincount().tolist() == [60] * 10
    assert int(train.max()) == digits.WHITE
    # The embedded weights have seen the training split: the held-out images must never change.
    content = test.numpy().tobytes() + bytes(test_labels.tolist())
    assert hashlib.sha256(content).hexdigest() == HELD_OUT_SHA256


def test_constants_are_those_of_the_training_split() -> None:
    pixels = load_digit_images("train")[0].float() / digits.WHITE
    statistics = torch.tensor([pixels.mean(), pixels.std()])
    torch.testing.assert_close(statistics, torch.tensor([*digits.MEAN, *digits.STD]), rtol=0, atol=1e-4)


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        load_digit_images("test")


def test_network_is_small_and_every_activation_is_a_module_of_its_own() -> None:
    network = DigitsResNet()
    assert sum(p.numel() for p in network.parameters()) < 230_000
    counts = dict.fromkeys((nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Linear), 0)
    uses: dict[nn.Module, int] = {}
    for module in network.modules():
        if type(module) in counts:
            counts[type(module)] += 1
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda m, i, o: uses.update({m: uses.get(m, 0) + 1}))
    assert counts == {nn.Conv2d: 39, nn.BatchNorm2d: 39, nn.ReLU: 37, nn.Linear: 1}
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert list(uses.values()) == [1] * 37


def test_embedded_weights_have_their_stated_accuracy() -> None:
    images, labels = load_digit_images("test")
    network = load_digits_network()
    assert not network.training
    with torch.no_grad():
        top1 = (network(normalized(images)).argmax(1) == labels).float().mean().item() * 100
    with safe_open(WEIGHTS, framework="pt") as file:
        training = json.loads(file.metadata()["training"])
    assert top1 >= 97
    assert top1 == pytest.approx(training["held_out_top1_percent"], abs=0.2)
    assert {"seed", "epochs", "torch", "scikit_learn"} <= training.keys()
    assert WEIGHTS.stat().st_size < 1_000_000


def test_training_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import train_digits as train

    out, again = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    state = torch.random.get_rng_state()
    for path in (out, again):
        train.main(["--out", str(path), "--epochs", "1", "--seed", "5"])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert out.read_bytes() == again.read_bytes()
    assert "top-1" in capsys.readouterr().out
    with safe_open(out, framework="pt") as file:
        assert set(file.keys()) == DigitsResNet().state_dict().keys()
        assert json.loads(file.metadata()["training"])["seed"] == 5


def test_training_script_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import train_digits as train

    for out in (tmp_path / "a.pth", tmp_path / "absent" / "a.safetensors"):
        with pytest.raises(SystemExit):
            train.main(["--out", str(out)])
        assert "must be a .safetensors file in an existing folder" in capsys.readouterr().err
    with pytest.raises(ValueError, match="epochs=0 must be at least 1"):
        train.train(seed=0, epochs=0)
