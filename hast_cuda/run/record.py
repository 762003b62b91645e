"""What a run directory says about the run: its settings and the images that it trained on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from hast_cuda.finetune import FinetuneConfig
from hast_cuda.synthesis import ImageStore, SyntheticImages


def read_config(run: Path | str) -> dict[str, Any]:
    """``config.json`` of a run directory.

    Raises:
        FileNotFoundError: it is not a run directory. ValueError: the file is corrupt.
    """
    path = Path(run) / "config.json"
    if not path.exists():
        message = f"{run} is not a run directory (no config.json)"
        raise FileNotFoundError(message)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        message = f"{path} is not valid JSON ({error})"
        raise ValueError(message) from error
    if not isinstance(found, dict):
        message = f"{path} is not the configuration of a run: it holds a {type(found).__name__}"
        raise ValueError(message)
    return found


def read_finetune_config(run: Path | str) -> FinetuneConfig:
    """The fine-tuning settings that a run was made with.

    Fields that the run's version did not know keep their defaults.

    Raises:
        FileNotFoundError: it is not a run directory. ValueError: ``quantize`` did not make it, or
            its settings are not those of this version.
    """
    config = read_config(run)
    try:
        values: dict[str, Any] = dict(config["recipe"]["finetune"])
    except (KeyError, TypeError, ValueError) as error:
        message = f"{run} holds no fine-tuning (config.json: {error!r}): make it with quantize"
        raise ValueError(message) from error
    unknown = sorted(values.keys() - {f.name for f in dataclasses.fields(FinetuneConfig)})
    if unknown:
        message = f"{run} was made with settings that this version does not know: {unknown}"
        raise ValueError(message)
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return FinetuneConfig(**given)


def read_images(run: Path | str) -> SyntheticImages:
    """The synthetic images of a run: its own, or those of the directory that it was given.

    A relative name in ``config.json`` is looked up from the run directory, then from here.

    Raises:
        FileNotFoundError: it is not a run directory. ValueError: no images, or corrupt ones.
    """
    run = Path(run)
    given = read_config(run).get("images")
    store = ImageStore(run / (given or "images"))
    if given and not store.finished():
        store = ImageStore(Path(given))
    return store.load_all()
