"""Teachers: a pretrained network by name, import path or object, and the images it expects."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import LARGEST_CLASSES, as_path, check_range
from hast_cuda.data import digits
from hast_cuda.data.image_set import DIGITS
from hast_cuda.data.input_spec import NORMALIZATIONS, InputSpec, parse_normalization
from hast_cuda.teachers.digits import DigitsResNet, load_digits_network
from hast_cuda.teachers.weights import load_state, load_weights, read_state

# pytorchcv also has networks for segmentation, detection, pose, video and speech: no class logits.
_OTHER_SUFFIXES = ("_voc", "_coco", "_cityscapes", "_ade20k", "_celebamaskhq", "_widerface")
_OTHER_PREFIXES = (
    *("jasper", "quartznet", "nvpattexp", "pfpcnet", "propainter", "raft"),
    *("superpointnet", "visemenet", "voca"),
)
_SMALL = ("_cifar10", "_cifar100", "_svhn")


@typed
def load_teacher(
    model: str | nn.Module, *, weights: Path | str | None = None, num_classes: int | None = None
) -> nn.Module:
    """A pretrained network in eval mode, on the CPU unless ``model`` is a network elsewhere.

    Args:
        model: a pytorchcv name ("resnet20_cifar10", "resnet18", ...), "digits" (the embedded demo
            network), "package.module:callable" (called without arguments) or a network, which is
            changed in place.
        weights: .safetensors file or torch state dict; None downloads pytorchcv's own weights, and
            leaves every other network with the weights it came with.
        num_classes: size of the classifier to build for a pytorchcv name; any other network only
            has its ``num_classes`` attribute, where there is one, compared with it.

    Raises:
        ValueError: unknown name, wrong class count, or weights that do not fit the network.
        FileNotFoundError: ``weights`` is not a file.
        ImportError: the import path leads nowhere.
        TypeError: ``model`` or the callable's result is not an nn.Module.
        RuntimeError: the download failed.

    Example:
        >>> import hast_cuda as hc
        >>> hc.load_teacher("digits")(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    if num_classes is not None:
        check_range("num_classes", num_classes, 1, LARGEST_CLASSES)
    if not isinstance(model, str):
        network = _as_network(model, "model")
    elif model == DIGITS:
        network = DigitsResNet() if weights is not None else load_digits_network()
    elif ":" in model:
        network = _import_network(model)
    else:
        network = _build(model, num_classes, pretrained=weights is None)
    built = getattr(network, "num_classes", None)
    if num_classes is not None and isinstance(built, int) and built != num_classes:
        label = f"model={model!r}" if isinstance(model, str) else type(model).__name__
        raise ValueError(
            f"num_classes={num_classes}, but {label} has {built} classes: leave "
            "num_classes away, or give the network that has them"
        )
    if weights is not None:
        load_weights(network, as_path("weights", weights))
    return network.eval()


@typed
def input_spec(
    model: str, *, normalization: str | None = None, image_size: int | None = None, num_classes: int | None = None
) -> InputSpec:
    """The images that a network expects.

    Args:
        model: as for ``load_teacher``; a name defines everything, an import path nothing.
        normalization: see ``parse_normalization``; replaces the named network's own.
        image_size: height and width in pixels; replaces the named network's own.
        num_classes: replaces the named network's own.

    Raises:
        ValueError: unknown name, or an import path without all three keywords.

    Example:
        >>> input_spec("digits").size
        (1, 8, 8)
    """
    for name, number in (("image_size", image_size), ("num_classes", num_classes)):
        if number is not None:
            check_range(name, number, 1, LARGEST_CLASSES)
    given: dict[str, Any] = {}
    if normalization is not None:
        given["mean"], given["std"] = parse_normalization(normalization)
    if image_size is not None:
        given |= {"height": image_size, "width": image_size}
    if num_classes is not None:
        given["num_classes"] = num_classes
    if ":" in model:
        if len(given) < 5:
            raise ValueError(
                f"model={model!r} is your own network, whose images are not known: give "
                f"normalization ({', '.join(NORMALIZATIONS)}, or mean/std as numbers), image_size "
                "and num_classes"
            )
        return InputSpec(len(given["mean"]), **given)
    spec = _named_spec(model)
    if image_size is not None and spec.resize is not None:
        given["resize"] = _shorter_side(image_size)
    return dataclasses.replace(spec, **given)


@typed
def build_network(model: str, num_classes: int | None = None) -> nn.Module:
    """The architecture that ``load_teacher`` would load, with random weights, in eval mode.

    Raises:
        ValueError: unknown name or wrong class count. ImportError, TypeError: as ``load_teacher``.

    Example:
        >>> build_network("digits").num_classes
        10
    """
    if model == DIGITS:
        return DigitsResNet().eval()
    network = _import_network(model) if ":" in model else _build(model, num_classes, pretrained=False)
    return network.eval()


def model_names() -> list[str]:
    """Every name that ``load_teacher`` knows, sorted.

    Example:
        >>> "resnet18" in model_names()
        True
    """
    return sorted(name for name in [DIGITS, *_factories()] if _is_classifier(name))


def _named_spec(name: str) -> InputSpec:
    if name == DIGITS:
        return InputSpec(1, 8, 8, DigitsResNet.num_classes, digits.MEAN, digits.STD)
    # The meta device: the sizes without the memory or the seconds of random weights.
    with torch.device("meta"):
        network = _build(name, None, pretrained=False)
    in_size, num_classes = getattr(network, "in_size", None), getattr(network, "num_classes", None)
    if in_size is None or num_classes is None:
        raise ValueError(f"model={name!r} is not an image classifier")
    height, width = in_size
    if name.endswith(_SMALL):
        return InputSpec(3, height, width, num_classes, *NORMALIZATIONS["pytorchcv-cifar"])
    resize = _shorter_side(min(in_size))
    return InputSpec(3, height, width, num_classes, *NORMALIZATIONS["imagenet"], resize)


def _shorter_side(size: int) -> int:
    """The usual evaluation rule of ImageNet networks: the crop is 0.875 of the shorter side."""
    return round(size / 0.875)


def _is_classifier(name: str) -> bool:
    return not name.endswith(_OTHER_SUFFIXES) and not name.startswith(_OTHER_PREFIXES)


def _factories() -> dict[str, Any]:
    from pytorchcv import model_provider  # noqa: PLC0415 - takes a second to import

    factories: dict[str, Any] = model_provider._models
    return factories


def _build(name: str, num_classes: int | None, *, pretrained: bool) -> nn.Module:
    """A network by its pytorchcv name, on the current default device."""
    if name not in _factories() or not _is_classifier(name):
        nearest = difflib.get_close_matches(name, model_names(), n=5)
        hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
        raise ValueError(
            f"model={name!r} is not a classifier of pytorchcv, 'digits' or 'package.module:callable'{hint}"
        )
    sizes = {"num_classes": num_classes} if num_classes is not None and not pretrained else {}
    try:
        network: nn.Module = _factories()[name](**sizes)
    except AssertionError as error:
        if not sizes:
            raise
        raise ValueError(
            f"num_classes={num_classes}: pytorchcv does not build {name} with that many; build the "
            "network yourself and give 'package.module:callable'"
        ) from error
    if pretrained:
        # pytorchcv's pretrained=True unpickles with weights_only=False; read its file ourselves.
        state = read_state(_download(name))
        known = network.state_dict().keys()
        # As pytorchcv does: some of its published files have entries beyond the network's.
        load_state(network, {k: v for k, v in state.items() if k in known}, f"{name} (download)")
    return network


def _download(name: str) -> Path:
    """Path of pytorchcv's own weights, downloaded when not yet there and checked by SHA-1."""
    store = _model_store()
    fix = "give --weights FILE (.safetensors or a torch state dict)"
    if name not in _published(store):
        raise ValueError(f"pytorchcv publishes no weights for model={name!r}: {fix}")
    try:
        return Path(store.get_model_file(model_name=name))
    except (OSError, RuntimeError, ValueError, zipfile.BadZipFile) as error:
        raise RuntimeError(
            f"could not download pytorchcv's weights of {name} ({error}): check the connection, or {fix}"
        ) from error


def _published(store: Any) -> Any:
    table = getattr(store, "get_model_metainfo_dict", None)
    return store._model_sha1 if table is None else table()


def _model_store() -> Any:
    try:
        return importlib.import_module("pytorchcv.models.common.model_store")
    except ModuleNotFoundError:  # where pytorchcv 0.0.67 has it
        return importlib.import_module("pytorchcv.models.model_store")


def _import_network(path: str) -> nn.Module:
    module_name, _, attribute = path.partition(":")
    try:
        target = getattr(importlib.import_module(module_name), attribute)
    except (ModuleNotFoundError, AttributeError, ValueError, TypeError) as error:
        raise ImportError(
            f"model={path!r} cannot be imported ({error}): write 'package.module:callable' and put "
            "its folder on PYTHONPATH"
        ) from error
    if not callable(target):
        raise TypeError(f"model={path!r} is a {type(target).__name__}; it must be a callable")
    return _as_network(target(), f"the result of {path}()")


def _as_network(value: object, label: str) -> nn.Module:
    if not isinstance(value, nn.Module):
        found = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise TypeError(f"{label} must be a torch.nn.Module instance or a name, not {found}")
    return value
