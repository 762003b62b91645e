"""int8 by the quantizers of onnxruntime and OpenVINO (NNCF), and ours, calibrated on several kinds of images.

On images made from the network alone (``hast_cuda.calibration_set``), on real ones, on uniform bytes and
on N(0, 1), as many of each; ours, W8A8 and W4A8 by the method "squant" without training, without any image
too. Networks come from a JSON file, a list of objects with the fields of :class:`Network`. Needs
onnxruntime, openvino and nncf; files are read from $HAST_CUDA_DATA too, as is the file of a model
``file.py:callable``.

    python bench/bench_calibration_sets.py networks.json --only "ResNet*"
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import device_label, provenance
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.calibration import calibration_set, to_normalized
from hast_cuda.cli.network import find
from hast_cuda.cli.options import labelled_images
from hast_cuda.data import Images, ImageSet, InputSpec, load_images
from hast_cuda.exports.verify import onnx_network, plain_onnx
from hast_cuda.methods import recipe
from hast_cuda.moments import batch_norm_ranges
from hast_cuda.posttraining import finish, prepare
from hast_cuda.teachers import input_spec, load_teacher

SCHEMA = 1
KINDS = ("made from the network", "real", "uniform bytes", "N(0, 1)")
NONE = "none"  # ranges from BatchNorm
OURS = {"hast_cuda W8A8": 8, "hast_cuda W4A8": 4}  # bits of weights
Run = Callable[[Tensor], Tensor]
Arrays = list[np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Network:
    """One network of the table."""

    name: str
    model: str
    data: str
    """Test images."""
    real: str
    """Real images to calibrate on."""
    weights: str | None = None
    normalization: str | None = None
    size: int | None = None
    """Of the images, where the model does not say."""
    classes: int | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    num_images: int = 128
    """To calibrate on, of every kind."""
    iterations: int = 200
    """In which a batch of them is made."""

    def spec(self) -> InputSpec:
        """Its input."""
        sizes = {"image_size": self.size, "num_classes": self.classes}
        return input_spec(self._found, normalization=self.normalization, model_args=self.model_args, **sizes)

    def teacher(self) -> nn.Module:
        """In full precision."""
        weights = None if self.weights is None else find(self.weights)
        return load_teacher(self._found, weights=weights, model_args=self.model_args)

    @property
    def _found(self) -> str:
        file, colon, callable_name = self.model.rpartition(":")
        return f"{find(file)}:{callable_name}" if file.endswith(".py") else file + colon + callable_name


def by_onnxruntime(plain: Path, images: Arrays) -> Run:
    """``quantize_static`` as it comes, per channel, minimum and maximum of activations."""
    from onnxruntime import quantization as ort  # noqa: PLC0415 - an optional package
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    class Reader(ort.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[Any] = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.left, None)
            return None if image is None else {"images": image}

    prepared, path = plain.with_suffix(".prepared.onnx"), plain.with_suffix(".int8.onnx")
    quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
    ort.quantize_static(
        str(prepared),
        str(path),
        Reader(),
        quant_format=ort.QuantFormat.QDQ,
        per_channel=True,
        activation_type=ort.QuantType.QUInt8,
        weight_type=ort.QuantType.QInt8,
    )
    return onnx_network(path)


def by_nncf(plain: Path, images: Arrays) -> Run:
    """``nncf.quantize`` as it comes, in OpenVINO."""
    import nncf  # noqa: PLC0415 - an optional package
    import openvino  # noqa: PLC0415 - an optional package

    core = openvino.Core()
    model = nncf.quantize(core.read_model(plain), nncf.Dataset(images), subset_size=len(images))
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: torch.from_numpy(compiled([x.numpy()])[0])


def by_us(teacher: nn.Module, bits: int, images: Tensor | None) -> Run:
    """As ``hast-cuda quantize --method squant``, with ranges from ``images`` where there are some."""
    config = recipe("squant").posttraining
    prepared = prepare(teacher, config)
    student = hc.quantize(prepared, bits, 8, placement="auto")
    if images is None:
        batch_norm_ranges(student, config.range_width, narrow=config.narrow_ranges)
    else:
        hc.calibrate(student, [images])
    return finish(student, prepared, config).eval()


TOOLS = {"onnxruntime": by_onnxruntime, "NNCF": by_nncf}


@torch.no_grad()
def classes(run: Run, test: ImageSet) -> Tensor:
    """int64 [N]."""
    return torch.cat([run(x).argmax(1) for x, _ in test.batches(250)])


def percent(found: Tensor, wanted: Tensor) -> float:
    """How often both are the same."""
    return 100 * float((found == wanted).double().mean())


def calibration_images(
    network: Network, teacher: nn.Module, spec: InputSpec, flags: argparse.Namespace
) -> Iterator[tuple[str, Tensor]]:
    """float32 [N, C, H, W] of every kind."""
    count, random = network.num_images, np.random.default_rng(flags.seed)
    with tempfile.TemporaryDirectory() as folder:
        options = {"iterations": network.iterations, "seed": flags.seed, "device": flags.device}
        made = calibration_set(teacher, spec, Path(folder) / "set", to="npz", num_images=count, **options)
    yield KINDS[0], to_normalized(made.pixels, spec)
    yield KINDS[1], Images.read(load_images(find(network.real), spec=spec, split="train", limit=count)).images
    noise = torch.from_numpy(random.integers(0, 256, (count, *spec.size), dtype=np.uint8))
    yield KINDS[2], to_normalized(noise, spec)
    yield KINDS[3], torch.from_numpy(random.standard_normal((count, *spec.size)).astype(np.float32))


def rows(network: Network, flags: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Top-1 of the network in full precision, then of each tool on each kind of images."""
    spec, teacher = network.spec(), network.teacher()
    test = labelled_images(network.data, spec, flags.test_limit)
    assert test is not None

    def reached(run: Run) -> dict[str, float]:
        found = classes(run, test)
        return {"top1": percent(found, test.labels), "same_class": percent(found, full)}

    with tempfile.TemporaryDirectory() as folder:
        plain = plain_onnx(teacher, Path(folder) / "network.onnx", spec.size)
        full = classes(onnx_network(plain), test)
        yield {"network": network.name, "tool": None, "images": None, "top1": percent(full, test.labels)}
        for kind, images in calibration_images(network, teacher, spec, flags):
            given = list(images.numpy()[:, None])  # one by one
            runs = {tool: partial(quantized, plain, given) for tool, quantized in TOOLS.items()}
            runs |= {tool: partial(by_us, teacher, bits, images) for tool, bits in OURS.items()}
            for tool, make in runs.items():
                yield {"network": network.name, "tool": tool, "images": kind, **reached(make())}
        for tool, bits in OURS.items():
            yield {"network": network.name, "tool": tool, "images": NONE, **reached(by_us(teacher, bits, None))}


