"""What a run logs, as TensorBoard event files, made anew whenever the run is opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_path

if TYPE_CHECKING:
    from typing_extensions import Self

SHEET = 64  # images
_EVENTS = "events.out.tfevents.*"
_TITLES = {"synthesis": "synthesis", "finetune": "finetune", "test": "accuracy"}
_POSITION = ("phase", "batch", "iteration")
_RESULTS = ("full_precision", "rounded", "start_of_finetuning", "reconstructed", "quantized")


def require_tensorboard() -> Any:
    """The module with the writer; ImportError says how to get it."""
    try:
        from torch.utils import tensorboard  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise ImportError("event files need tensorboard: pip install 'hast_cuda[tensorboard]'") from error
    return tensorboard


class TensorBoardLog:
    """Event files of one run; an instance is a ``log`` of ``synthesize`` and ``finetune``.

    Values of synthesis go to one folder per batch (TensorBoard lays the batches' curves over each
    other), all others to ``path`` itself. Event files of earlier attempts are removed before the
    first is written: give what those have logged again. Of iterations that were done twice the
    first values are kept.

    Args:
        path: folder of the event files, of one run alone; created with the first value.

    Raises:
        ImportError: tensorboard is not installed.
    """

    @typed
    def __init__(self, path: Path | str) -> None:
        require_tensorboard()
        self.path = as_path("path", path)
        self._writers: dict[Path, Any] = {}
        self._written: set[tuple[Path, str, int]] = set()
        self._begun = False

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Write the values of one record of ``metrics.jsonl``."""
        if "phase" not in record or "iteration" not in record:
            return  # a note, not a measurement
        phase = str(record["phase"])
        folder = self.path
        if "batch" in record:
            folder /= f"batch-{int(record['batch']):03d}"
        values = {
            f"{_TITLES.get(phase, phase)}/{name}": float(value)
            for name, value in record.items()
            if name not in _POSITION and type(value) in (int, float)
        }
        self._scalars(folder, values, int(record["iteration"]))

    def result(self, result: Mapping[str, Any]) -> None:
        """Write the accuracies of ``result.json``, after as many iterations as it says."""
        values = {f"result/{name}": float(result[name]) for name in _RESULTS if result.get(name) is not None}
        self._scalars(self.path, values, int(result["finetune_iterations"]))

    def sheet(self, images: Tensor) -> None:
        """Write the first images of [N, C, H, W] as one picture, stretched to 0..1 as a whole.

        Other than 1 or 3 channels have no colours: only the first is shown.
        """
        from torchvision.utils import make_grid  # noqa: PLC0415 - slow to import

        shown = images[:SHEET].detach().float().cpu()
        shown = shown if shown.shape[1] in (1, 3) else shown[:, :1]
        writer = self._writer(self.path)
        writer.add_image("images", make_grid(shown, nrow=8, normalize=True, pad_value=1.0), 0)
        writer.flush()

    def close(self) -> None:
        """Close the files; a later call opens new ones beside them."""
        while self._writers:
            self._writers.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _scalars(self, folder: Path, values: Mapping[str, float], step: int) -> None:
        new = {(folder, name, step): value for name, value in values.items()}
        for key in new.keys() & self._written:
            del new[key]
        if new:
            writer = self._writer(folder)
            self._written |= new.keys()
            for (_, name, _), value in new.items():
                writer.add_scalar(name, value, step)
            writer.flush()  # a killed process has no other chance

    def _writer(self, folder: Path) -> Any:
        if not self._begun:
            self._begun = True
            for old in (*self.path.glob(_EVENTS), *self.path.glob(f"batch-*/{_EVENTS}")):
                old.unlink()
        if folder not in self._writers:
            for other in self._writers.keys() - {self.path}:  # one batch at a time has open files
                self._writers.pop(other).close()
            self._writers[folder] = require_tensorboard().SummaryWriter(str(folder))
        return self._writers[folder]
