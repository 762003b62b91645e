"""A network by every name that people have for it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hast_cuda.data import InputSpec
from hast_cuda.data.input_spec import NORMALIZATIONS
from hast_cuda.teachers import build_network, from_torchvision, input_spec, load_teacher, model_names
from hast_cuda.teachers.names import is_own, parse_arguments

NET = """
    import torch

    class Net(torch.nn.Sequential):
        def __init__(self, width=1.0, classes=3, act="relu"):
            channels = int(8 * width)
            act = {"relu": torch.nn.ReLU, "gelu": torch.nn.GELU}[act]
            super().__init__(
                torch.nn.Conv2d(3, channels, 3), torch.nn.BatchNorm2d(channels), act(),
                torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(channels, classes))
            self[1].num_batches_tracked += 1  # as one that was trained

    READY = Net(classes=4)

    def needs(width):
        return Net(width)
"""
OWN: dict[str, Any] = {"normalization": "cifar10", "image_size": 16}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network of one's own, which is the current one."""
    (tmp_path / "own_net.py").write_text(textwrap.dedent(NET))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_net", raising=False)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_net")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ([], {}),
        (["width=0.5", "num_classes=10"], {"width": 0.5, "num_classes": 10}),
        (["blocks=(2, 2)", "bias=False", "norm=None"], {"blocks": (2, 2), "bias": False, "norm": None}),
        (["act=relu", "quoted='relu'", "sum=a=b"], {"act": "relu", "quoted": "relu", "sum": "a=b"}),
        (["code=__import__('os')"], {"code": "__import__('os')"}),
    ],
)
def test_arguments_are_literals(texts: list[str], found: dict[str, Any]) -> None:
    assert parse_arguments(texts) == found


@pytest.mark.parametrize("texts", [["width"], ["=3"], ["a-b=3"], ["a=1", "a=2"]])
def test_arguments_without_a_name(texts: list[str]) -> None:
    with pytest.raises(ValueError, match="model_args"):
        parse_arguments(texts)


@pytest.mark.parametrize("form", ["own_net:Net", "own_net.py:Net", "./own_net.py:Net", "{}/own_net.py:Net"])
def test_own_networks_from_the_current_folder(own: Path, form: str) -> None:
    name = form.format(own)
    network = load_teacher(name, model_args={"width": 0.5, "classes": 7, "act": "gelu"})
    assert (network[0].out_channels, type(network[2])) == (4, nn.GELU)
    assert input_spec(name, **OWN, model_args={"classes": 7}) == InputSpec(3, 16, 16, 7, *NORMALIZATIONS["cifar10"])
    assert load_teacher(f"{name.rpartition(':')[0]}:READY")(torch.zeros(1, 3, 8, 8)).shape == (1, 4)


def test_own_networks_say_what_is_missing(own: Path) -> None:
    with pytest.raises(TypeError, match=r"own_net:needs'.*missing.*'width'.*--model-args"):
        load_teacher("own_net:needs")
    with pytest.raises(TypeError, match="unexpected keyword argument 'widht'"):
        load_teacher("own_net.py:Net", model_args={"widht": 2})
    with pytest.raises(ImportError, match=rf"no file .*absent\.py.*current folder, {own}"):
        load_teacher("absent.py:Net")
    with pytest.raises(ImportError, match="no attribute 'Absent'"):
        load_teacher("own_net.py:Absent")
    with pytest.raises(ValueError, match="model_args are for a name"):
        load_teacher(nn.Linear(2, 2), model_args={"bias": False})


def test_a_file_named_like_another_module(own: Path) -> None:
    (own / "json.py").write_text((own / "own_net.py").read_text())
    assert load_teacher("json.py:Net")[0].out_channels == 8
    assert sys.modules["json"].__file__ != str(own / "json.py")


def test_a_file_that_fails_is_not_half_imported(own: Path) -> None:
    (own / "own_net_broken.py").write_text("x = 1\nraise OSError('disk')\n")
    for _ in range(2):
        with pytest.raises(OSError, match="disk"):
            load_teacher("own_net_broken.py:Net")


def test_a_network_tells_its_classes() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 6))
    assert input_spec(network, normalization="cifar10", image_size=4).num_classes == 6
    with pytest.raises(ValueError, match="images are not known"):
        input_spec(network)


def test_which_names_run_the_code_of_a_user() -> None:
    assert all(map(is_own, ["a:b", "a.py:b", "torchvision.models:resnet18", "os:system", ":x"]))
    assert not any(map(is_own, ["a", "torchvision:a", "timm:a", "pytorchcv:a", "hf-hub:a/b"]))