def table(found: list[dict[str, Any]]) -> list[str]:
    """Markdown, a line per network and tool: top-1, and how often the class is that of full precision."""
    by = {(r["network"], r["tool"], r["images"]): r for r in found}
    kinds = (*KINDS, NONE)
    lines = ["| network | by | full precision | " + " | ".join(kinds) + " |", "|---" * (3 + len(kinds)) + "|"]
    for name in dict.fromkeys(r["network"] for r in found):
        for tool in (*TOOLS, *OURS):
            own = [by.get((name, tool, kind)) for kind in kinds]
            cells = [f"{by[name, None, None]['top1']:.2f}"]
            cells += ["-" if r is None else f"{r['top1']:.2f} ({r['same_class']:.2f})" for r in own]
            lines.append(f"| {name} | {tool} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Print the table and write ``<out>/<stem>-<device>.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", type=Path)
    parser.add_argument("--only", default="*", help="pattern of the networks' names")
    parser.add_argument("--test-limit", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--stem", default="calibration-sets", help="of the file of results")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    flags = parser.parse_args()
    listed = [Network(**line) for line in json.loads(flags.networks.read_text(encoding="utf-8"))]
    networks = [network for network in listed if fnmatch(network.name, flags.only)]
    found: list[dict[str, Any]] = []
    for network in networks:
        for row in rows(network, flags):
            print(row, flush=True)
            found.append(row)
    for line in table(found):
        print(line)
    device = torch.device(flags.device)
    where = {**provenance(device), "seed": flags.seed, "networks": [asdict(n) for n in networks]}
    del where["malloc"]  # nothing is timed
    where["tools"] = {name: version(name) for name in ("onnxruntime", "openvino", "nncf")}
    flags.out.mkdir(parents=True, exist_ok=True)
    path = flags.out / f"{flags.stem}-{device_label(device)}.json"
    document = {"schema": SCHEMA, "stem": flags.stem, **where, "rows": found}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
