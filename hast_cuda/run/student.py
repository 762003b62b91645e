"""A quantized network in one file, or in the directory of its run: written, and read back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_path, check_values
from hast_cuda.exports import load_packed, read_packed, save_packed
from hast_cuda.files.tensors import DamagedFileError, load_tensors, restore, save_tensors
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.networks.origin import origin_of, remember
from hast_cuda.nn import Override
from hast_cuda.posttraining import PostTrainingConfig, prepare
from hast_cuda.run.inputs import Bits, quantize_to
from hast_cuda.run.settings import read_config, settings
from hast_cuda.teachers import build_network
from hast_cuda.teachers.names import is_own, parse_arguments


@typed
def save(student: nn.Module, path: Path | str, describe: Mapping[str, Any] | None = None) -> Path:
    """Write a quantized network as one safetensors file, its weights packed; :func:`load` reads it again.

    The file says what was made of which network, as far as ``student`` knows: of one that
    :func:`hast_cuda.load_teacher` has loaded by the name of a library, ``load(path)`` is all that is
    needed. Of a class of your own it is ``load(path, YourClass(...))``, with any weights: a file names no
    code to run.

    Args:
        student: from :func:`hast_cuda.zero_shot_quantize`, or calibrated after :func:`hast_cuda.quantize`.
        path: of the file, in a directory that is there.
        describe: more to keep in it, JSON values.

    Raises:
        ValueError, TypeError, OSError: as :func:`hast_cuda.exports.save_packed`.

    Example:
        >>> import hast_cuda as hc
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, None)
        >>> hc.load(hc.save(student, "mine.safetensors"))(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    return save_packed(student, path, {**origin_of(student), **(describe or {})}).file


@typed
def load(path: Path | str, network: nn.Module | str | None = None) -> nn.Module:
    """A quantized network, in eval mode on the CPU, ready for images; no training code runs.

    Args:
        path: finished run directory, or a file of :func:`hast_cuda.save` or ``hast-cuda export --to packed``.
        network: the full-precision architecture, with any weights, or its name; None
            takes the name that the run was given. Never edited.

    Raises:
        FileNotFoundError: nothing there, or an unfinished run.
        ValueError: another network, damaged files, or no name that ``network=None`` could take:
            of a network given as "module:callable" or from Python, which is no file's to run.

    Example:
        >>> import hast_cuda as hc
        >>> _ = hc.zero_shot_quantize(hc.load_teacher("digits"), (1, 8, 8), method="rtn", out="run")
        >>> hc.load("run", "digits")(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    path = as_path("path", path)
    if path.is_dir():
        config = read_config(path)
        return load_student(_architecture(network, config, path), path)
    content = read_packed(path)[1]
    described = content.get("describe", {})
    base = _architecture(network, described, path, str(content.get("network")))
    before = described.get("posttraining")
    if before is not None:
        base = prepare(base, settings(PostTrainingConfig, dict(before), path))
    student = load_packed(path, base)
    remember(student, **{key: described[key] for key in ("network", "posttraining") if key in described})
    return student


def _architecture(
    given: nn.Module | str | None, described: Mapping[str, Any], path: Path, kind: str = "network"
) -> nn.Module:
    if isinstance(given, nn.Module):
        return given
    named = described.get("network")
    model, classes, arguments = given, None, ()
    if given is None and isinstance(named, dict):
        model, classes, arguments = named.get("model"), named.get("num_classes"), named.get("model_args", ())
    if not isinstance(model, str) or (given is None and is_own(model)):
        raise ValueError(
            f"{path} names no network that a file may name ({model!r}): give network, the full-precision "
            f"architecture with any weights, hast_cuda.load({path.name!r}, {kind}(...)), or its name"
        )
    try:
        return build_network(
            model, classes if classes and isinstance(classes, int) else None, parse_arguments(arguments)
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"network={model!r} cannot be built: {error}") from error


@typed
def load_student(teacher: nn.Module, run: Path | str) -> nn.Module:
    """The quantized network of ``run``, built from its full-precision ``teacher``.

    What the run's recipe did to the teacher before quantizing it (``posttraining``: folding and the
    like) is done here too, and activations have the gradient that it was trained with.

    Raises:
        FileNotFoundError: the run is not finished. ValueError: its files are corrupt, or the
            teacher is another network.

    Example:
        >>> import hast_cuda as hc
        >>> teacher = hc.load_teacher("digits")
        >>> done = hc.zero_shot_quantize(teacher, (1, 8, 8), method="rtn", out="run")
        >>> load_student(teacher, "run").training
        False
    """
    run = as_path("run", run)
    config_path, weights = run / "config.json", run / "student.safetensors"
    for path in (config_path, weights):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: {run} is not a finished run directory")
    try:
        config = read_config(run)
        bits, recipe = config["bits"], config.get("recipe", {})
        before = recipe.get("posttraining")
        tuning = settings(FinetuneConfig, recipe.get("finetune", {}), run)
        if before is not None:
            teacher = prepare(teacher, settings(PostTrainingConfig, before, run))
        overrides = {name: settings(Override, o, run) for name, o in bits["overrides"].items()}
        width = bits["weights"], bits["activations"], bits["placement"]
        found = Bits(*width, overrides, bits.get("sums", 8), bits.get("symmetric_weights", False))
        student = quantize_to(found, teacher, ste=tuning.ste)
        remember(student, posttraining=before)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{config_path} is not the configuration of a run ({error!r})") from error
    return load_weights(student, weights).eval()


def load_weights(student: nn.Module, weights: Path) -> nn.Module:
    """``student`` with the weights of a finished run; ValueError if they do not fit."""
    try:
        restore(student, load_tensors(weights)[0])
    except (DamagedFileError, RuntimeError) as error:
        raise ValueError(
            f"{weights} is corrupt or belongs to another network: {error}. Of a corrupt one: "
            "delete it, and the command of the run makes it again from what else it kept"
        ) from error
    return student


@typed
def save_student(student: nn.Module, path: Path | str, described: Mapping[str, Any]) -> None:
    """Write the state dict of the quantized network; the metadata says how it was made.

    Raises:
        ValueError: a network without values, or a name that no file can have.

    Example:
        >>> import hast_cuda as hc
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, None)
        >>> save_student(student, "student.safetensors", {"seed": 3})
    """
    check_values("student", student)
    tensors = {  # clone: safetensors refuses tensors that share memory (a shared module)
        k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in student.state_dict().items()
    }
    save_tensors(as_path("path", path), tensors, {k: str(v) for k, v in described.items()})
