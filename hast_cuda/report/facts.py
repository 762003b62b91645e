"""Everything that a run directory says, finished or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hast_cuda.analysis import Histogram
from hast_cuda.data import Images
from hast_cuda.files.json_values import read_object
from hast_cuda.methods import Recipe
from hast_cuda.run import RunDirectory, read_config, read_recipe
from hast_cuda.run.settings import image_store, read_first_images, read_synthesis_config
from hast_cuda.synthesis import SynthesisConfig

IMAGES = 512  # of a run are looked at; the rest may be gigabytes


@dataclass(frozen=True)
class RunFacts:
    """What is in the files of a run; None or empty where a file is not there."""

    path: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    recipe: Recipe | None
    """None: a run of ``synthesize``, which has images alone."""
    synthesis: SynthesisConfig
    result: dict[str, Any] | None
    """Of a finished run."""
    seconds: dict[str, float]
    records: list[dict[str, Any]]
    images: Images | None
    """The first of them."""
    batches: int
    """Shards of images that are there."""
    histograms: dict[str, Histogram]
    exports: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """Of the directory."""
        return self.path.resolve().name

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.batches >= self.wanted_batches if self.recipe is None else bool(self.result)

    @property
    def wanted_batches(self) -> int:
        """Shards of images that the run makes itself."""
        own = self.recipe is None or (self.recipe.images == "synthetic" and not self.config.get("images"))
        return -(-self.synthesis.num_images // self.synthesis.batch_size) if own else 0

    @property
    def iteration(self) -> int:
        """Steps of fine-tuning that are done, as far as the log tells."""
        before = {"finetune": 1, "test": 0}  # steps count from 0, evaluations come after them
        seen = (r for r in self.records if r.get("phase") in before and "iteration" in r)
        return max((int(r["iteration"]) + before[r["phase"]] for r in seen), default=0)


def read_facts(run: Path) -> RunFacts:
    """Read a run directory; ValueError: a file is corrupt, or the settings are those of another version."""
    directory, config = RunDirectory.open(run), read_config(run)
    alone = "bits" not in config and "synthesis" in config
    recipe = None if alone else read_recipe(run)
    if recipe is not None and not isinstance(config.get("bits"), dict):
        raise ValueError(f"{run / 'config.json'} says nothing about bits; it is not that of a run")
    result = directory.result()
    progress = directory.recall()
    return RunFacts(
        path=run,
        config=config,
        environment=_read(run / "environment.json") or {},
        recipe=recipe,
        synthesis=recipe.synthesis if recipe else read_synthesis_config(run),
        result=result,
        seconds=dict((result or progress).get("seconds", {})),
        records=directory.read_log(),
        images=read_first_images(run, IMAGES),
        batches=len(image_store(run).finished()),
        histograms=_histograms(run / "analysis" / "difficulty.json"),
        exports=[_read(p) or {} for p in sorted((run / "exports").glob("*.json"))],
    )


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object, None where there is no file."""
    if not path.exists():
        return None
    return read_object(path, "delete it, or make it anew")


def _histograms(path: Path) -> dict[str, Histogram]:
    """What ``hast-cuda analyze difficulty`` has written."""
    found = (_read(path) or {}).get("difficulty", {})
    try:
        return {str(name): Histogram(tuple(h["edges"]), tuple(h["counts"])) for name, h in found.items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no histograms ({error!r}); make it anew with analyze difficulty") from error
