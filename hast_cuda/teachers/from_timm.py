"""Networks of timm, by its names or from a repository of the Hugging Face hub."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import Any

from torch import nn

from hast_cuda.data.input_spec import InputSpec
from hast_cuda.teachers.library import Arguments, absent, crop_side, for_channels

HUB = "hf-hub:"
_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def names() -> list[str]:
    """Of every network; none where timm is not installed."""
    try:
        found: list[str] = _timm().list_models()
    except ImportError:
        return []
    return found


def build(name: str, arguments: Arguments, num_classes: int | None = None) -> nn.Module:
    """The architecture with random weights."""
    sizes = {} if num_classes is None else {"num_classes": num_classes}
    with _explained(name) if name.startswith(HUB) else contextlib.nullcontext():
        network: nn.Module = _timm().create_model(name, pretrained=False, **{**arguments, **sizes})
    return network


def trained(name: str, arguments: Arguments) -> nn.Module:
    """The network with its published weights."""
    with _explained(name), _weights_only():
        network: nn.Module = _timm().create_model(name, pretrained=True, **arguments)
    published = network.pretrained_cfg["num_classes"]  # type: ignore[index]
    if network.num_classes != published:  # timm would leave a random classifier
        raise ValueError(
            f"the published weights of {name} have {published} classes, not {network.num_classes}: "
            "leave num_classes away, or give --weights"
        )
    return network


def spec(name: str, arguments: Arguments) -> InputSpec:
    """The images that the published weights were trained on, or as many channels and pixels as ``arguments`` say."""
    found = _configuration(name)
    channels, *size = found["input_size"]
    pixels = arguments.get("img_size", size)
    height, width = (pixels, pixels) if isinstance(pixels, int) else pixels
    mean, std = tuple(map(float, found["mean"])), tuple(map(float, found["std"]))
    wanted = arguments.get("in_chans", channels)
    mean, std = for_channels(wanted, mean, std)
    classes = arguments.get("num_classes", found["num_classes"])
    return InputSpec(wanted, height, width, classes, mean, std, crop_side(min(height, width), found["crop_pct"]))


def _configuration(name: str) -> dict[str, Any]:
    """timm's description of a network and its weights."""
    if not name.startswith(HUB):
        found: dict[str, Any] = _timm().get_pretrained_cfg(name, allow_unregistered=False).to_dict()
        return found
    models = importlib.import_module("timm.models")
    with _explained(name):
        given: dict[str, Any] = models.load_model_config_from_hf(name.removeprefix(HUB))[0]
    usual: dict[str, Any] = models.PretrainedCfg().to_dict()
    return {**usual, **given}


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise ImportError("networks of timm and of the hub need timm: pip install 'hast_cuda[timm]'") from error


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    """Nothing is unpickled, whatever timm asks torch for."""
    before = os.environ.get(_WEIGHTS_ONLY)
    os.environ[_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_WEIGHTS_ONLY]
        else:
            os.environ[_WEIGHTS_ONLY] = before


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Say which file to bring where something cannot be downloaded."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if name.startswith(HUB):
            url = f"config.json and model.safetensors of https://huggingface.co/{name.removeprefix(HUB)}"
            raise absent(name, error, url, "the hub's cache (HF_HOME)") from error
        found = _timm().get_pretrained_cfg(name)
        if not (found and found.has_weights):
            raise ValueError(f"timm publishes no weights for {name}: give --weights FILE ({error})") from error
        file = found.hf_hub_filename or "model.safetensors"
        url = f"https://huggingface.co/{found.hf_hub_id}/resolve/main/{file}" if found.hf_hub_id else found.url
        raise absent(f"timm's weights of {name}", error, url) from error


def split_norms(network: nn.Module) -> nn.Module:
    """``network``, edited in place, with every BatchNormAct2d as a BatchNorm2d and what follows it.

    The function and the tensors stay the same, names below such a layer change ("bn1.weight" to
    "bn1.0.weight"): load weights first.
    """
    made: dict[nn.Module, nn.Module] = {}  # one for a layer that is used in several places
    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            if _is_fused(layer):
                made.setdefault(layer, _split(layer))
                setattr(parent, name, made[layer])
    return network


def _is_fused(layer: nn.Module) -> bool:
    kind = type(layer)
    return (
        isinstance(layer, nn.BatchNorm2d) and kind.__name__ == "BatchNormAct2d" and kind.__module__.startswith("timm.")
    )


def _split(layer: nn.Module) -> nn.Module:
    assert isinstance(layer, nn.BatchNorm2d)
    norm = nn.BatchNorm2d(
        layer.num_features,
        layer.eps,
        layer.momentum,
        affine=layer.affine,
        track_running_stats=layer.track_running_stats,
        device="meta",
    ).train(layer.training)
    norm._parameters.update(layer._parameters)
    norm._buffers.update(layer._buffers)
    after = [part for name, part in layer.named_children() if name in ("drop", "act")]
    after = [part for part in after if not isinstance(part, nn.Identity)]
    return nn.Sequential(norm, *after) if after else norm
