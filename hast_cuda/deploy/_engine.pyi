from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]

class Engine:
    """A parsed file and its kernels; ValueError with the reader's message."""

    def __init__(self, data: bytes, isa: str = "") -> None: ...
    @property
    def input_shape(self) -> tuple[int, int, int]: ...
    @property
    def classes(self) -> list[str]: ...
    @property
    def describe(self) -> str: ...
    @property
    def isa(self) -> str: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def workspace_bytes(self) -> int: ...
    @property
    def steps(self) -> list[str]: ...
    def run(self, images: Array, threads: int = 0) -> Array:
        """float32 [N, C, H, W] normalised, or uint8 [N, H, W, C], to float32 [N, classes]."""

    def step_seconds(self, image: Array) -> list[float]: ...
    def trace(self, image: Array) -> dict[str, Array]:
        """Every value of one image by name, float32 [C, H, W]."""

def instruction_sets() -> list[str]:
    """That this machine can run, the fastest first."""
