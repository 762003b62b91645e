"""One network through every stage of the package, each held to the one before.

The network has random weights and statistics that fit them, so that what is lost is lost by a stage and not by
chaos. A stage gives a number; one that does not hold, or an error, ends the walk.
"""

from __future__ import annotations

import copy
import json
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import hast_cuda as hc
from hast_cuda.merged import BatchStatistics, FusedBatchNorm2d, merge_batch_norms
from hast_cuda.methods import Recipe, change, recipe
from hast_cuda.networks.compare import TOLERANCE, distance, in_float64, where_apart
from hast_cuda.networks.cut import cut_into_blocks
from hast_cuda.networks.tracing import CannotMergeError
from hast_cuda.nn import FakeQuantActivation
from hast_cuda.nn.layers import quantizers_aside
from hast_cuda.nn.quantized_weight import QuantizedWeight
from hast_cuda.posttraining import fold_batch_norms

ONNX = {"auto": "onnx-ort", "integer": "onnx-qdq"}  # by placement
PLACEMENTS = tuple(ONNX)
STAGES = ("read", "quantized", "placed", "merged", "cut", "calibrated", "run", "loaded", "onnx", "engine")
NEAR = 0.3  # error of what an 8-bit block gives, relative to its size
SAME = (
    0.95  # correlation of a file's logits with the student's: a code that rounds the other way moves others at 4 bits
)
IMAGES = 4
BUDGET: dict[str, Any] = {
    "synthesis.num_images": 2 * IMAGES,
    "synthesis.batch_size": 2 * IMAGES,
    "synthesis.iterations": 2,
    "finetune.batch_size": IMAGES,
    "finetune.iterations": 2,
    "finetune.calibration_updates": 1,
    "finetune.calibration_batch_size": IMAGES,
    "finetune.evaluations": 1,
    "finetune.held_out": 0.5,
    "reconstruction.iterations": 1,
    "reconstruction.batch_size": 2,
}


@dataclass
class Walk:
    """What was found of one network."""

    passed: dict[str, float] = field(default_factory=dict)
    """A number for every stage that holds; what it is, see :func:`walk`."""
    refused: str = ""
    """The stage that does not hold, and what is said of it."""
    notes: list[str] = field(default_factory=list)
    """Warnings on the way, each once."""
    placement: str = ""
    """What "auto" was."""
    left: list[str] = field(default_factory=list)
    """Layers in full precision, with the reasons that the table gives."""


class Gone(AssertionError):
    """A stage does not hold."""


def lively(network: nn.Module, size: tuple[int, int, int], seed: int = 0) -> nn.Module:
    """``network`` with random BatchNorm parameters, and the statistics that its maps then have."""
    torch.manual_seed(seed)
    norms = [m for m in network.eval().modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.train().momentum = None  # the mean of all batches
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.3)
    with torch.no_grad():
        for _ in range(2):
            network(torch.randn(8, *size))
    for norm in norms:
        norm.momentum = 0.1
    return network.eval()


def tiny_recipe() -> Recipe:
    """HAST with two iterations of everything, one for each block's reconstruction."""
    return change(recipe("hast", "default", "cifar10"), BUDGET)


def walk(network: nn.Module, size: tuple[int, int, int], placement: str = "auto", *, light: bool = False) -> Walk:
    """``network`` through all stages, to the first that does not hold.

    Numbers: "quantized" the largest difference to the original with the quantizers set aside, "placed" how many
    tensors enter layers, "merged" and "cut" the largest difference to the network as it was, "calibrated" the largest
    relative error of what an 8-bit block gives for the original's maps, "run" the error of all
    blocks after reconstruction as a share of that before, "loaded" the largest difference to the student, "onnx" and
    "engine" the correlation with the student's logits.

    Args:
        network: in eval mode, with statistics, see :func:`lively`.
        size: (C, H, W) of its images.
        placement: of quantizers.
        light: without a run and its files.
    """
    found = Walk()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            for stage, number in _stages(network, size, placement, found, light=light):
                found.passed[stage] = number
        except (ValueError, TypeError, RuntimeError, CannotMergeError, Gone, FloatingPointError, ImportError) as error:
            stage = STAGES[len(found.passed)]
            found.refused = f"{stage}: {'' if isinstance(error, ValueError) else type(error).__name__ + ': '}{error}"
    found.notes = list(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning)))
    return found


