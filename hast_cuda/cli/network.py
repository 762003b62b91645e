"""The full-precision network of a command: by its options, or the one that a run directory names."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from hast_cuda.checks.typed import LATER, check_fields
from hast_cuda.checks.values import LARGEST_CLASSES, check_range
from hast_cuda.data import InputSpec
from hast_cuda.files.tensors import file_digest
from hast_cuda.run import read_config
from hast_cuda.run.directory import plain
from hast_cuda.run.origins import DIGEST, check_network
from hast_cuda.teachers import input_spec, load_teacher
from hast_cuda.teachers.names import is_own, parse_arguments


@dataclass(frozen=True)
class Network:
    """The full-precision network; a command about a run takes the one that the run names."""

    model: str | None = None
    """pytorchcv name (resnet20_cifar10, ...), torchvision:NAME, timm:NAME, hf-hub:OWNER/NAME,
    "digits", module:callable or file.py:callable."""
    weights: Path | None = None
    """Pretrained weights (.safetensors or a state dict); default: the library's download."""
    normalization: str | None = None
    """"cifar10", "imagenet", ... or "mean,mean,mean/std,std,std", of a network of your own as many as it has
    channels; default: that of the model."""
    image_size: int | tuple[int, int] | None = None
    """Height and width, one number where they are equal; needed for a network of your own."""
    num_classes: int | None = None
    """Number of classes, where a library shall build another classifier than its own; 0: none, whatever it gives."""
    model_args: tuple[str, ...] = field(default=(), metadata=LATER)
    """Keyword arguments of the network, e.g. width=0.5 num_classes=10."""

    def given(self) -> dict[str, Any]:
        """What is not left to its default."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in found.items() if value not in (None, ())}

    def spec(self) -> InputSpec:
        """The images that the network takes; one of your own is asked for its classes."""
        asked = is_own(self._model) and self.num_classes is None and self.normalization and self.image_size
        return input_spec(
            self.load() if asked else self._model,
            normalization=self.normalization,
            image_size=self.image_size,
            num_classes=self.num_classes,
            model_args=None if asked else self._arguments,
        )

    def load(self) -> nn.Module:
        """The network with its weights, in eval mode; every call gives the same one."""
        return self._loaded

    def described(self, spec: InputSpec) -> dict[str, Any]:
        """What a run remembers: enough to load it again, from anywhere."""
        found: dict[str, Any] = plain(self)
        if self.weights is not None:
            path = Path(find(str(self.weights))).resolve()
            found |= {"weights": str(path), DIGEST: file_digest(path)}
        if is_own(self._model):
            found["num_classes"] = spec.num_classes
        return found

    @cached_property
    def _loaded(self) -> nn.Module:
        weights = None if self.weights is None else find(str(self.weights))
        classes = self.num_classes or None  # 0 is said of a network, and asked of no constructor
        return load_teacher(self._model, weights=weights, num_classes=classes, model_args=self._arguments)

    @property
    def _model(self) -> str:
        if self.model is None:
            raise ValueError("no network is named: give --model NAME (hast-cuda models lists names)")
        return self.model

    @property
    def _arguments(self) -> dict[str, Any]:
        return parse_arguments(self.model_args)


ANY_NETWORK = Network()


def find(path: str) -> str:
    """``path``, or the same under $HAST_CUDA_DATA where only that one exists."""
    folder = os.environ.get("HAST_CUDA_DATA")
    if folder and not Path(path).exists() and (Path(folder) / path).exists():
        return str(Path(folder) / path)
    return path


def network_of(config: dict[str, Any]) -> Network:
    """The network that a run names; ValueError if it names none that options can."""
    found = config.get("network")
    try:
        values: dict[str, Any] = {key: v for key, v in {**found}.items() if key != DIGEST}  # type: ignore[dict-item]
        if isinstance(values.get("weights"), str):
            values["weights"] = Path(values["weights"])
        for name in ("model_args", "image_size"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        network = Network(**values)
        check_fields(network)
        size = values.get("image_size") or 1
        for side in size if isinstance(size, tuple) else (size,):
            check_range("image_size", side, 1, LARGEST_CLASSES)
        check_range("num_classes", values.get("num_classes") or 1, 1, LARGEST_CLASSES)
        if network.model is None:
            raise ValueError("it has no model")
        if is_own(network.model) and network.num_classes is None:
            raise ValueError("only its code could tell its classes")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the network in config.json is {found!r}, made from Python: no option names it; give --model"
        ) from error
    return network


def chosen_network(config: dict[str, Any], given: dict[str, Any]) -> Network:
    """The network of a command about a run: what was given, completed by what the run names.

    Args:
        config: of the run.
        given: values of :class:`Network`; those of another model than the run's stand alone.

    Raises:
        ValueError: see :func:`network_of`; "module:callable" that nobody gave: only whoever runs
            a command may name code to run, not a file; or the file of the weights is another one
            than it was. FileNotFoundError: it is not there.
    """
    named = config.get("network")
    model = named.get("model") if isinstance(named, dict) else None
    if given.get("model", model) != model:
        return Network(**given)
    found = network_of(config)
    assert found.model is not None
    assert isinstance(named, dict)
    if "model" not in given and is_own(found.model):
        raise ValueError(
            f"the network in config.json is {found.model!r}, code that is not run because a file "
            f"says so; if you trust it, give --model {found.model}"
        )
    if found.weights is not None and "weights" not in given:
        _check_file(Path(find(str(found.weights))), named.get(DIGEST))
    return dataclasses.replace(found, **given)


def opened(run: Path, network: Network) -> tuple[Network, nn.Module, InputSpec]:
    """The network of a run, loaded, and the images that it takes.

    Args:
        run: directory; names what is not given.
        network: as given.

    Raises:
        ValueError: other weights than the run was made from; and as :func:`chosen_network`.
    """
    config = read_config(run)
    full = chosen_network(config, network.given())
    spec, teacher = full.spec(), full.load()
    check_network(teacher, config, run)
    return full, teacher, spec


def _check_file(path: Path, digest: object) -> None:
    """That the weights of a run are where they were, and what they were."""
    if not path.is_file():
        raise FileNotFoundError(f"the run was made from {path}, which is not there: give --weights {path.name}")
    if isinstance(digest, str) and file_digest(path) != digest:
        raise ValueError(
            f"the run was made from {path}, which is another file now: give --weights with the file whose "
            f"SHA-256 begins with {digest[:16]}"
        )
