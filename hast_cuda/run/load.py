"""A quantized network back from what a run left: its directory, or a packed file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_path
from hast_cuda.exports import load_packed, read_packed
from hast_cuda.posttraining import PostTrainingConfig, prepare
from hast_cuda.run.settings import read_config, settings
from hast_cuda.run.student import load_student
from hast_cuda.teachers import build_network


@typed
def load(path: Path | str, network: nn.Module | str | None = None) -> nn.Module:
    """A quantized network, in eval mode on the CPU, ready for images; no training code runs.

    Args:
        path: finished run directory, or a packed file (:func:`hast_cuda.exports.save_packed`).
        network: the full-precision architecture, with any weights, or its pytorchcv name; None
            takes the name that the run was given. Never edited.

    Raises:
        FileNotFoundError: nothing there, or an unfinished run.
        ValueError: another network, damaged files, or no name that ``network=None`` could take:
            of a network given as "module:callable" or from Python, which is no file's to run.

    Example:
        >>> import hast_cuda as hc
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, None)
        >>> file = hc.export(student, ".", "packed", (1, 8, 8)).file
        >>> hc.load(file, "digits")(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    path = as_path("path", path)
    if path.is_dir():
        config = read_config(path)
        return load_student(_architecture(network, config, path), path)
    described = read_packed(path)[1].get("describe", {})
    base = _architecture(network, described, path)
    before = described.get("posttraining")
    if before is not None:
        base = prepare(base, settings(PostTrainingConfig, dict(before), path))
    return load_packed(path, base)


def _architecture(
    given: nn.Module | str | None, described: Mapping[str, Any], path: Path
) -> nn.Module:
    if isinstance(given, nn.Module):
        return given
    named = described.get("network")
    named = named if isinstance(named, dict) else {}
    model = named.get("model") if given is None else given
    if not isinstance(model, str) or (given is None and ":" in model):
        raise ValueError(
            f"{path} names no network that a file may name ({model!r}): give network, the "
            "full-precision architecture or its name"
        )
    classes = named.get("num_classes") if given is None else None
    try:
        return build_network(model, classes if isinstance(classes, int) else None)
    except ValueError as error:
        message = f"network={model!r} cannot be built: {error}"
        raise ValueError(message) from error