def test_pytorchcv_with_and_without_its_name() -> None:
    assert input_spec("pytorchcv:resnet20_cifar10") == input_spec("resnet20_cifar10")
    network = build_network("pytorchcv:resnet20_cifar10", model_args={"num_classes": 100})
    assert network.num_classes == 100
    with pytest.raises(ValueError, match="num_classes=7: pytorchcv does not build"):
        build_network("resnet20_cifar10", model_args={"num_classes": 7})
    with pytest.raises(TypeError, match=r"widht.*--model-args"):
        build_network("resnet20_cifar10", model_args={"widht": 7})


@pytest.mark.parametrize("argument", ["pretrained", "root", "checkpoint_path"])
def test_arguments_do_not_choose_weights(argument: str) -> None:
    with pytest.raises(ValueError, match=f"model_args={argument}"):
        load_teacher("resnet20_cifar10", model_args={argument: True})


def test_torchvision_describes_its_images() -> None:
    imagenet = NORMALIZATIONS["imagenet"]
    assert input_spec("torchvision:resnet18") == InputSpec(3, 224, 224, 1000, *imagenet, 256)
    assert input_spec("torchvision:resnet50").resize == 232
    assert input_spec("torchvision:resnet50", model_args={"weights": "IMAGENET1K_V1"}).resize == 256
    assert input_spec("torchvision:inception_v3").size == (3, 299, 299)
    assert input_spec("torchvision:resnet18", image_size=112).resize == 128
    assert input_spec("torchvision:resnet18", model_args={"num_classes": 9}).num_classes == 9
    with pytest.raises(ValueError, match="no weights 'V7'; it has IMAGENET1K_V1"):
        input_spec("torchvision:resnet18", model_args={"weights": "V7"})


