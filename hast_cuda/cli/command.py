"""The command line that makes a run again, from its ``config.json``."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from pathlib import Path
from typing import Any

from hast_cuda.cli.options import Network
from hast_cuda.loops.execution import Execution
from hast_cuda.methods import PRESETS, available
from hast_cuda.methods import recipe as recipe_of
from hast_cuda.methods.recipe import SECTIONS, dataset_like
from hast_cuda.run import plain, read_config, read_recipe, read_synthesis_config
from hast_cuda.run.settings import image_folder


def network_of(config: dict[str, Any]) -> Network:
    """The network that a run names; ValueError if it names none that options can."""
    found = config.get("network")
    known = {f.name for f in dataclasses.fields(Network)}
    if not isinstance(found, dict) or found.keys() - known or not _is_network(found):
        raise ValueError(
            f"the network in config.json is {found!r}, made from Python: no option names it; give "
            "--model"
        )
    weights = found.get("weights")
    return Network(**{**found, "weights": None if weights is None else Path(weights)})


def _is_network(found: dict[str, Any]) -> bool:
    """Whether the values have the types of :class:`Network`'s fields."""
    texts = all(
        isinstance(found.get(name), (str, type(None))) for name in ("weights", "normalization")
    )
    counts = all(
        found.get(name) is None or (type(found[name]) is int and 0 < found[name] < 2**20)
        for name in ("image_size", "num_classes")
    )
    return isinstance(found.get("model"), str) and texts and counts


def chosen_network(config: dict[str, Any], given: dict[str, Any]) -> Network:
    """The network of a command about a run: what was given, completed by what the run names.

    Args:
        config: of the run.
        given: values of :class:`Network`; those of another model than the run's stand alone.

    Raises:
        ValueError: see :func:`network_of`; or "module:callable" that nobody gave: only whoever runs
            a command may name code to run, not a file.
    """
    named = config.get("network")
    model = named.get("model") if isinstance(named, dict) else None
    if given.get("model", model) != model:
        return Network(**given)
    found = network_of(config)
    if "model" not in given and ":" in found.model:
        raise ValueError(
            f"the network in config.json is {found.model!r}, code that is not run because a file "
            f"says so; if you trust it, give --model {found.model}"
        )
    return dataclasses.replace(found, **given)


def command_of(run: Path, out: Path, device: str | None = None) -> list[str]:
    """Arguments of ``hast-cuda`` that ask for the same recipe on the same network.

    Args:
        run: run directory of ``quantize``, ``finetune``, ``demo``, ``reproduce`` or ``synthesize``.
        out: directory of the new run.
        device: "cpu" or "cuda", if it is to be named.

    Raises:
        ValueError: a run that only Python code can make; the message says which setting.
    """
    config = read_config(run)
    network = network_of(config)
    if "bits" in config:
        verb, options = "quantize", _quantize(run, config, network)
    else:
        base = recipe_of("hast", "default", dataset_like(network.spec()))
        changed = _changes("synthesis", base.synthesis, read_synthesis_config(run))
        verb, options = "synthesize", _assignments(changed)
    named = [
        flag
        for field in dataclasses.fields(Network)
        if (value := getattr(network, field.name)) is not None
        for flag in (_flag(field.name), str(value))
    ]
    seed = ["--seed", str(config.get("seed", 0))]
    where = [] if device is None else ["--device", device]
    return [
        verb, *named, *options, *_execution(config.get("execution") or {}), *seed, *where, "--out",
        str(out),
    ]  # fmt: skip


def shell(arguments: list[str]) -> str:
    """The arguments as one line for a shell."""
    return shlex.join(["hast-cuda", *arguments])


def _quantize(run: Path, config: dict[str, Any], network: Network) -> list[str]:
    method, preset = config.get("method"), config.get("preset")
    if method not in available() or preset not in PRESETS:
        message = f"method {method!r} with preset {preset!r} is not one of those that have a name"
        raise ValueError(message)
    recipe = read_recipe(run)
    base = recipe_of(method, preset, dataset_like(network.spec()))
    if recipe.images != base.images:
        raise ValueError(f"its images are {recipe.images!r}, those of {method} {base.images!r}")
    changed: list[str] = []
    for section in SECTIONS:
        changed += _changes(section, getattr(base, section), getattr(recipe, section))
    return [
        "--method", method, "--preset", preset, *_bits(config["bits"]), *_data(run, config),
        *_assignments(changed),
    ]  # fmt: skip


def _bits(bits: dict[str, Any]) -> list[str]:
    if bits["activations"] is None:
        raise ValueError("it quantizes weights only, and quantize quantizes activations too")
    kept = list(bits["overrides"])
    if any(value is not None for o in bits["overrides"].values() for value in o.values()):
        message = f"some layers have bits of their own ({', '.join(kept)}), for which is no option"
        raise ValueError(message)
    flags = [
        "--weight-bits", str(bits["weights"]), "--act-bits", str(bits["activations"]),
        "--placement", bits["placement"],
    ]  # fmt: skip
    return [*flags, "--full-precision", *kept] if kept else flags


def _data(run: Path, config: dict[str, Any]) -> list[str]:
    flags = [
        part
        for name in ("data", "test_limit", "train_data")
        if config.get(name) is not None
        for part in (_flag(name), str(config[name]))
    ]
    if config.get("images"):
        flags += ["--images", os.path.normpath(image_folder(run, config))]
    return flags


def _changes(section: str, base: Any, found: Any) -> list[str]:
    """Assignments for --set that turn one configuration into the other."""
    old, new = plain(base), plain(found)
    return [
        f"{section}.{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in new.items()
        if value != old[name]
    ]


def _assignments(changed: list[str]) -> list[str]:
    return ["--set", *changed] if changed else []


def _execution(found: dict[str, Any]) -> list[str]:
    """Flags of the options that differ from the defaults."""
    flags = []
    for name, usual in dataclasses.asdict(Execution()).items():
        value = found.get(name, usual)
        if value == usual:
            continue
        if isinstance(value, bool):
            flags.append(_flag(name) if value else _flag(f"no_{name}"))
        else:
            flags += [_flag(name), str(value)]
    return flags


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
