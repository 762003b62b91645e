"""What is known of an exported file: sizes, content, comparison, latency."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ALIKE = 0.999  # cosine of outputs that stand for each other


@dataclass(frozen=True)
class Check:
    """An exported network beside the PyTorch student, on the same images."""

    images: int
    """How many were compared."""
    source: str
    """"given", "synthetic" or "noise"."""
    top1_agreement: float
    """Percent of images on which both choose the same class; of a network that classifies nothing, whose outputs
    have a cosine above :data:`ALIKE`."""
    top1: float | None
    """Percent, of the exported network, where the images have true labels."""
    student_top1: float | None
    """Percent, of the student."""
    cosine: float
    """Mean over the images of the cosine between both logits, or all numbers that both give."""
    largest_difference: float
    """Largest absolute difference of a logit, or another number."""

    def passed(self) -> bool:
        """At most one image in a thousand, or one at all, is classified otherwise."""
        differing = round(self.images * (100 - self.top1_agreement) / 100)
        return differing <= max(1, self.images // 1000)


@dataclass(frozen=True)
class Latency:
    """Median time of a batch on the CPU, in onnxruntime or the engine."""

    batch: int
    """Images per run."""
    threads: int
    """Of both."""
    milliseconds: float
    """Of the exported network."""
    float_milliseconds: float
    """Of the full-precision one in onnxruntime."""


@dataclass
class Exported:
    """One file, its sizes and its proof: what ``exports/<kind>.json`` of a run holds."""

    kind: str
    """A key of hast_cuda.exports.KINDS."""
    file: Path
    """Where it is."""
    bytes: int
    """Of the file."""
    float_bytes: int
    """Of the network's parameters as float32."""
    weight_bits: float | None = None
    """Stored per quantized weight; None: weights are float32."""
    nodes: dict[str, int] = field(default_factory=dict)
    """ONNX, "engine" and "litert": how many operators of each kind."""
    integer_layers: int | None = None
    """ONNX, "engine" and "litert": layers that multiply integers in the file itself."""
    float_layers: dict[str, str] = field(default_factory=dict)
    """"onnx-ort" and "engine": the others, and why."""
    rounded_layers: dict[str, str] = field(default_factory=dict)
    """"onnx-int8", "onnx-qdq" and "litert": layers that may round otherwise than the quantized network, and why."""
    moved_biases: dict[str, float] = field(default_factory=dict)
    """"onnx-int8" and "litert": by how many steps of its codes the bias of a layer moved, to one that integers hold."""
    checks: Check | None = None
    """Beside the quantized network; None: not compared."""
    latency: Latency | None = None
    """ONNX, engine and LiteRT: measured by whoever asks for it."""

    def record(self) -> dict[str, Any]:
        """As JSON values, the file by its name alone."""
        return {**asdict(self), "file": self.file.name}
