"""A run on disk: what was asked, where it ran, what it found; the same command continues it."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_device, as_path, check_range
from hast_cuda.files.json_values import read_object
from hast_cuda.files.tensors import read_metadata
from hast_cuda.files.versions import VERSION
from hast_cuda.files.whole import sweep, write_json
from hast_cuda.ops import build_info
from hast_cuda.run import metrics
from hast_cuda.run.lock import lock_run
from hast_cuda.run.origins import KEY, PLACES, TEST, WORDS
from hast_cuda.run.results import read_progress, read_result
from hast_cuda.run.settings import image_folder, image_store
from hast_cuda.run.tensorboard import TensorBoardLog

if TYPE_CHECKING:
    from typing_extensions import Self


def plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {f: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {f.name: plain(v) for f, v in found.items() if not (f.metadata.get("later") and v == f.default)}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


@typed
def environment(device: torch.device, ranks: int = 1) -> dict[str, Any]:
    """Versions, build, device and number of processes, as needed to reproduce a figure."""
    device = as_device(device, meta=True)
    on_gpu = device.type == "cuda"
    return {
        "hast_cuda": VERSION,
        "build": build_info(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "threads": torch.get_num_threads(),
        "ranks": ranks,
    }


def _processor() -> str:
    """The CPU's name where the system tells it, else its architecture."""
    description = Path("/proc/cpuinfo")
    if description.exists():
        for line in description.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class RunReader:
    """The files of a run, to read; needs no lock, because files appear whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"  # what was asked for
        self.metrics = path / "metrics.jsonl"  # one JSON record per line
        self.images = path / "images"
        self.checkpoint = path / "checkpoints" / "last.safetensors"  # of an unfinished fine-tuning
        self.reconstruction = path / "checkpoints" / "reconstruction.safetensors"  # of finished blocks
        self.student = path / "student.safetensors"

    def read_log(self) -> list[dict[str, Any]]:
        """All lines of ``metrics.jsonl``; one cut short by a kill is left out."""
        return metrics.read(self.metrics)

    def recall(self) -> dict[str, Any]:
        """Figures kept by :meth:`RunDirectory.remember`."""
        path = self.path / "progress.json"
        return read_progress(path) if path.exists() else {}

    def result(self) -> dict[str, Any] | None:
        """``result.json`` of a finished run, or None."""
        path = self.path / "result.json"
        return read_result(path) if path.exists() and self.student.exists() else None


class RunDirectory(RunReader):
    """``config.json``, ``environment.json``, ``metrics.jsonl``, images, checkpoints, results.

    It is locked against other processes until :meth:`close`, or the end of a ``with``; :meth:`open`
    gives what only reads it, without a lock.

    Args:
        path: created if it does not exist.
        config: every value of the run.
        device: where it runs.
        tensorboard: write what is logged as event files too, in ``tensorboard/``, with what earlier
            attempts logged.
        ranks: processes that work on it, for ``environment.json``; only rank 0 has this object.

    Raises:
        ValueError: the directory holds a run with another configuration; the difference is shown.
        BlockingIOError: another process works in it. OSError: it cannot be written. ImportError: no
            tensorboard.

    Example:
        >>> with RunDirectory("run", {"seed": 0}, torch.device("cpu")) as run:
        ...     run.log({"iteration": 1, "loss": 0.5})
        >>> RunDirectory.open("run").read_log()
        [{'iteration': 1, 'loss': 0.5}]
    """

    events: TensorBoardLog | None = None

    @typed
    def __init__(
        self,
        path: Path | str,
        config: dict[str, Any],
        device: torch.device,
        *,
        tensorboard: bool = False,
        ranks: int = 1,
    ) -> None:
        path = as_path("path", path)
        check_range("ranks", ranks, 1)
        events = TensorBoardLog(path / "tensorboard") if tensorboard else None
        super().__init__(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise NotADirectoryError(f"run directory {path} is a file; give --out another name") from error
        except PermissionError as error:
            raise PermissionError(
                f"run directory {path} cannot be created; give --out a place you may write to"
            ) from error
        if not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise PermissionError(f"run directory {path} is not writable")
        self._lock = lock_run(path)
        try:
            self._begin(plain(config), environment(device, ranks), events)
        except BaseException:
            self.close()
            raise

    def _begin(self, config: dict[str, Any], where: dict[str, Any], events: TensorBoardLog | None) -> None:
        """Compare with what is there, clear up after a kill, and describe this attempt."""
        if self.config.exists():
            config = self._compared(config)
        for folder in (self.path, self.checkpoint.parent):
            sweep(folder)
        write_json(self.config, config)
        write_json(self.path / "environment.json", where)
        metrics.cut_last_line(self.metrics)
        self.events = events
        if events is not None:
            for record in self.read_log():
                events(record)
            if (found := self.result()) is not None:
                events.result(found)

    @staticmethod
    @typed
    def open(path: Path | str) -> RunReader:
        """An existing directory, to read from; FileNotFoundError if there is none."""
        run = RunReader(as_path("path", path))
        if not run.config.exists():
            raise FileNotFoundError(f"{path} is not a run directory (no config.json)")
        return run

    def _compared(self, config: dict[str, Any]) -> dict[str, Any]:
        """What goes into ``config.json``; ValueError if this is another run than the one there."""
        old = read_object(self.config, "delete the directory or give another --out")
        if KEY not in old:  # of an earlier version: what it was made from stays unknown
            config = {key: value for key, value in config.items() if key != KEY}
            if isinstance(old.get("images"), str) and isinstance(config.get("images"), str):
                then, now = (image_folder(self.path, c).resolve() for c in (old, config))
                if then == now:  # by the name of the earlier version
                    config["images"] = old["images"]
        found = [d for d in _differences("", old, config) if not (KEY in old and d[0] in PLACES)]
        if found:
            lines = [f"{WORDS.get(key, key)}: there {a!r}, now {b!r}" for key, a, b in found]
            if all(key in TEST for key, _, _ in found):
                lines.append("these change no student: test it with hast-cuda evaluate or hc.evaluate")
            raise ValueError(
                f"{self.path} holds a run with another configuration; give another --out, or the "
                "same network, images and options:\n  " + "\n  ".join(lines)
            )
        return config

    @typed
    def log(self, record: dict[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``, and its figures to the event files if asked for."""
        self._check_presence()
        metrics.append(self.metrics, record)
        if self.events is not None:
            self.events(record)

    def _check_presence(self) -> None:
        """Shards and checkpoints make their folders: a run must not go on in what was deleted."""
        if not self.config.exists():
            raise FileNotFoundError(f"run directory {self.path} was removed or emptied meanwhile; run again")

    @typed
    def show(self, images: Tensor) -> None:
        """Put a sheet of synthetic images [N, C, H, W] into the event files if asked for."""
        if self.events is not None:
            self.events.sheet(images)

    def close(self) -> None:
        """Close the event files, if there are any, and let another process in."""
        try:
            if self.events is not None:
                self.events.close()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @typed
    def remember(self, key: str, value: Any) -> None:
        """Keep a figure across restarts (``progress.json``)."""
        progress = self.recall()
        progress[key] = plain(value)
        write_json(self.path / "progress.json", progress)

    @typed
    def finish(self, result: dict[str, Any]) -> None:
        """Write ``result.json``, and its accuracies to the event files if asked for."""
        self._check_presence()
        write_json(self.path / "result.json", plain(result))
        if self.events is not None:
            self.events.result(result)


def _differences(prefix: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted(old.keys() | new.keys()):
            name = f"{prefix}.{key}" if prefix else key
            found += _differences(name, old.get(key), new.get(key))
        return found
    return [] if old == new else [(prefix, old, new)]


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
