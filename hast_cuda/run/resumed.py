"""From where an unfinished run goes on."""

from __future__ import annotations

import json
from pathlib import Path

from hast_cuda.files.tensors import read_metadata
from hast_cuda.run.directory import RunDirectory
from hast_cuda.run.settings import image_store


def goes_on(run: Path) -> str:
    """What the same command would begin with, in words."""
    if not (run / "config.json").exists():
        return "nothing was kept yet, the same command begins anew"
    found = RunDirectory.open(run)
    if found.result() is not None:
        return f"{run} is finished, the same command gives its result"
    if found.checkpoint.exists():
        step = read_metadata(found.checkpoint).get("iteration", "0")
        return f"the same command goes on at step {step} of fine-tuning"
    if found.reconstruction.exists():
        blocks = len(json.loads(read_metadata(found.reconstruction).get("done", "[]")))
        return f"the same command goes on after block {blocks} of reconstruction"
    batches = len(image_store(run).finished())
    return f"the same command goes on with batch {batches} of images, those before it are kept"