def _stages(
    network: nn.Module, size: tuple[int, int, int], placement: str, found: Walk, *, light: bool
) -> Iterator[tuple[str, float]]:
    images = torch.randn(IMAGES, *size, generator=torch.Generator().manual_seed(1))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with torch.no_grad():
        logits: Tensor = network(images)
    if not bool(logits.isfinite().all()) or float(logits.std(0).mean()) == 0:
        raise Gone("the network's own logits tell nothing")
    yield "read", float(logits.std(0).mean())

    student = hc.quantize(network, 8, 8, placement=placement)
    found.placement = hc.nn.suitable_placement(network) if placement == "auto" else placement
    found.left = [f"{row.name}: {row.note}" for row in hc.quantization_table(student).left]
    with quantizers_aside(student), torch.no_grad():
        yield "quantized", _equal(network, student, images)

    hc.calibrate(student, [images])
    yield "placed", require_quantized_inputs(student, images, found.left)
    with torch.no_grad():
        with quantizers_aside(student):  # a level that flips would be more than rounding
            yield "merged", max(_merged(network, images), _merged(student, images))
        yield "cut", _cut(network, images)
        yield "calibrated", _error_of_blocks(network, student, images)

    if light:
        return
    with tempfile.TemporaryDirectory() as folder:
        done = hc.zero_shot_quantize(
            network, size, hc.Bits(4, 4, placement), recipe=tiny_recipe(), out=Path(folder) / "run", progress=False
        )
        if any(not torch.equal(v, before[k]) for k, v in network.state_dict().items()):
            raise Gone("the run changed the network that it was given")
        state = done.student.state_dict().values()
        if not all(bool(t.isfinite().all()) for t in state if t.is_floating_point()):
            raise Gone("the student is not finite")
        yield "run", _gain(Path(folder) / "run" / "metrics.jsonl")
        with torch.no_grad():
            wanted = done.student(images)
            yield "loaded", _equal(done.student, hc.load(Path(folder) / "run", network), images)
            for stage, kind in (("onnx", ONNX[placement]), ("engine", "engine")):
                yield stage, _near(wanted, _exported(done.student, Path(folder), kind, size, images))


def _exported(student: nn.Module, folder: Path, kind: str, size: tuple[int, int, int], images: Tensor) -> Tensor:
    from hast_cuda.exports.verify import engine_network, onnx_network  # noqa: PLC0415

    file = hc.export(student, folder, kind, size).file
    return (engine_network if kind == "engine" else onnx_network)(file)(images)


def _equal(exact: nn.Module, found: nn.Module, images: Tensor) -> float:
    """The largest difference; Gone, with the layer where it begins, if it is more than rounding."""
    far = distance(exact, found, images)
    if not far <= TOLERANCE:
        raise Gone(f"logits differ by {far:.2g} of the largest. It begins {where_apart(exact, found, images)}")
    return far


def _near(exact: Tensor, found: Tensor) -> float:
    """Correlation of the logits, each less its mean over the images; Gone if it is less than SAME."""
    a, b = ((x.double() - x.double().mean(0)).flatten() for x in (exact, found))
    if float(a.norm()) < 1e-6 * float(exact.norm()):  # two iterations made a student that says one thing only
        a, b = exact.double().flatten(), found.double().flatten()
    likeness = float(F.cosine_similarity(a, b, dim=0))
    if not likeness >= SAME:
        raise Gone(f"the correlation is {likeness:.4f}, less than {SAME}")
    return likeness


def _merged(network: nn.Module, images: Tensor) -> float:
    """The largest difference of networks whose BatchNorm layers are merged, in both ways, or folded.

    Of float64 networks where float32's rounding, of folded weights too, may be what shows.
    """
    try:
        return _merged_as_it_is(network, images)
    except Gone:
        return _merged_as_it_is(in_float64(network), images.double())


def _merged_as_it_is(network: nn.Module, images: Tensor) -> float:
    try:
        fused = merge_batch_norms(network, FusedBatchNorm2d).model
    except CannotMergeError:
        return 0.0  # the loops run it as it is, and say so
    others = [BatchStatistics(copy.deepcopy(network), merge=True).model]
    if not any(isinstance(module, QuantizedWeight) for module in network.modules()):
        others.append(fold_batch_norms(network))
    return max(_equal(network, m, images) for m in (fused, *others))


def _cut(network: nn.Module, images: Tensor) -> float:
    """The largest difference of its blocks, one after the other."""
    try:
        blocks = cut_into_blocks(network)
    except CannotMergeError:
        return 0.0  # layers are taken one by one, with a warning
    return _equal(network, nn.Sequential(*(block.network for block in blocks)), images)


