"""What a run logs, as TensorBoard event files; nothing is written twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_path

if TYPE_CHECKING:
    from typing_extensions import Self

SHEET = 64  # images
_TITLES = {"synthesis": "synthesis", "finetune": "finetune", "test": "accuracy"}
_POSITION = ("phase", "batch", "iteration")
_RESULTS = ("full_precision", "rounded", "start_of_finetuning", "quantized")


def require_tensorboard() -> Any:
    """The module with the writer; ImportError says how to get it."""
    try:
        from torch.utils import tensorboard  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        message = "event files need tensorboard: pip install 'hast_cuda[tensorboard]'"
        raise ImportError(message) from error
    return tensorboard


class TensorBoardLog:
    """Event files of one run; an instance is a ``log`` of ``synthesize`` and ``finetune``.

    Figures of synthesis go to one folder per batch (TensorBoard lays the batches' curves over each
    other), all others to ``path`` itself. A figure that is already there, by name and iteration, is
    not written again: a run that was killed may repeat iterations, and logs from the start.

    Args:
        path: folder of the event files, of one run alone; created with the first figure.

    Raises:
        ImportError: tensorboard is not installed.
    """

    @typed
    def __init__(self, path: Path | str) -> None:
        require_tensorboard()
        self.path = as_path("path", path)
        self._writers: dict[Path, Any] = {}
        self._written: dict[Path, set[tuple[str, int]]] = {}

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Write the figures of one record of ``metrics.jsonl``."""
        if "phase" not in record or "iteration" not in record:
            return  # a note, not a figure
        phase = str(record["phase"])
        folder = self.path
        if "batch" in record:
            folder /= f"batch-{int(record['batch']):03d}"
        figures = {
            f"{_TITLES.get(phase, phase)}/{name}": float(value)
            for name, value in record.items()
            if name not in _POSITION and type(value) in (int, float)
        }
        self._scalars(folder, figures, int(record["iteration"]))

    def result(self, result: Mapping[str, Any]) -> None:
        """Write the accuracies of ``result.json``, after as many iterations as it says."""
        figures = {
            f"result/{name}": float(result[name])
            for name in _RESULTS
            if result.get(name) is not None
        }
        self._scalars(self.path, figures, int(result["finetune_iterations"]))

    def sheet(self, images: Tensor) -> None:
        """Write the first images of [N, C, H, W] as one picture, stretched to 0..1 as a whole.

        Other than 1 or 3 channels have no colours: only the first is shown.
        """
        from torchvision.utils import make_grid  # noqa: PLC0415 - slow to import

        if self._is_new(self.path, "images", 0):
            shown = images[:SHEET].detach().float().cpu()
            shown = shown if shown.shape[1] in (1, 3) else shown[:, :1]
            grid = make_grid(shown, nrow=8, normalize=True, pad_value=1.0)
            writer = self._writer(self.path)
            writer.add_image("images", grid, 0)
            writer.flush()

    def close(self) -> None:
        """Close the files; a later call opens new ones beside them."""
        while self._writers:
            self._writers.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def _scalars(self, folder: Path, figures: Mapping[str, float], step: int) -> None:
        new = {name: value for name, value in figures.items() if self._is_new(folder, name, step)}
        if new:
            writer = self._writer(folder)
            for name, value in new.items():
                writer.add_scalar(name, value, step)
            writer.flush()  # a killed process has no other chance

    def _is_new(self, folder: Path, name: str, step: int) -> bool:
        """Whether this is the first time; remembered."""
        if folder not in self._written:
            self._written[folder] = written_before(folder)
        seen = (name, step) in self._written[folder]
        self._written[folder].add((name, step))
        return not seen

    def _writer(self, folder: Path) -> Any:
        if folder not in self._writers:
            for other in self._writers.keys() - {self.path}:  # one batch at a time has open files
                self._writers.pop(other).close()
            self._writers[folder] = require_tensorboard().SummaryWriter(str(folder))
        return self._writers[folder]


def written_before(folder: Path) -> set[tuple[str, int]]:
    """(name, step) of every figure and picture in the event files of ``folder``."""
    if not any(folder.glob("events.out.tfevents.*")):
        return set()
    from tensorboard.backend.event_processing.event_accumulator import (  # noqa: PLC0415 - optional
        EventAccumulator,
    )

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})  # 0: all
    events.Reload()
    tags = events.Tags()
    found = {(name, e.step) for name in tags["scalars"] for e in events.Scalars(name)}
    return found | {(name, e.step) for name in tags["images"] for e in events.Images(name)}
