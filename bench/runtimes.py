"""One network in every runtime that is installed, as functions from images to logits on the CPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hast_cuda import calibrate, quantize
from hast_cuda.deploy import load
from hast_cuda.deploy.file import EngineFile, read_file
from hast_cuda.exports import save_litert, save_onnx
from hast_cuda.exports.to_engine import save_engine
from hast_cuda.exports.verify import plain_onnx

Array = np.ndarray[Any, Any]
Run = Callable[[Array], Array]
Shape = tuple[int, int, int]


@dataclass
class Files:
    """A network with its weights as they are, in files that runtimes read."""

    network: nn.Module
    shape: Shape
    folder: Path
    students: dict[str, nn.Module] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def student(self, bits: int, placement: str = "relu") -> nn.Module:
        """Quantized with ranges of noise: its accuracy is nobody's, its work is that of any."""
        name = f"w{bits}-{placement}"
        if name not in self.students:
            images = torch.randn(16, *self.shape, generator=torch.Generator().manual_seed(0))
            self.students[name] = calibrate(quantize(self.network, bits, bits, placement=placement), [images])
        return self.students[name]

    def plain(self) -> Path:
        """Full precision."""
        return self._once("plain.onnx", lambda path: plain_onnx(self.network, path, self.shape))

    def quantized(self) -> Path:
        """8 bits by onnxruntime's own tool: uint8 images, int8 weights per channel, QDQ."""
        return self._once("int8.onnx", self._quantize)

    def export(self, form: str, placement: str) -> Path:
        """This package's ONNX forms at 4 bits."""
        student = self.student(4, placement)
        return self._once(f"{form}.onnx", lambda path: save_onnx(student, path, self.shape, form=form))

    def engine(self, bits: int, placement: str = "relu") -> Path:
        """This package's engine."""
        student = self.student(bits, placement)
        return self._once(f"w{bits}-{placement}.hast", lambda path: save_engine(student, path, self.shape))

    def tflite(self) -> Path:
        """This package's TFLite file at 4 bits."""
        student = self.student(4, "integer")
        return self._once("w4-integer.tflite", lambda path: save_litert(student, path, self.shape))

    def litert(self, name: str) -> Path:
        """ "float32" or "full_integer_quant" (8 bits) by onnx2tf and TensorFlow, which ``LITERT_PYTHON`` may have."""
        python, script = os.environ.get("LITERT_PYTHON", sys.executable), Path(__file__).with_name("litert_models.py")
        folder = self._once("litert", lambda path: subprocess.run([python, script, self.plain(), path], check=True))
        return folder / f"plain_{name}.tflite"

    def multiplications(self) -> int:
        """Of one image, in convolutions and linear layers."""
        return multiplications(read_file(self.engine(4)))

    def _once(self, name: str, write: Callable[[Path], object]) -> Path:
        path = self.folder / name
        if not path.exists():
            write(path)
        return path

    def _quantize(self, path: Path) -> None:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static  # noqa: PLC0415 - an optional package
        from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

        shape = self.shape

        class Noise(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                random = np.random.default_rng(0)
                self.batches: Iterator[Array] = iter([random.standard_normal((8, *shape)).astype(np.float32)])

            def get_next(self) -> dict[str, Array] | None:
                batch = next(self.batches, None)
                return None if batch is None else {"images": batch}

        prepared = path.with_suffix(".prepared.onnx")
        quant_pre_process(str(self.plain()), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(path),
            Noise(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def multiplications(file: EngineFile) -> int:
    """Of one image."""
    total = 0
    for step in file.content["steps"]:
        if step["op"] == "convolution":
            channels = file.content["values"][step["inputs"][0]]["shape"][0]
            out, height, width = file.content["values"][step["output"]]["shape"]
            total += out * height * width * channels // step["groups"] * step["kernel"][0] * step["kernel"][1]
    return total


def onnxruntime(path: Path, threads: int) -> Run:
    import onnxruntime as ort  # noqa: PLC0415 - an optional package

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def openvino(path: Path, threads: int, batch: int, shape: Shape) -> Run:
    import openvino as ov  # noqa: PLC0415 - an optional package

    model = ov.Core().read_model(path)
    model.reshape([batch, *shape])
    hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = ov.Core().compile_model(model, "CPU", hints).create_infer_request()
    return lambda images: request.infer({0: images})[0]


def litert(path: Path, threads: int, batch: int) -> Run:
    """NHWC images; those of int8 files are rounded before the clock runs."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 - an optional package

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], [batch, *given["shape"][1:]])
    interpreter.allocate_tensors()
    scale, zero = given["quantization"]
    kept: dict[int, Array] = {}

    def run(images: Array) -> Array:
        if id(images) not in kept:
            pixels = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
            if scale:
                pixels = np.clip(np.rint(pixels / scale + zero), -128, 127)
            kept[id(images)] = pixels.astype(given["dtype"])
        interpreter.set_tensor(given["index"], kept[id(images)])
        interpreter.invoke()
        found: Array = interpreter.get_tensor(result["index"])
        return found

    return run


def engine(path: Path, threads: int, isa: str = "") -> Run:
    found = load(path, isa=isa)
    return lambda images: found.run(images, threads=threads)


def eager(network: nn.Module, threads: int, *, compiled: bool = False) -> Run:
    torch.set_num_threads(threads)
    module = network.eval().to(memory_format=torch.channels_last)
    if compiled:
        module = torch.compile(module)  # type: ignore[assignment]

    def run(images: Array) -> Array:
        with torch.no_grad():
            found: Array = module(torch.from_numpy(images).to(memory_format=torch.channels_last)).numpy()
        return found

    return run


def runtimes(files: Files, threads: int, batch: int) -> dict[str, Callable[[], Run]]:
    """What makes each of them; those whose package is not installed are left out."""
    found: dict[str, Callable[[], Run]] = {
        "onnxruntime float": lambda: onnxruntime(files.plain(), threads),
        "onnxruntime int8": lambda: onnxruntime(files.quantized(), threads),
        "onnx-ort W4A4": lambda: onnxruntime(files.export("ort", "relu"), threads),
        "onnx-int8 W4A4": lambda: onnxruntime(files.export("int8", "integer"), threads),
        "engine W4A4": lambda: engine(files.engine(4), threads),
        "engine W3A3": lambda: engine(files.engine(3), threads),
        "engine W4A4, avx2": lambda: engine(files.engine(4), threads, "avx2"),
        "engine W4A4, integer": lambda: engine(files.engine(4, "integer"), threads),
        "engine W4A4, integer, avx2": lambda: engine(files.engine(4, "integer"), threads, "avx2"),
        "torch eager": lambda: eager(files.network, threads),
        "torch compile": lambda: eager(files.network, threads, compiled=True),
    }
    if importlib.util.find_spec("ai_edge_litert") is not None:
        found["litert W4A4"] = lambda: litert(files.tflite(), threads, batch)
        found["litert float"] = lambda: litert(files.litert("float32"), threads, batch)
        found["litert int8"] = lambda: litert(files.litert("full_integer_quant"), threads, batch)
    if importlib.util.find_spec("openvino") is not None:
        found["openvino float"] = lambda: openvino(files.plain(), threads, batch, files.shape)
        found["onnx-qdq W4A4 in openvino"] = lambda: openvino(
            files.export("qdq", "integer"), threads, batch, files.shape
        )
        found["openvino int8"] = lambda: openvino(files.quantized(), threads, batch, files.shape)
    return found
