"""For every public function and configuration, arguments that work; and why others have none."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from make_api import MODULES

from fuzzing.calls_files import CALLS as FILES
from fuzzing.calls_loops import CALLS as LOOPS
from fuzzing.calls_networks import CALLS as NETWORKS
from hast_cuda import ops

Good = Callable[[], dict[str, Any]]
CALLS: dict[str, tuple[Callable[..., Any], Good]] = {**NETWORKS, **LOOPS, **FILES}

_RESULT = "a result, which only the package makes; who takes it has a call of its own"
_OPS = "test_fuzz_quantizers.py, test_fuzz_batch_norm.py and test_fuzz_losses.py have it"
_NOTHING = "it takes no argument"
EXCLUDED = {
    # what only the package makes
    **dict.fromkeys((
        "hast_cuda.run.QuantizationResult", "hast_cuda.finetune.FinetuneResult",
        "hast_cuda.exports.Check", "hast_cuda.exports.Exported", "hast_cuda.exports.Latency",
        "hast_cuda.exports.OnnxInfo", "hast_cuda.exports.PackedInfo", "hast_cuda.merged.Merged",
        "hast_cuda.nn.QuantizationTable", "hast_cuda.analysis.Eigenvalue",
        "hast_cuda.analysis.ErrorRates", "hast_cuda.analysis.Histogram",
        "hast_cuda.analysis.Judged", "hast_cuda.analysis.Spectrum", "hast_cuda.analysis.Trace",
        "hast_cuda.analysis.StatisticGap",
    ), _RESULT),
    # exceptions take a message
    "hast_cuda.networks.CannotMergeError": "an exception",
    "hast_cuda.analysis.NotTwiceDifferentiableError": "an exception",
    "hast_cuda.ranks.RankLostError": "an exception",
    **dict.fromkeys((
        "hast_cuda.build_info", "hast_cuda.methods.available", "hast_cuda.teachers.model_names",
        "hast_cuda.ranks.launched", "hast_cuda.networks.Tap", "hast_cuda.run.require_tensorboard",
    ), _NOTHING),
    "hast_cuda.MatchedBatchNorm2d": "its constructor is torch's nn.BatchNorm2d's own",
    "hast_cuda.run.plain": "it takes anything and gives what it does not know as it is",
    **{f"hast_cuda.{name}": _OPS for name in ops.__all__ if name != "build_info"},
}  # fmt: skip
# Not in docs/api.md, and public all the same.
MORE = ("hast_cuda.report",)


def public() -> Iterator[tuple[str, Any]]:
    """Every public function and class, once, by the first of its names."""
    seen: set[int] = set()
    for path in (*MODULES, *MORE):
        module = importlib.import_module(path)
        for name in module.__all__:
            thing = getattr(module, name)
            if (inspect.isclass(thing) or inspect.isfunction(thing)) and id(thing) not in seen:
                seen.add(id(thing))
                yield f"{path}.{name}", thing
            elif inspect.ismodule(thing):  # a method
                yield f"{path}.{name}.recipe", thing.recipe
