"""Whether a file gives what the quantized network gives, and how fast."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import (
    as_path,
    check_image_size,
    check_images,
    check_range,
    check_values,
    explained_forward,
)
from hast_cuda.data import Images
from hast_cuda.data.loaders import Labelled, pairs
from hast_cuda.deploy.engine import load
from hast_cuda.exports.marked import INPUT, translate
from hast_cuda.exports.records import ALIKE, Check, Latency
from hast_cuda.loops.modes import eval_mode
from hast_cuda.networks.compare import in_float64
from hast_cuda.networks.outputs import gives_logits, joined

_ROUNDS = 15


def require_onnxruntime() -> None:
    """ImportError, saying what to install, unless onnxruntime is there."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise ImportError(
            "verification runs onnxruntime, which is not installed: pip install "
            "'hast_cuda[export]', or export without verification"
        )


def require_litert() -> None:
    """The same of LiteRT."""
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise ImportError("TFLite files need LiteRT, which is not installed: pip install 'hast_cuda[litert]'")


@typed
def onnx_network(path: Path | str, threads: int = 0) -> Callable[[Tensor], Any]:
    """A function from images [N, C, H, W] to logits that runs ``path`` in onnxruntime on the CPU.

    A file with several outputs gives a list of them.

    Raises:
        ImportError: no onnxruntime. ValueError: the file is truncated, altered or not ONNX.

    Example:
        >>> onnx_network("student.ort.onnx")(torch.randn(2, 1, 8, 8))  # doctest: +SKIP
    """
    path = as_path("path", path)
    check_range("threads", threads, 0, 4096)
    require_onnxruntime()
    import onnxruntime  # noqa: PLC0415 - an optional package

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    with _explained(f"onnxruntime cannot load {path}"):
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Any:
        with _explained(f"{path} does not take images {list(images.shape)} {images.dtype}"):
            found = session.run(None, {INPUT: np.ascontiguousarray(images.cpu().numpy())})
        return torch.from_numpy(found[0]) if len(found) == 1 else list(map(torch.from_numpy, found))

    return run


def engine_network(path: Path | str, threads: int = 0) -> Callable[[Tensor], Tensor]:
    """The same for a file of the engine. ImportError: no engine. ValueError: see :func:`hast_cuda.deploy.load`."""
    engine = load(as_path("path", path))
    return lambda images: torch.from_numpy(engine.run(images.cpu().float().numpy(), threads or torch.get_num_threads()))


def litert_network(path: Path | str, threads: int = 0) -> Callable[[Tensor], Tensor]:
    """The same for a TFLite file, in LiteRT with its XNNPACK kernels. ImportError: no LiteRT."""
    path = as_path("path", path)
    require_litert()
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 - an optional package

    with _explained(f"LiteRT cannot load {path}"):
        interpreter = Interpreter(model_path=str(path), num_threads=threads or torch.get_num_threads())
    (given,), (logits,) = interpreter.get_input_details(), interpreter.get_output_details()
    allocated: tuple[int, ...] = ()

    def run(images: Tensor) -> Tensor:
        nonlocal allocated
        pixels = np.ascontiguousarray(images.cpu().float().permute(0, 2, 3, 1).numpy())
        with _explained(f"{path} does not take images {list(images.shape)} {images.dtype}"):
            if pixels.shape != allocated:
                interpreter.resize_tensor_input(given["index"], pixels.shape)
                interpreter.allocate_tensors()
                allocated = pixels.shape
            interpreter.set_tensor(given["index"], pixels)
            interpreter.invoke()
        return torch.from_numpy(interpreter.get_tensor(logits["index"]))

    return run


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # onnxruntime raises classes of its own without a common base
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{what}: {reason}") from error


