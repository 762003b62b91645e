from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hast_cuda.teachers import from_pytorchcv, input_spec, load_teacher
from hast_cuda.teachers.digits import DigitsResNet

NAME = "resnet20_cifar10"


def trained_state(network: nn.Module | None = None) -> dict[str, Tensor]:
    """Random weights in place of trained ones."""
    torch.manual_seed(7)
    state = (network or from_pytorchcv.build(NAME, {})).state_dict()
    return {k: torch.rand_like(v) if v.is_floating_point() else v for k, v in state.items()}


def assert_loaded(network: nn.Module, state: dict[str, Tensor]) -> None:
    assert not network.training
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)


@pytest.mark.parametrize("form", ["safetensors", "bare", "wrapped", "parallel", "old"])
def test_weights_in_every_form(tmp_path: Path, form: str) -> None:
    state = trained_state()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(state, path)
    elif form == "bare":
        torch.save(state, path)
    elif form == "wrapped":
        torch.save({"state_dict": state, "epoch": 3}, path)
    elif form == "parallel":
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    else:
        torch.save({k: v for k, v in state.items() if "num_batches" not in k}, path)
    assert_loaded(load_teacher(NAME, weights=path), state)


def test_parameters_stay_trainable(tmp_path: Path) -> None:
    torch.save(trained_state(), tmp_path / "w.pth")
    network = load_teacher(NAME, weights=tmp_path / "w.pth")
    assert all(p.requires_grad for p in network.parameters())


def test_num_classes_builds_another_classifier(tmp_path: Path) -> None:
    state = trained_state()
    state["output.weight"], state["output.bias"] = torch.rand(100, 64), torch.rand(100)
    torch.save(state, tmp_path / "w.pth")
    network = load_teacher(NAME, weights=tmp_path / "w.pth", num_classes=100)
    assert_loaded(network, state)
    with pytest.raises(ValueError, match=r"2 of another shape: output\.weight \(file \[100, 64\]"):
        load_teacher(NAME, weights=tmp_path / "w.pth")
    with pytest.raises(ValueError, match="num_classes=7: pytorchcv does not build"):
        load_teacher(NAME, weights=tmp_path / "w.pth", num_classes=7)


def test_keys_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    state = trained_state()
    state["surplus.weight"] = state.pop("output.bias")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"1 missing: output.bias; 1 unexpected: surplus.weight"):
        load_teacher(NAME, weights=tmp_path / "w.pth")


def test_long_lists_are_cut(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"missing: (\S+, ){3}\.\.\.; 1 unexpected: a\. Fix"):
        load_teacher(NAME, weights=tmp_path / "w.pth")


def test_broken_numbers_are_refused(tmp_path: Path) -> None:
    state = trained_state()
    state["output.bias"][3] = torch.nan
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"NaN or infinity in output.bias"):
        load_teacher(NAME, weights=tmp_path / "w.safetensors")


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    """Others are in test_hostile_files.py."""
    with pytest.raises(FileNotFoundError, match="is not a file"):
        load_teacher(NAME, weights=tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(ValueError, match=r"weights=.*Fix"):
        load_teacher(NAME, weights=tmp_path / "w.pth")


def fake_store(monkeypatch: pytest.MonkeyPatch, answer: Path | Exception) -> None:
    def get_model_file(model_name: str) -> str:
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    store = types.SimpleNamespace(
        get_model_metainfo_dict=lambda: {NAME: ()},
        get_model_file=get_model_file,
        get_model_name_suffix_data=lambda name: ("0597", "abcdef0123", "v1"),
        imgclsmob_repo_url="https://example.org",
    )
    monkeypatch.setattr(from_pytorchcv, "_model_store", lambda: store)


def test_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    state = trained_state()
    torch.save({**state, "left.over": torch.zeros(1)}, tmp_path / "w.pth")
    fake_store(monkeypatch, tmp_path / "w.pth")
    assert_loaded(load_teacher(NAME), state)
    with pytest.raises(ValueError, match="num_classes=7, but model='resnet20_cifar10' has 10"):
        load_teacher(NAME, num_classes=7)


def test_download_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_store(monkeypatch, ConnectionError("no route to host"))
    with pytest.raises(
        RuntimeError, match=r"no route to host.*bring \S+/v1/\S+-0597-abcdef01\.pth\.zip.*--weights FILE"
    ):
        load_teacher(NAME)
    with pytest.raises(ValueError, match=r"publishes no weights for model='resnet34'.*--weights"):
        load_teacher("resnet34")


def test_pytorchcv_still_has_what_the_download_uses() -> None:
    store = from_pytorchcv._model_store()
    assert NAME in from_pytorchcv._published(store)
    assert callable(store.get_model_file)
    assert len(store.get_model_name_suffix_data(NAME)) == 3
    assert store.imgclsmob_repo_url.startswith("https://")


def test_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"nearest: .*resnet20_cifar10"):
        load_teacher("resnet20_cifar")
    with pytest.raises(ValueError, match=r"'file\.py:callable'$"):
        input_spec("?")
    with pytest.raises(ValueError, match="not a classifier"):
        load_teacher("fcn8sd_resnetd50b_voc")


def test_own_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = types.ModuleType("own_networks")
    module.__dict__.update(make=DigitsResNet, number=3, make_number=lambda: 3)
    monkeypatch.setitem(sys.modules, "own_networks", module)
    assert isinstance(load_teacher("own_networks:make"), DigitsResNet)
    state = trained_state(DigitsResNet())
    save_file(state, tmp_path / "w.safetensors")
    assert_loaded(load_teacher("own_networks:make", weights=tmp_path / "w.safetensors"), state)
    with pytest.raises(ValueError, match="num_classes=7, but model='own_networks:make' has 10"):
        load_teacher("own_networks:make", num_classes=7)
    with pytest.raises(TypeError, match=r"the result of own_networks:make_number\(\) must be"):
        load_teacher("own_networks:make_number")
    with pytest.raises(TypeError, match="is a int; it must be a callable"):
        load_teacher("own_networks:number")
    for path in ["own_networks:absent", "no_such_module:make", ":make", "..x:y"]:
        with pytest.raises(ImportError, match="PYTHONPATH"):
            load_teacher(path)


def test_network_objects() -> None:
    network = DigitsResNet().train()
    assert load_teacher(network) is network
    assert not network.training
    with pytest.raises(TypeError, match="got the class DigitsResNet"):
        load_teacher(DigitsResNet)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got int 3"):
        load_teacher(3)  # type: ignore[arg-type]


def test_a_classifier_of_absurd_size_is_refused_before_it_is_built() -> None:
    with pytest.raises(ValueError, match="num_classes is"):
        load_teacher("resnet20_cifar10", weights=Path("x.safetensors"), num_classes=2**40)
