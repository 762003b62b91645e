"""The command line that makes a run again, from its ``config.json``."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from pathlib import Path
from typing import Any

from hast_cuda.cli.bits import bits_flags
from hast_cuda.cli.network import network_of
from hast_cuda.loops.execution import Execution
from hast_cuda.methods import PRESETS, Recipe, available
from hast_cuda.methods import recipe as recipe_of
from hast_cuda.methods.recipe import SECTIONS, dataset_like
from hast_cuda.run import read_config, read_recipe
from hast_cuda.run.directory import plain
from hast_cuda.run.fitted import Sizes, free_numbers
from hast_cuda.run.settings import image_folder, read_synthesis_config


def command_of(run: Path, out: Path, device: str | None = None) -> list[str]:
    """Arguments of ``hast-cuda`` that ask for the same recipe on the same network.

    Args:
        run: run directory of ``quantize``, ``finetune``, ``demo``, ``reproduce`` or ``synthesize``, or its
            ``config.json`` by whatever name.
        out: directory of the new run.
        device: "cpu" or "cuda", if it is to be named.

    Raises:
        ValueError: a run that only Python code can make; the message says which setting.
    """
    config = read_config(run)
    network = network_of(config)
    like = dataset_like(network.spec())
    if "bits" in config:
        verb, options = "quantize", _quantize(run, config, like)
    else:
        base = recipe_of("hast", "default", like)
        made = dataclasses.replace(base, synthesis=read_synthesis_config(run))
        verb, options = "synthesize", _changes(base, made, Sizes(student=False))
    found, usual = config.get("execution") or {}, vars(Execution())
    execution = {n: found[n] for n, value in usual.items() if found.get(n, value) != value}
    last = _flags({"seed": config.get("seed", 0), "device": device, "out": out})
    return [verb, *_flags(network.given()), *options, *_flags(execution), *last]


def shell(arguments: list[str]) -> str:
    """The arguments as one line for a shell."""
    return shlex.join(["hast-cuda", *arguments])


def _quantize(run: Path, config: dict[str, Any], like: str) -> list[str]:
    method, preset = config.get("method"), config.get("preset")
    if method not in available() or preset not in PRESETS:
        raise ValueError(f"method {method!r} with preset {preset!r} is not one of those that have a name")
    recipe, base = read_recipe(run), recipe_of(method, preset, like)
    if recipe.images != base.images:
        raise ValueError(f"its images are {recipe.images!r}, those of {method} {base.images!r}")
    bits = config["bits"]
    ends = recipe.posttraining.end_bits  # the recipe sets these again
    own = {n: o for n, o in bits["overrides"].items() if not (ends and set(o.values()) == {ends})}
    whole = all(value is None for o in own.values() for value in o.values())
    here = run.parent if run.is_file() else run
    images = os.path.normpath(image_folder(here, config)) if config.get("images") else None
    named = {name: config.get(name) for name in ("data", "test_limit", "train_data")}
    return [
        *_flags({"method": method, "preset": preset, "weight_bits": bits["weights"]}),
        *_flags(
            {"act_bits": bits["activations"] or "none", "placement": bits["placement"], "sum_bits": bits.get("sums")}
        ),
        *(["--symmetric-weights"] if bits.get("symmetric_weights") else []),
        *(bits_flags(own) if not whole else ["--full-precision", *own] if own else []),
        *_flags(named | {"images": images}),
        *_changes(base, recipe, Sizes()),
    ]


def _changes(base: Recipe, recipe: Recipe, sizes: Sizes) -> list[str]:
    """--set and the assignments that turn one recipe into the other, and leave no number to a budget."""
    old, new, said = plain(base), plain(recipe), free_numbers(recipe, sizes)
    changed = [
        f"{section}.{name}={value if isinstance(value, str) else json.dumps(value)}"
        for section in SECTIONS
        for name, value in new[section].items()
        if value != old[section].get(name) or f"{section}.{name}" in said
    ]
    return ["--set", *changed] if changed else []


def _flags(values: dict[str, Any]) -> list[str]:
    """Options that have these values; those that are None are left out."""
    flags = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, tuple):
            flags += [f"--{flag}", *map(str, value)]
        elif value is not None:
            flags += [f"--{flag}", str(value)]
    return flags