@typed
@torch.no_grad()
def check(
    exported: Callable[[Tensor], Any], student: nn.Module, images: Tensor | Labelled, *, batch_size: int = 64
) -> Check:
    """Run both networks on all images.

    Where they choose different classes, the student in float64 decides: in float32 a sum next to the middle
    between two codes ends on either side, and what a file gives may be what exact arithmetic gives.

    Args:
        exported: from :func:`onnx_network`, or any other network.
        student: the network that was exported.
        images: labelled test images, batches (images, labels), synthetic ones (whose labels are not counted), or
            any others [N, C, H, W].
        batch_size: images per forward pass.

    Raises:
        ValueError: no image; the outputs have different shapes or are not finite.

    Example:
        >>> import hast_cuda as hc
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, None)
        >>> check(hc.exports.to_float(student), student, torch.randn(9, 1, 8, 8)).top1_agreement
        100.0
    """
    check_values("student", student)
    check_range("batch_size", batch_size, 1, 2**20)
    given = not isinstance(images, (Images, Tensor)) or (isinstance(images, Images) and images.real)
    device = next((p.device for p in student.parameters()), torch.device("cpu"))
    count, largest = 0, 0.0
    exact: nn.Module | None = None
    totals = [0.0] * 4  # equal choices, right ones of either network, cosines
    for x, labels in _batches(images, batch_size):
        check_images("images", x)
        with explained_forward("images", x), eval_mode(student):
            output = student(x.to(device))
        expected, found = joined(output).float().cpu(), joined(exported(x))
        if found.shape != expected.shape or not bool(torch.isfinite(found).all()):
            raise ValueError(
                f"the exported network gives {list(found.shape)}, the student "
                f"{list(expected.shape)}; both must be finite and of one shape"
            )
        chosen, wanted = found.argmax(1), expected.argmax(1)
        cosines = torch.cosine_similarity(found.double(), expected.double())
        same = chosen == wanted if gives_logits(output) else cosines > ALIKE
        if gives_logits(output) and not bool(same.all()):
            exact = in_float64(student).eval() if exact is None else exact
            again = _logits_in_float64(exact, x[~same].to(device))
            if again is not None:
                cosines[~same] = torch.cosine_similarity(found[~same].double(), again)
                same[~same] = chosen[~same] == again.argmax(1)
        batch = (same, chosen == labels, wanted == labels, cosines)
        totals = [total + float(part.sum()) for total, part in zip(totals, batch, strict=True)]
        largest = max(largest, float((found - expected).abs().max()))
        count += len(x)
    if not count:
        raise ValueError("images is empty: there is nothing to compare the networks on")
    equal, right, student_right, cosine = totals
    kind = "synthetic" if isinstance(images, Images) else "noise"
    return Check(
        images=count,
        source="given" if given else kind,
        top1_agreement=100 * equal / count,
        top1=100 * right / count if given else None,
        student_top1=100 * student_right / count if given else None,
        cosine=cosine / count,
        largest_difference=largest,
    )


def _logits_in_float64(network: nn.Module, x: Tensor) -> Tensor | None:
    """Logits; None of a network that computes with float32 of its own: the classes then stay different."""
    try:
        logits: Tensor = network(x.double())
    except RuntimeError:  # of operands that have other types
        return None
    return logits.double().cpu()


def _batches(images: Tensor | Labelled, size: int) -> Iterable[tuple[Tensor, Tensor]]:
    if not isinstance(images, (Images, Tensor)):
        return pairs(images, size)
    check_images("images", images if isinstance(images, Tensor) else images.images)
    if isinstance(images, Images):
        if len(images.images) != len(images.labels):
            raise ValueError(
                f"images has {len(images.images)} images and {len(images.labels)} labels; expected one label per image"
            )
        return zip(images.images.split(size), images.labels.split(size), strict=True)
    return ((x, torch.full((len(x),), -1)) for x in images.split(size))


def _opened(path: Path, threads: int) -> Callable[[Tensor], Any]:
    if path.suffix == ".hast":
        return engine_network(path, threads)
    return litert_network(path, threads) if path.suffix == ".tflite" else onnx_network(path, threads)


@typed
def measure(
    exported: Path | str, full_precision: Path | str, shape: tuple[int, int, int], *, batch: int = 8, threads: int = 0
) -> Latency:
    """Time both files in turns, so that whatever else the machine does meets both.

    Of ``batch`` images of ``shape`` (C, H, W), with as many threads as torch uses where none are
    given. Raises as :func:`onnx_network` and :func:`engine_network`, and for images that a file does not take.
    """
    check_image_size("shape", shape)
    check_range("batch", batch, 1, 2**28 // math.prod(shape))
    threads = threads or torch.get_num_threads()
    files = as_path("exported", exported), as_path("full_precision", full_precision)
    networks = [_opened(path, threads) for path in files]
    images = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))

    def milliseconds(network: Callable[[Tensor], Tensor]) -> float:
        start = time.perf_counter()
        network(images)
        return 1000 * (time.perf_counter() - start)

    _, *rounds = [[milliseconds(network) for network in networks] for _ in range(1 + _ROUNDS)]
    quantized, plain = (round(float(x), 3) for x in np.median(rounds, axis=0))
    return Latency(batch, threads, quantized, plain)


def plain_onnx(network: nn.Module, path: Path, shape: tuple[int, int, int]) -> Path:
    """The full-precision network as ONNX, to compare with. Raises as :func:`save_onnx`."""
    import onnx_ir as ir  # noqa: PLC0415 - an optional package

    model = translate(network, shape, 18)
    path.write_bytes(ir.serde.serialize_model(model).SerializeToString())
    return path
