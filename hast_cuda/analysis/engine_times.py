"""What every layer takes in the engine on this machine, by the width of its weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from torch import Tensor, nn

from hast_cuda.analysis.sensitivity import LayerSensitivity
from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_images, check_range, check_values
from hast_cuda.deploy.engine import Engine, load
from hast_cuda.exports.to_engine import save_engine
from hast_cuda.nn import calibrate, quantize

REPEATS = 15


@typed
def with_engine_seconds(
    sensitivity: Mapping[str, LayerSensitivity],
    teacher: nn.Module,
    images: Tensor,
    *,
    act_bits: int = 4,
    sum_bits: int = 8,
    placement: str = "auto",
    repeats: int = REPEATS,
) -> dict[str, LayerSensitivity]:
    """``sensitivity`` with the time of every layer at every width, for :func:`hast_cuda.allocate_bits`.

    The network is quantized to each width as a whole, and all of them run in turns, so that whatever else the
    machine does meets every width. A layer's time is the median of its steps together.

    Args:
        sensitivity: from :func:`hast_cuda.sensitivity`.
        teacher: the network; copied.
        images: [N, C, H, W], normalised; ranges are calibrated on them, and the first one is timed.
        act_bits: of activations, 2 to 8.
        sum_bits: as for :func:`hast_cuda.quantize`.
        placement: as for :func:`hast_cuda.quantize`.
        repeats: how often each is timed.

    Raises:
        ImportError: no engine, or no packages of the extra "export". ValueError: a network that the engine
            cannot run, or a layer that is no step of it.

    Example:
        >>> import hast_cuda as hc
        >>> teacher, images = hc.load_teacher("digits"), torch.randn(8, 1, 8, 8)
        >>> found = with_engine_seconds(hc.sensitivity(teacher, images), teacher, images)  # doctest: +SKIP
        >>> hc.allocate_bits(found, seconds=20e-6)  # doctest: +SKIP
    """
    check_values("teacher", teacher)
    check_images("images", images)
    check_range("repeats", repeats, 1, 10_000)
    weights = {name: layer for name, layer in sensitivity.items() if layer.weights}
    widths = sorted({width for layer in weights.values() for width in layer.weights})
    engines: dict[int, Engine] = {}
    for width in widths:
        student = quantize(teacher, width, act_bits, sum_bits=sum_bits, placement=placement).cpu()
        calibrate(student, images.cpu().split(64))
        with TemporaryDirectory() as folder:
            file = Path(folder) / "timed.hast"
            save_engine(student, file, (images.shape[1], images.shape[2], images.shape[3]))
            engines[width] = load(file)
    image = images[:1].cpu().float().numpy()
    taken: dict[int, dict[str, list[float]]] = {width: defaultdict(list) for width in widths}
    for _ in range(1 + repeats):
        for width, engine in engines.items():
            once: dict[str, float] = defaultdict(float)
            for name, seconds in engine.step_seconds(image):
                once[name] += seconds
            for name, seconds in once.items():
                taken[width][name].append(seconds)
    absent = [name for name in weights if any(name not in found for found in taken.values())]
    if absent:
        raise ValueError(f"layer {absent[0]!r} is no step of the engine, whose steps are {', '.join(taken[widths[0]])}")
    seconds_of = {name: {w: median(taken[w][name][1:]) for w in widths} for name in weights}
    return {name: replace(layer, seconds=seconds_of.get(name, {})) for name, layer in sensitivity.items()}
