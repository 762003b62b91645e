"""What comes out of a run, and what can be done with it."""

from __future__ import annotations

import html
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hast_cuda.checks.values import as_path
from hast_cuda.data import Images, InputSpec
from hast_cuda.data.loaders import Labelled
from hast_cuda.exports import export_network
from hast_cuda.exports.records import Exported
from hast_cuda.networks.origin import origin_of
from hast_cuda.run.student import save
from hast_cuda.run.summary import lines_of, summary

_FROM_PYTHON = "It was made from Python: the same call goes on with it, or gives its result again."


@dataclass(repr=False)
class QuantizationResult:
    """The quantized network, its images if any are kept, and the figures of ``result.json``.

    Printed, and in a notebook, it is the six lines of :func:`str`: how good, how small, where.

    Example:
        >>> import hast_cuda as hc
        >>> done = hc.zero_shot_quantize(hc.load_teacher("digits"), (1, 8, 8), method="rtn")
        >>> done.images, done.result["bits"]["weights"]
        (None, 4)
        >>> done.save("student.safetensors").name
        'student.safetensors'
    """

    student: nn.Module
    """The quantized network: that of the last iteration or, where the recipe keeps the best, the one
    that was closest to the original on images held out."""
    images: Images | None
    """What it was trained on; None where a generator made images, or none were needed."""
    result: dict[str, Any]
    """Accuracies in percent, seconds per phase, and what was asked for."""
    shape: InputSpec
    """What images it takes."""
    teacher: nn.Module
    """The full-precision network that was given."""
    prepared: nn.Module
    """A copy of it as it was quantized: where the recipe says so, with its BatchNorm layers folded."""
    run: Path | None = None
    """The run directory, if one was kept."""

    def save(self, path: Path | str) -> Path:
        """Write the network as one file; :func:`hast_cuda.load` reads it again. See :func:`hast_cuda.save`."""
        kept: dict[str, Any] = {key: self.result[key] for key in ("method", "preset", "seed") if key in self.result}
        return save(self.student, path, kept)

    def export(self, folder: Path | str, kind: str = "onnx-ort", images: Tensor | Labelled | None = None) -> Exported:
        """Write the network for another program and compare it with the file; see :func:`hast_cuda.export`.

        Args:
            folder: made if it is not there.
            kind: such as "onnx-ort", "engine", "packed"; docs/export.md describes them.
            images: to compare on; default those that it was trained on.

        Raises:
            ImportError, ValueError: as :func:`hast_cuda.export`.
        """
        return export_network(
            self.student,
            folder,
            kind,
            self.shape.size,
            network=self.prepared,
            images=self.images if images is None else images,
            spec=self._normalized(),
            describe=origin_of(self.student),
        )

    def report(self, page: Path | str | None = None) -> Path:
        """Write a page about the run, ``page`` or ``<run>/report.html``; needs matplotlib.

        Raises:
            ValueError: nothing was kept that a page could be made of. ImportError: no matplotlib.
        """
        if self.run is None:
            raise ValueError('the page is made from a run directory: give out="runs/mine" to zero_shot_quantize')
        report: Any = importlib.import_module("hast_cuda.report")  # a room above: only who asks needs it
        context = report.Context(teacher=self.teacher, spec=self._normalized(), remarks=[_FROM_PYTHON])
        found: Path = report.write_report(self.run, context, None if page is None else as_path("page", page))
        return found

    def _normalized(self) -> InputSpec | None:
        """The shape, where it says what the network does to pixels."""
        unknown = InputSpec(*self.shape.size, self.shape.num_classes)
        return None if self.shape == unknown else self.shape

    def __str__(self) -> str:
        return summary(self.result, self.run)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """As a notebook shows it."""
        left, cells = "style='text-align:left'", (map(html.escape, line) for line in lines_of(self.result, self.run))
        rows = (f"<tr><th {left}>{name}</th><td {left}>{text}</td></tr>" for name, text in cells)
        return f"<table>{''.join(rows)}</table>"