def _error_of_blocks(network: nn.Module, student: nn.Module, images: Tensor) -> float:
    """The largest error of blocks that are given the same, relative to what they give; of networks in one piece, of
    layers; Gone if it is too large."""
    try:
        pairs = list(zip(cut_into_blocks(network), cut_into_blocks(student), strict=True))
    except CannotMergeError:
        return _error_of_layers(network, student, images)
    if any(exact.name != found.name for exact, found in pairs):
        raise Gone("the quantized network is cut in other places than the original")
    x, largest = images, 0.0
    for exact, found in pairs:
        wanted = exact.network(x.clone())
        largest = max(largest, _small(f"block {exact.name!r}", wanted, found.network(x.clone())))
        x = wanted
    return largest


def _error_of_layers(network: nn.Module, student: nn.Module, images: Tensor) -> float:
    given: dict[str, Tensor] = {}
    gave: dict[str, Tensor] = {}
    layers = {n: m for n, m in student.named_modules() if isinstance(m, (QuantizedWeight, FakeQuantActivation))}
    hooks = []
    for name in layers.keys() & dict(network.named_modules()).keys():
        module = network.get_submodule(name)
        hooks.append(module.register_forward_pre_hook(lambda _m, x, n=name: given.update({n: x[0].clone()})))
        hooks.append(module.register_forward_hook(lambda _m, _x, y, n=name: gave.update({n: y.clone()})))
    network(images)
    for hook in hooks:
        hook.remove()
    return max(_small(f"layer {name!r}", y, layers[name](given[name])) for name, y in gave.items())


def _small(what: str, exact: Tensor, found: Tensor) -> float:
    error = float((exact - found).norm() / exact.norm().clamp(min=1e-30))
    if not error <= NEAR:
        raise Gone(f"the error of {what} is {error:.4f} of its size, more than {NEAR}")
    return error


def _gain(metrics: Path) -> float:
    """The sum of the blocks' errors after reconstruction, as a share of that before; Gone if one grew."""
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    blocks = [r for r in records if r.get("phase") == "reconstruction"]
    worse = [r["name"] for r in blocks if r["after"] > r["before"] * (1 + 1e-6)]
    if not blocks or worse:
        raise Gone(f"reconstruction made blocks worse: {worse}" if worse else "no block was reconstructed")
    losses = [v for r in records for k, v in r.items() if isinstance(v, float) and "loss" in k]
    if not losses or not all(map(math.isfinite, losses)):
        raise Gone(f"losses are not finite: {losses}")
    before, after = (float(sum(r[when] for r in blocks)) for when in ("before", "after"))
    return after / max(before, 1e-30)


class _Witness(TorchFunctionMode):
    """Follows what activation functions give, by no graph, up to the layers that it enters."""

    ACTIVATIONS: ClassVar = frozenset(
        (
            *(
                "relu",
                "relu6",
                "leaky_relu",
                "prelu",
                "rrelu",
                "elu",
                "selu",
                "celu",
                "gelu",
                "silu",
                "mish",
                "hardswish",
            ),
            *("hardsigmoid", "hardtanh", "sigmoid", "logsigmoid", "tanh", "softplus"),
        )
    )
    LAYERS: ClassVar = frozenset(("conv2d", "linear"))
    ENDS: ClassVar = frozenset(
        ("matmul", "bmm", "einsum", "scaled_dot_product_attention", "conv1d", "conv3d", "conv_transpose2d")
    )

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.full: dict[int, Tensor] = {}  # what a function gave and no quantizer has rounded; kept alive
        self.entered, self.layer = 0, ""
        self.wrong: list[str] = []
        self.hooks = [m.register_forward_pre_hook(self._at(n)) for n, m in student.named_modules() if n]

    def _at(self, name: str) -> Callable[..., None]:
        def note(*_: Any) -> None:
            self.layer = name

        return note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The result, of which nothing changes."""
        given = [t for t in _tensors((args, kwargs or {})) if id(t) in self.full]
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "").rstrip("_")
        if name in self.LAYERS:
            self.entered += 1
            if id(args[0]) in self.full:
                self.wrong.append(self.layer)
        activated = name in self.ACTIVATIONS
        for tensor in _tensors(result):
            if name == "copy":
                activated, given = False, [t for t in given if t is args[1]]
            if activated or (given and name not in self.LAYERS | self.ENDS and "quantize" not in name):
                self.full[id(tensor)] = tensor
            else:
                self.full.pop(id(tensor), None)
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)


def require_quantized_inputs(student: nn.Module, images: Tensor, left: list[str]) -> float:
    """How many layers were entered; Gone if what an activation function gave enters one in full precision."""
    witness = _Witness(student)
    with witness, torch.no_grad():
        student(images)
    for hook in witness.hooks:
        hook.remove()
    said = {line.partition(":")[0] for line in left}
    wrong = [name for name in witness.wrong if name not in said]
    if wrong:
        raise Gone(f"activations enter in full precision: {', '.join(wrong[:4])} ({len(wrong)} layers)")
    return witness.entered
