"""A quantized network that runs on the CPU with integers: no torch, numpy alone."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from hast_cuda.deploy.images import as_batch

if TYPE_CHECKING:
    from hast_cuda.deploy import _engine

Array = np.ndarray[Any, Any]


class Engine:
    """A network of a file of :func:`hast_cuda.exports.save_engine`; made by :func:`load`.

    Example:
        >>> load("student.hast").run(pixels).argmax(1)  # doctest: +SKIP
    """

    def __init__(self, compiled: _engine.Engine) -> None:
        self._compiled = compiled

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return self._compiled.input_shape

    @property
    def classes(self) -> list[str]:
        """What each logit stands for; empty if the file does not say."""
        return self._compiled.classes

    @property
    def describe(self) -> dict[str, Any]:
        """What the file says of itself."""
        found: dict[str, Any] = json.loads(self._compiled.describe)
        return found

    @property
    def isa(self) -> str:
        """The instruction set that its kernels use."""
        return self._compiled.isa

    @property
    def weight_bytes(self) -> int:
        """Of the weights in memory."""
        return self._compiled.weight_bytes

    @property
    def workspace_bytes(self) -> int:
        """Of the maps in memory, for each thread."""
        return self._compiled.workspace_bytes

    @property
    def steps(self) -> list[str]:
        """Names in the order of execution."""
        return self._compiled.steps

    def run(self, images: Array, threads: int = 0) -> Array:
        """Logits float32 [N, classes].

        Args:
            images: uint8 pixels [N, H, W, C] from 0 to 255, or floats [N, C, H, W] that are
                normalised already; a single image is a batch of one.
            threads: how many work on a batch; 0: as many as there are processors.

        Raises:
            TypeError, ValueError: images of another dtype or shape, a negative number of threads.
        """
        if threads < 0:
            raise ValueError(f"threads is {threads}; allowed: at least 0")
        return self._compiled.run(as_batch(images, self.input_shape), threads)

    def trace(self, image: Array) -> dict[str, Array]:
        """Every value that is computed of one image, real numbers float32 [C, H, W], by name."""
        return self._compiled.trace(self._one(image))

    def step_seconds(self, image: Array) -> list[tuple[str, float]]:
        """What filling in one image took, and then every step with its name, on one thread.

        Example:
            >>> load("student.hast").step_seconds(image)[0]  # doctest: +SKIP
            ('images', 1.2e-05)
        """
        seconds = self._compiled.step_seconds(self._one(image))
        return list(zip(("images", *self.steps), seconds, strict=True))

    def _one(self, image: Array) -> Array:
        batch = as_batch(image, self.input_shape)
        if len(batch) != 1:
            raise ValueError(f"image is a batch of {len(batch)}; expected one image")
        one: Array = batch[0]
        return one


def load(path: Path | str, *, isa: str = "") -> Engine:
    """The network of a file, ready to run.

    Args:
        path: of a file of :func:`hast_cuda.exports.save_engine`.
        isa: one of the instruction sets of this machine; "": the fastest.

    Raises:
        ImportError: hast_cuda was installed without its engine. ValueError: the file is cut short,
            changed or of another kind, or no such instruction set. OSError: it cannot be read.

    Example:
        >>> load("student.hast").input_shape  # doctest: +SKIP
        (3, 32, 32)
    """
    data = Path(path).read_bytes()
    compiled = require_engine()
    try:
        return Engine(compiled.Engine(data, isa))
    except ValueError as error:
        raise ValueError(f"{path} cannot be loaded: {error}") from error


def require_engine() -> ModuleType:
    """The compiled engine; ImportError, saying what to do, where there is none."""
    try:
        return importlib.import_module("hast_cuda.deploy._engine")
    except ModuleNotFoundError as error:
        if error.name != "hast_cuda.deploy._engine":
            raise
        raise ImportError(
            "hast_cuda was installed, or imported from a source tree, without its compiled engine: run "
            "`pip install .` (and start Python elsewhere), or `pip install -e . --no-build-isolation`"
        ) from error
