"""Every form a quantized network can be exported to, and its proof."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_path, check_choice, check_image_size
from hast_cuda.data import InputSpec
from hast_cuda.data.loaders import Labelled
from hast_cuda.deploy.engine import require_engine
from hast_cuda.exports.float_network import save_float, to_float
from hast_cuda.exports.grid import float_bytes
from hast_cuda.exports.integer_biases import integer_biases
from hast_cuda.exports.packed import load_packed, save_packed
from hast_cuda.exports.program import save_program
from hast_cuda.exports.records import Exported
from hast_cuda.exports.to_engine import save_engine
from hast_cuda.exports.to_litert import save_litert
from hast_cuda.exports.to_onnx import save_onnx
from hast_cuda.exports.verify import check, engine_network, litert_network, onnx_network, require_onnxruntime
from hast_cuda.files.tensors import restore

SUFFIXES = {
    "onnx-ort": ".ort.onnx",
    "onnx-int8": ".int8.onnx",
    "onnx-qdq": ".qdq.onnx",
    "onnx-portable": ".portable.onnx",
    "onnx-uint4": ".uint4.onnx",
    "packed": ".packed.safetensors",
    "float": ".float.safetensors",
    "engine": ".hast",
    "litert": ".tflite",
    "pt2": ".pt2",
    "pt2-own-ops": ".own-ops.pt2",
}
KINDS = tuple(SUFFIXES)
AnyImages = Tensor | Labelled  # in this order: a tensor can be iterated, too


@typed
def export_network(
    student: nn.Module,
    folder: Path | str,
    kind: str,
    shape: tuple[int, int, int],
    *,
    network: nn.Module | None = None,
    images: AnyImages | None = None,
    name: str = "student",
    spec: InputSpec | None = None,
    classes: Sequence[str] = (),
    describe: Mapping[str, Any] | None = None,
) -> Exported:
    """Write ``student`` as ``<folder>/<name><suffix of kind>``, and compare it with the file.

    Args:
        student: calibrated, in any mode; never edited.
        folder: made if it is not there.
        kind: one of :data:`KINDS`; docs/export.md describes them. The files of "onnx-int8" and "litert" are
            those of :func:`hast_cuda.exports.integer_biases`, and are compared with it.
        shape: (C, H, W) of normalised images.
        network: the float network that was quantized (as ``hast_cuda.posttraining.prepare`` left
            it); the packed form is loaded back into it where ``images`` are given.
        images: to compare both networks on, also batches (images, labels); None does not compare.
        name: of the file, without suffix.
        spec: the input of the network; "engine" keeps its normalisation, so that the file takes pixels.
        classes: what each logit stands for; "engine" keeps them too.
        describe: more entries for its metadata.

    Raises:
        ImportError: a package of the extra "export" is missing. ValueError: unknown kind, a network
            that cannot be exported, a file that does not give what the student gives.

    Example:
        >>> import hast_cuda as hc
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, None)
        >>> hc.export(student, ".", "packed", (1, 8, 8)).file.name
        'student.packed.safetensors'
    """
    check_choice("kind", kind, KINDS)
    check_image_size("shape", shape)
    if not name or Path(name).name != name or "\0" in name:
        raise ValueError(f"name is {name!r}; expected that of a file, without a directory")
    if kind == "packed" and images is not None and network is None:
        raise ValueError("a packed file is compared as loaded into the float network: give network")
    if kind.startswith("onnx") and images is not None:
        require_onnxruntime()
    if kind == "engine" and images is not None:
        require_engine()
    if spec is not None and spec.size != shape:
        raise ValueError(f"spec is of images {spec.size}, shape is {shape}")
    folder = as_path("folder", folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}{SUFFIXES[kind]}"
    moved: dict[str, float] = {}
    if kind in ("onnx-int8", "litert"):
        student, moved = integer_biases(student, shape)
    done = _write(student, file, kind, shape, spec, classes, describe or {})
    done.moved_biases = moved
    if images is not None:
        reference = to_float(student) if kind == "float" else student
        done.checks = check(_load(file, kind, network, student), reference, images)
        if not done.checks.passed():
            raise ValueError(
                f"{file} chooses another class than the quantized network on "
                f"{100 - done.checks.top1_agreement:.2f} % of {done.checks.images} images (mean "
                f"cosine of the logits {done.checks.cosine:.6f}): do not use it"
            )
    return done


def _write(
    student: nn.Module,
    file: Path,
    kind: str,
    shape: tuple[int, int, int],
    spec: InputSpec | None,
    classes: Sequence[str],
    describe: Mapping[str, Any],
) -> Exported:
    if kind == "engine":
        mean, std = (None, None) if spec is None else (spec.mean, spec.std)
        return save_engine(student, file, shape, mean=mean, std=std, classes=classes, describe=describe)
    if kind == "litert":
        return save_litert(student, file, shape, describe=describe)
    if kind.startswith("onnx"):
        return save_onnx(student, file, shape, form=kind.removeprefix("onnx-"), describe=describe)
    if kind == "packed":
        return save_packed(student, file, describe)
    if kind == "float":
        save_float(student, file, describe)
    else:
        save_program(student, file, shape, own_ops=kind == "pt2-own-ops")
    return Exported(kind, file, file.stat().st_size, float_bytes(student))


def _load(file: Path, kind: str, network: nn.Module | None, student: nn.Module) -> Callable[[Tensor], Any]:
    """The file's own network, on the CPU."""
    if kind.startswith("onnx"):
        return onnx_network(file)
    if kind == "engine":
        return engine_network(file)
    if kind == "litert":
        return litert_network(file)
    if kind.startswith("pt2"):
        loaded: nn.Module = torch.export.load(file).module().cpu()  # it has one mode alone
    elif kind == "packed":
        assert network is not None  # checked before the file was written
        loaded = load_packed(file, network).cpu()
    else:
        loaded = to_float(student).cpu().eval()
        restore(loaded, load_file(file))
    return lambda images: loaded(images.cpu())
