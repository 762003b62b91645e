"""``hast-cuda export``: a finished run's network as files that other programs read."""

from __future__ import annotations

import importlib.util
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from hast_cuda.cli.network import ANY_NETWORK, Network, opened
from hast_cuda.cli.options import Flat, labelled_images
from hast_cuda.cli.report import write_page
from hast_cuda.data import InputSpec
from hast_cuda.data.input_spec import class_names
from hast_cuda.exports.formats import AnyImages, export_network
from hast_cuda.exports.records import Exported
from hast_cuda.exports.verify import measure, plain_onnx, require_onnxruntime
from hast_cuda.files.whole import write_json
from hast_cuda.posttraining import prepare
from hast_cuda.run import load_student, read_config, read_recipe
from hast_cuda.run.directory import environment, plain
from hast_cuda.run.settings import image_store

Kind = Literal[
    "onnx-ort",
    "onnx-int8",
    "onnx-qdq",
    "onnx-portable",
    "onnx-uint4",
    "packed",
    "float",
    "engine",
    "litert",
    "pt2",
    "pt2-own-ops",
]
_NOISE = 64  # images, where a run has none


def export(
    run: tyro.conf.Positional[Path],
    to: tuple[Kind, ...] = ("onnx-ort",),
    network: Annotated[Network, Flat] = ANY_NETWORK,
    data: str | None = None,
    test_limit: int | None = None,
    verify: bool = True,
    latency: bool = True,
    batch: int = 8,
    report: bool = True,
) -> dict[str, Any]:
    """Write the network of a finished run for other programs, and prove that it is the same.

    Files go to RUN/exports/, each with a JSON record of its sizes and checks.

    Args:
        run: finished run directory.
        to: "onnx-ort" (integer convolutions in onnxruntime), "onnx-int8" (integers alone, for onnxruntime;
            --placement integer), "onnx-qdq" (uint8 and int8 pairs, for OpenVINO), "onnx-portable" (int8, zero point 0),
            "onnx-uint4" (4-bit codes), "packed" (2- to 8-bit integers in safetensors), "float"
            (plain network), "engine" (integers on the CPU without torch), "litert" (TFLite in int8;
            --placement integer), "pt2" (torch.export program), "pt2-own-ops".
        network: the full-precision network, if it is not the one that the run names.
        data: labelled images to compare on; default: those of the run, or its synthetic images.
        test_limit: use only this many of them; default: as many as the run has used of its own.
        verify: run the file and compare it with the quantized network.
        latency: time ONNX files, the engine and LiteRT beside the full-precision network in onnxruntime.
        batch: images per timed run.
        report: write the run's page (RUN/report.html) anew, with the exports; needs matplotlib.
    """
    config = read_config(run)
    if any(kind.startswith("onnx") for kind in to) and (verify or latency):
        require_onnxruntime()
    full, teacher, spec = opened(run, network)
    assert full.model is not None
    student = load_student(teacher, run)
    limit = test_limit if data is not None or test_limit is not None else config.get("test_limit")
    images = _images(run, config, data, limit, spec) if verify else None
    posttraining = read_recipe(run).posttraining
    prepared, folder = prepare(teacher, posttraining), run / "exports"
    described = {**_described(config), "posttraining": plain(posttraining)}
    reference: Path | None = None
    written: dict[str, Any] = {}
    try:
        for kind in to:
            done = export_network(
                student,
                folder,
                kind,
                spec.size,
                network=prepared,
                images=images,
                spec=spec,
                classes=class_names(full.model, spec.num_classes),
                describe=described,
            )
            if latency and (kind.startswith("onnx") or (kind in ("engine", "litert") and _have_onnxruntime())):
                reference = reference or plain_onnx(teacher, folder / ".plain.onnx", spec.size)
                done.latency = measure(done.file, reference, spec.size, batch=batch)
            found = {**done.record(), "environment": environment(torch.device("cpu"))}
            write_json(folder / f"{kind}.json", found)
            written[kind] = {**found, "file": done.file}
            _print(done)
    finally:
        if reference is not None:
            reference.unlink()
    if report and importlib.util.find_spec("matplotlib") is None:
        print("no page: pip install 'hast_cuda[plots]', then hast-cuda report")
    elif report:
        print(f"page: {write_page(run, network, loaded=(teacher, spec))}")
    return written


def _have_onnxruntime() -> bool:
    """Whether full precision can be timed; said if not."""
    found = importlib.util.find_spec("onnxruntime") is not None
    if not found:
        print("not timed: onnxruntime, which full precision would run in, is missing (pip install 'hast_cuda[export]')")
    return found


def _images(run: Path, config: dict[str, Any], data: str | None, limit: int | None, spec: InputSpec) -> AnyImages:
    """What to compare on: given, the run's test images, its synthetic ones, or noise."""
    network = config.get("network")  # of a run from Python: what its caller described
    demo = isinstance(network, dict) and network.get("model") == "digits"  # in the package
    named = data or config.get("data") or ("digits" if demo else None)
    test = labelled_images(named if isinstance(named, str) else None, spec, limit)
    if test is not None:
        return test
    store = image_store(run)
    if store.finished():
        return store.load_all()
    return torch.randn(_NOISE, *spec.size, generator=torch.Generator().manual_seed(0))


def _described(config: dict[str, Any]) -> dict[str, Any]:
    """What the files say of the run; ``hast_cuda.load`` finds the network of a packed one by it."""
    found: dict[str, Any] = {key: config[key] for key in ("method", "preset", "seed") if key in config}
    named = config.get("network")
    if isinstance(named, dict):  # without the path of its weights
        found["network"] = {key: named.get(key) for key in ("model", "num_classes", "model_args") if key in named}
    return found


def _print(done: Exported) -> None:
    size = f"{done.bytes:,} bytes, {100 * done.bytes / done.float_bytes:.1f} % of float32"
    print(f"{done.kind}: {done.file} ({size})")
    if done.weight_bits is not None:
        print(f"  {done.weight_bits:.2f} bits per quantized weight")
    if done.integer_layers:
        print(f"  {done.integer_layers} layers multiply integers")
    for reason in sorted(set(done.float_layers.values())):
        names = [name for name, why in done.float_layers.items() if why == reason]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        print(f"  {len(names)} in float, {reason}: {', '.join(names[:3])}{more}")
    for reason, number in sorted(Counter(done.rounded_layers.values()).items()):
        print(f"  {number} layers round otherwise than the quantized network: {reason}")
    if done.moved_biases:
        count, largest = len(done.moved_biases), max(done.moved_biases.values())
        print(f"  biases of {count} layers moved by at most {largest:.2g} steps, in the network compared with too")
    if done.checks is not None:
        found = asdict(done.checks)
        print(
            "  {images} {source} images: same class as the quantized network on "
            "{top1_agreement:.2f} %, cosine {cosine:.6f}, largest difference "
            "{largest_difference:.2g}".format(**found)
        )
        if done.checks.top1 is not None:
            print("  top-1 {top1:.2f} %, in PyTorch {student_top1:.2f} %".format(**found))
    if done.latency is not None:
        print(
            "  {milliseconds:.2f} ms per batch of {batch} on {threads} CPU threads, full precision "
            "{float_milliseconds:.2f} ms".format(**asdict(done.latency))
        )