def old_keys(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As in the files of DenseNets."""
    return {k.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): v for k, v in state.items()}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mnasnet0_5", lambda state: state),
        ("densenet121", old_keys),
        ("googlenet", lambda state: state | {"aux1.fc.weight": torch.ones(3)}),
    ],
)
def test_torchvisions_weights(
    name: str, change: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read from torch.hub's folder, without being unpickled."""
    torch.manual_seed(3)
    network = from_torchvision.build(name, {})
    entry = from_torchvision._weights(name, {})
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (folder := tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(change(network.state_dict()), folder / entry.url.rpartition("/")[2])
    again = load_teacher(f"torchvision:{name}")
    torch.testing.assert_close(again.state_dict(), network.state_dict(), rtol=0, atol=0)
    assert not again.training


def test_torchvision_without_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(RuntimeError, match=r"no route.*bring https://\S+/resnet18-\w+\.pth .*checkpoints.*--weights"):
        load_teacher("torchvision:resnet18")


def test_weights_of_ones_own_for_torchvision(tmp_path: Path) -> None:
    network = build_network("torchvision:squeezenet1_1", 5)
    torch.save({"model": network.state_dict()}, tmp_path / "w.pth")
    again = load_teacher("torchvision:squeezenet1_1", weights=tmp_path / "w.pth", num_classes=5)
    torch.testing.assert_close(again.state_dict(), network.state_dict(), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"2 of another shape: classifier\.1\.weight"):
        load_teacher("torchvision:squeezenet1_1", weights=tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:resnet19", r"not a classifier of torchvision.*nearest: torchvision:resnet1"),
        ("torchvision:fcn_resnet50", "not a classifier of torchvision"),
        ("shufflenet_v2_x1_0", r"nearest: torchvision:shufflenet_v2_x1_0"),
        ("pytorchcv:resnet20_cifar", r"nearest: pytorchcv:resnet20_cifar10"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_teacher(name)


def test_names_of_every_library() -> None:
    names = model_names()
    assert names == sorted(names)
    assert {"digits", "resnet20_cifar10", "torchvision:resnet18"} <= set(names)
    assert "torchvision:fcn_resnet50" not in names


def test_timm_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    for name in ("timm:resnet18", "hf-hub:timm/resnet18.a1_in1k"):
        with pytest.raises(ImportError, match=r"pip install 'hast_cuda\[timm\]'"):
            load_teacher(name)
    assert not any(name.startswith("timm:") for name in model_names())


@pytest.fixture
def timm() -> types.ModuleType:
    pytest.importorskip("huggingface_hub")  # which timm comes with, and does without: it has fewer weights then
    return pytest.importorskip("timm")


def test_timm_describes_its_images(timm: types.ModuleType) -> None:
    imagenet = NORMALIZATIONS["imagenet"]
    assert input_spec("timm:efficientnet_lite0") == InputSpec(3, 224, 224, 1000, *imagenet, 256)
    assert input_spec("timm:tf_efficientnet_lite0.in1k").mean == (0.5, 0.5, 0.5)
    assert input_spec("timm:resnet10t.c3_in1k").resize == round(176 / 0.875)
    changed = input_spec("timm:resnet18", model_args={"num_classes": 9, "in_chans": 1})
    assert (changed.size, changed.num_classes, len(changed.mean)) == ((1, 224, 224), 9, 1)
    network = build_network("timm:resnet10t", 6, {"in_chans": 1})
    assert network(torch.zeros(1, 1, 64, 64)).shape == (1, 6)
    assert "timm:efficientnet_lite0" in model_names()
    with pytest.raises(ValueError, match="nearest: timm:resnet18"):
        build_network("timm:resnet18x")


def test_timms_weights(timm: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    wanted = build_network("timm:resnet10t")
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: wanted.state_dict())
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", lambda *_, **__: wanted.state_dict())
    again = load_teacher("timm:resnet10t")
    torch.testing.assert_close(again.state_dict(), wanted.state_dict(), rtol=0, atol=0)
    with pytest.raises(ValueError, match="have 1000 classes, not 7"):
        load_teacher("timm:resnet10t", model_args={"num_classes": 7})


def test_timm_without_a_connection(timm: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fail)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", fail)
    with pytest.raises(RuntimeError, match=r"no route.*bring https://\S+(safetensors|pth) and give it with --weights"):
        load_teacher("timm:resnet10t")
    monkeypatch.setattr("timm.models.load_model_config_from_hf", fail)
    with pytest.raises(RuntimeError, match=r"no route.*config\.json and model\.safetensors of https://\S+/me/mine"):
        input_spec("hf-hub:me/mine")
    monkeypatch.setattr("timm.models._factory.load_model_config_from_hf", fail)
    with pytest.raises(RuntimeError, match=r"config\.json and model\.safetensors of https://\S+/me/mine"):
        load_teacher("hf-hub:me/mine")
    with pytest.raises(ValueError, match=r"timm publishes no weights for nf_resnet26"):
        load_teacher("timm:nf_resnet26")


def test_a_network_of_the_hub(timm: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = {
        "hf_hub_id": "me/mine",
        "source": "hf-hub",
        "architecture": "resnet10t",
        "num_classes": 4,
        "input_size": [3, 96, 96],
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "first_conv": "conv1.0",
        "classifier": "fc",
    }
    wanted = build_network("timm:resnet10t", 4)

    def found(*arguments: object, **options: object) -> tuple[dict[str, Any], str, dict[str, Any]]:
        return dict(configuration), "resnet10t", {}

    monkeypatch.setattr("timm.models.load_model_config_from_hf", found)
    monkeypatch.setattr("timm.models._factory.load_model_config_from_hf", found)
    monkeypatch.setattr("timm.models._builder.has_hf_hub", lambda necessary=False: True)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: wanted.state_dict())
    assert input_spec("hf-hub:me/mine") == InputSpec(3, 96, 96, 4, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 110)
    again = load_teacher("hf-hub:me/mine")
    torch.testing.assert_close(again.state_dict(), wanted.state_dict(), rtol=0, atol=0)


def test_timms_fused_layers_become_two(timm: types.ModuleType, tmp_path: Path) -> None:
    """Weights have timm's names; the network is of modules that can be quantized, and the same function."""
    torch.manual_seed(3)
    original = timm.create_model("efficientnet_lite0").eval()
    for layer in original.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.1, 0.1)
            layer.weight.data.uniform_(0.5, 1.5)
    torch.save({"state_dict": original.state_dict()}, tmp_path / "w.pth")
    network = load_teacher("timm:efficientnet_lite0", weights=tmp_path / "w.pth")
    assert {type(m) for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {nn.BatchNorm2d}
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(images), original(images), rtol=0, atol=0)
    assert sum(isinstance(m, nn.ReLU6) for m in network.modules()) > 30
    assert network.state_dict().keys() == build_network("timm:efficientnet_lite0").state_dict().keys()
    untouched = load_teacher(original)
    assert untouched.state_dict().keys() != network.state_dict().keys()


def test_timm_unpickles_nothing(timm: types.ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever it asks torch for."""
    torch.save(nn.Linear(2, 2), tmp_path / "w.pth")

    def read(*arguments: object, **options: object) -> Any:
        return torch.load(tmp_path / "w.pth", weights_only=False)

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", read)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", read)
    with pytest.raises(Exception, match="Weights only load failed"):
        load_teacher("timm:resnet10t")
    assert isinstance(torch.load(tmp_path / "w.pth", weights_only=False), nn.Linear)


def test_a_program_finds_a_network_beside_it(own: Path) -> None:
    """The console script has not the current folder on its path, as python -m has."""
    code = "import sys; sys.path.remove(''); from hast_cuda.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "synthesize", "--model", "own_net.py:Net", "--normalization", "cifar10"]
    command += ["--image-size", "16", "--model-args", "width=0.5", "classes=7", "--device", "cpu", "--num-images", "4"]
    command += ["--synthesis-iterations", "1", "--batch-size", "4", "--out", "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4 images in run" in done.stdout
