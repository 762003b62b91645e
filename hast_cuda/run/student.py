"""The finished network of a run directory, written and read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_path, check_values
from hast_cuda.files.tensors import DamagedFileError, load_tensors, save_tensors
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.nn import Override, quantize
from hast_cuda.posttraining import PostTrainingConfig, prepare
from hast_cuda.run.settings import read_config, settings


@typed
def load_student(teacher: nn.Module, run: Path | str) -> nn.Module:
    """The quantized network of ``run``, built from its full-precision ``teacher``.

    What the run's recipe did to the teacher before quantizing it (``posttraining``: folding and the
    like) is done here too, and activations have the gradient that it was trained with.

    Raises:
        FileNotFoundError: the run is not finished. ValueError: its files are corrupt, or the
            teacher is another network.
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
        student = quantize(
            teacher, bits["weights"], bits["activations"], placement=bits["placement"],
            overrides=overrides, ste=tuning.ste,
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{config_path} is not the configuration of a run ({error!r})") from error
    return load_weights(student, weights).eval()


def load_weights(student: nn.Module, weights: Path) -> nn.Module:
    """``student`` with the weights of a finished run; ValueError if they do not fit."""
    try:
        student.load_state_dict(load_tensors(weights)[0])
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
    """
    check_values("student", student)
    path = as_path("path", path)
    tensors = {  # clone: safetensors refuses tensors that share memory (a shared module)
        k: v.detach().cpu().clone(memory_format=torch.contiguous_format)
        for k, v in student.state_dict().items()
    }
    metadata = {k: str(v) for k, v in described.items()}
    save_tensors(path, tensors, metadata)
