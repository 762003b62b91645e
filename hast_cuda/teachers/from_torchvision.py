"""Networks of torchvision, its published weights and the images that these take."""

from __future__ import annotations

import http.client
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.data.input_spec import InputSpec
from hast_cuda.teachers.library import Arguments, absent
from hast_cuda.teachers.weights import load_state, read_state

# Ported weights, of which torchvision changes the normalisation inside the network; auxiliary
# classifiers are for training alone.
_PORTED = {"transform_input": True, "init_weights": False, "aux_logits": False}
_USUAL = {"googlenet": _PORTED, "inception_v3": _PORTED}
# Files of DenseNets are from when a module's name could have a dot: norm.1 is norm1 now.
_DOTTED = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)")


def names() -> list[str]:
    """Of every classifier."""
    models = _models()
    found: list[str] = models.list_models(module=models)
    return found


def build(name: str, arguments: Arguments, num_classes: int | None = None) -> nn.Module:
    """The architecture with random weights, on the current default device."""
    sizes = {} if num_classes is None else {"num_classes": num_classes}
    given = {key: value for key, value in arguments.items() if key != "weights"}
    network: nn.Module = _models().get_model(name, weights=None, **{**_USUAL.get(name, {}), **given, **sizes})
    return network


def trained(name: str, arguments: Arguments) -> nn.Module:
    """The network with its published weights, those of ``weights`` in ``arguments`` or the newest."""
    entry, network = _weights(name, arguments), build(name, arguments)
    # torchvision would unpickle whatever is in the file; read it ourselves.
    state = {_DOTTED.sub(r"\1\2", key): value for key, value in _download(entry.url).items()}
    if name in _USUAL:
        known = network.state_dict().keys()
        state = {k: v for k, v in state.items() if k in known or not k.lower().startswith("aux")}
    load_state(network, state, f"{name} ({entry})")
    return network


def spec(name: str, arguments: Arguments) -> InputSpec:
    """The images that the published weights were trained on."""
    entry = _weights(name, arguments)
    images, classes = entry.transforms(), arguments.get("num_classes", len(entry.meta["categories"]))
    (size,), (side,) = images.crop_size, images.resize_size
    return InputSpec(len(images.mean), size, size, classes, tuple(images.mean), tuple(images.std), side)


def _models() -> Any:
    from torchvision import models  # noqa: PLC0415 - takes a second to import

    return models


def _weights(name: str, arguments: Arguments) -> Any:
    """An entry of torchvision's table of weights."""
    entries = _models().get_model_weights(name)
    chosen = arguments.get("weights", "DEFAULT")
    if not isinstance(chosen, str) or chosen not in entries.__members__:
        raise ValueError(f"torchvision:{name} has no weights {chosen!r}; it has {', '.join(entries.__members__)}")
    return entries[chosen]


def _download(url: str) -> dict[str, Tensor]:
    """The tensors of a file in torch.hub's folder, downloaded when not yet there."""
    folder, file = Path(torch.hub.get_dir()) / "checkpoints", url.rpartition("/")[2]
    path = folder / file
    if not path.exists():
        digest = re.search(r"-([0-9a-f]{8,})\.", file)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), digest and digest[1])
        except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
            raise absent(f"torchvision's weights {file}", error, url, str(folder)) from error
    return read_state(path)
