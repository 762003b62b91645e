"""Networks of pytorchcv."""

from __future__ import annotations

import importlib
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hast_cuda.data.input_spec import NORMALIZATIONS, InputSpec
from hast_cuda.teachers.library import Arguments, absent, crop_side, for_channels
from hast_cuda.teachers.weights import load_state, read_state

# pytorchcv also has networks for segmentation, detection, pose, video and speech: no class logits.
_OTHER_SUFFIXES = ("_voc", "_coco", "_cityscapes", "_ade20k", "_celebamaskhq", "_widerface")
_OTHER_PREFIXES = (
    *("jasper", "quartznet", "nvpattexp", "pfpcnet", "propainter", "raft"),
    *("superpointnet", "visemenet", "voca"),
)
_SMALL = ("_cifar10", "_cifar100", "_svhn")


def names() -> list[str]:
    """Of every classifier."""
    return [
        name for name in _factories() if not name.endswith(_OTHER_SUFFIXES) and not name.startswith(_OTHER_PREFIXES)
    ]


def build(name: str, arguments: Arguments, num_classes: int | None = None) -> nn.Module:
    """The architecture with random weights, on the current default device."""
    given = {**arguments, **({} if num_classes is None else {"num_classes": num_classes})}
    try:
        network: nn.Module = _factories()[name](**given)
    except AssertionError as error:
        wanted = ", ".join(f"{key}={value!r}" for key, value in given.items())
        raise ValueError(
            f"{wanted}: pytorchcv does not build {name} like that; build the network yourself and give "
            "'package.module:callable'"
        ) from error
    return network


def trained(name: str, arguments: Arguments) -> nn.Module:
    """The network with its published weights."""
    network = build(name, arguments)
    # pytorchcv's pretrained=True unpickles with weights_only=False; read its file ourselves.
    state, known = read_state(_download(name)), network.state_dict().keys()
    # As pytorchcv does: some of its published files have entries beyond the network's.
    load_state(network, {k: v for k, v in state.items() if k in known}, f"{name} (download)")
    return network


def spec(name: str, arguments: Arguments) -> InputSpec:
    """The images that the published weights were trained on."""
    # The meta device: the sizes without the memory or the seconds of random weights.
    with torch.device("meta"):
        network = build(name, arguments)
    in_size, classes = getattr(network, "in_size", None), getattr(network, "num_classes", None)
    if in_size is None or classes is None:
        raise ValueError(f"model={name!r} is not an image classifier")
    height, width = in_size
    channels, small = arguments.get("in_channels", 3), name.endswith(_SMALL)
    mean, std = for_channels(channels, *NORMALIZATIONS["pytorchcv-cifar" if small else "imagenet"])
    return InputSpec(channels, height, width, classes, mean, std, None if small else crop_side(max(in_size)))


def _factories() -> dict[str, Any]:
    from pytorchcv import model_provider  # noqa: PLC0415 - takes a second to import

    factories: dict[str, Any] = model_provider._models
    return factories


def _download(name: str) -> Path:
    """Path of pytorchcv's own weights, downloaded when not yet there and checked by SHA-1."""
    store = _model_store()
    if name not in _published(store):
        raise ValueError(
            f"pytorchcv publishes no weights for model={name!r}: give --weights FILE (.safetensors or a torch "
            "state dict)"
        )
    try:
        return Path(store.get_model_file(model_name=name))
    except (OSError, RuntimeError, ValueError, zipfile.BadZipFile) as error:
        quality, digest, release = store.get_model_name_suffix_data(name)
        file = f"{name}-{quality}-{digest[:8]}.pth"
        url = f"{store.imgclsmob_repo_url}/releases/download/{release}/{file}.zip"
        raise absent(f"pytorchcv's weights of {name}", error, url, f"~/.torch/models, unpacked, as {file}") from error


def _published(store: Any) -> Any:
    table = getattr(store, "get_model_metainfo_dict", None)
    return store._model_sha1 if table is None else table()


def _model_store() -> Any:
    try:
        return importlib.import_module("pytorchcv.models.common.model_store")
    except ModuleNotFoundError:  # where pytorchcv 0.0.67 has it
        return importlib.import_module("pytorchcv.models.model_store")
