"""What a run directory holds, to read; needs no lock, because files appear whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hast_cuda.run import metrics
from hast_cuda.run.results import read_progress, read_result


class RunReader:
    """The files of a run.

    Args:
        path: of the directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def config(self) -> Path:
        """What was asked for."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """One JSON record per line."""
        return self.path / "metrics.jsonl"

    @property
    def images(self) -> Path:
        """Directory of the synthetic images."""
        return self.path / "images"

    @property
    def checkpoint(self) -> Path:
        """State of an unfinished fine-tuning."""
        return self.path / "checkpoints" / "last.safetensors"

    @property
    def student(self) -> Path:
        """The finished network."""
        return self.path / "student.safetensors"

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
