"""Teachers: a pretrained network by name, import path or object, and the images it expects."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import LARGEST_CLASSES, as_path, check_range
from hast_cuda.data.input_spec import InputSpec, parse_normalization
from hast_cuda.networks.origin import remember
from hast_cuda.networks.shape import infer_shape
from hast_cuda.teachers import own
from hast_cuda.teachers.from_timm import split_norms
from hast_cuda.teachers.library import crop_side
from hast_cuda.teachers.names import find, is_own, names
from hast_cuda.teachers.weights import load_weights


@typed
def load_teacher(
    model: str | nn.Module,
    *,
    weights: Path | str | None = None,
    num_classes: int | None = None,
    model_args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A pretrained network in eval mode, on the CPU unless ``model`` is a network elsewhere.

    Args:
        model: a pytorchcv name ("resnet20_cifar10", "resnet18", ...), "torchvision:resnet18",
            "timm:efficientnet_lite0", "hf-hub:timm/resnet18.a1_in1k", "digits" (the embedded demo
            network), "package.module:callable", "file.py:callable" (in the current folder) or a
            network, which is changed in place.
        weights: .safetensors file or torch state dict, see ``load_weights``; None downloads the
            library's own weights, and leaves every other network with the weights it came with.
        num_classes: size of the classifier to build for a library's name; any other network only
            has its ``num_classes`` attribute, where there is one, compared with it.
        model_args: keyword arguments of the library's constructor or of the callable; torchvision's
            ``weights`` is the name of one of its entries, such as "IMAGENET1K_V1".

    Raises:
        ValueError: unknown name, wrong class count, or weights that do not fit the network.
        FileNotFoundError: ``weights`` is not a file.
        ImportError: the import path leads nowhere, or the library is not installed.
        TypeError: the callable's result is not an nn.Module, or it does not take ``model_args``.
        RuntimeError: the download failed; the message names the file to bring.

    Example:
        >>> import hast_cuda as hc
        >>> hc.load_teacher("digits")(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    if num_classes is not None:
        check_range("num_classes", num_classes, 1, LARGEST_CLASSES)
    if not isinstance(model, str):
        if model_args:
            raise ValueError("model_args are for a name; this network is already made")
        network = model
    elif weights is None:
        library, name = find(model, arguments := dict(model_args or {}))
        network = _made(lambda: library.trained(name, arguments), model)
    else:
        network = _built(model, num_classes, model_args)
    built = getattr(network, "num_classes", None)
    if num_classes is not None and isinstance(built, int) and built != num_classes:
        label = f"model={model!r}" if isinstance(model, str) else type(model).__name__
        raise ValueError(
            f"num_classes={num_classes}, but {label} has {built} classes: leave "
            "num_classes away, or give the network that has them"
        )
    if weights is not None:
        load_weights(network, as_path("weights", weights))
    if not isinstance(model, str):
        return network.eval()
    return _named(network, model, num_classes, model_args)


@typed
def input_spec(
    model: str | nn.Module,
    *,
    normalization: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
    model_args: Mapping[str, Any] | None = None,
) -> InputSpec:
    """The images that a network expects.

    Args:
        model: as for ``load_teacher``; the name of a library defines everything, an import path or
            a network only the number of classes, which one forward pass on zeros tells.
        normalization: see ``parse_normalization``; replaces the named network's own.
        image_size: height and width in pixels, one number where they are equal; replaces the named network's own.
        num_classes: replaces the named network's own; 0 for one that classifies nothing.
        model_args: as for ``load_teacher``.

    Raises:
        ValueError: unknown name, or a network of one's own without normalization and image size.
        ImportError, TypeError, RuntimeError: as ``load_teacher``.

    Example:
        >>> input_spec("digits").size
        (1, 8, 8)
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if size is not None and len(size) != 2:
        raise ValueError(f"image_size={image_size} is not one number or (height, width)")
    for name, number, least in (*(("image_size", side, 1) for side in size or ()), ("num_classes", num_classes, 0)):
        if number is not None:
            check_range(name, number, least, LARGEST_CLASSES)
    given: dict[str, Any] = {}
    if normalization is not None:
        given["mean"], given["std"] = parse_normalization(normalization)
    if size is not None:
        given |= {"height": size[0], "width": size[1]}
    if num_classes is not None:
        given["num_classes"] = num_classes
    arguments = dict(model_args or {})
    if (not isinstance(model, str) or is_own(model)) and normalization and size:
        channels = len(given["mean"])
        if num_classes is None:
            network = build_network(model, None, arguments) if isinstance(model, str) else model
            given["num_classes"] = infer_shape(network, (channels, *size)).num_classes
        return InputSpec(channels, **given)
    if not isinstance(model, str):
        return own.spec(type(model).__name__, arguments)
    library, name = find(model, arguments)
    spec = library.spec(name, arguments)
    if size is not None and spec.resize is not None:
        given["resize"] = crop_side(max(size))
    return dataclasses.replace(spec, **given)


@typed
def build_network(model: str, num_classes: int | None = None, model_args: Mapping[str, Any] | None = None) -> nn.Module:
    """The architecture that ``load_teacher`` would load, with random weights, in eval mode.

    Raises:
        ValueError: unknown name or wrong class count. ImportError, TypeError: as ``load_teacher``.

    Example:
        >>> build_network("digits").num_classes
        10
    """
    return _named(_built(model, num_classes, model_args), model, num_classes, model_args)


def model_names() -> list[str]:
    """Every name of a library that is installed, sorted; timm's and torchvision's with their prefix.

    Example:
        >>> "resnet18" in model_names()
        True
    """
    return names()


def _named(network: nn.Module, model: str, num_classes: int | None, model_args: Mapping[str, Any] | None) -> nn.Module:
    """``network``, in eval mode, as the package takes it, and knowing its name."""
    network = split_norms(network).eval()
    texts = [f"{name}={value!r}" for name, value in (model_args or {}).items()]
    remember(network, network={"model": model, "num_classes": num_classes, "model_args": texts})
    return network


def _built(model: str, num_classes: int | None, model_args: Mapping[str, Any] | None) -> nn.Module:
    """As ``build_network``, with the names that weights files have."""
    library, name = find(model, arguments := dict(model_args or {}))
    return _made(lambda: library.build(name, arguments, num_classes), model)


def _made(make: Callable[[], nn.Module], model: str) -> nn.Module:
    """The network; the constructor's complaint about its arguments names the network."""
    try:
        return make()
    except TypeError as error:
        raise TypeError(f"model={model!r}: {error} (--model-args NAME=VALUE are its keyword arguments)") from error
