"""For every public function and configuration, arguments that work: found by their names."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import importlib
import inspect
import itertools
import json
import pkgutil
import shutil
import tempfile
import typing
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from networks import CLASSES, tiny
from pages import RECIPE, make
from test_run import SHAPE, SPEC
from test_run import real_images as labelled
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda import analysis, ops
from hast_cuda.data import Images, InputSpec
from hast_cuda.exports import save_float, save_onnx, save_packed
from hast_cuda.merged import FusedBatchNorm2d
from hast_cuda.posttraining import PostTrainingConfig, fold_batch_norms
from hast_cuda.reconstruction import ReconstructionConfig
from hast_cuda.run import Bits, RunDirectory
from hast_cuda.synthesis import ImageStore
from hast_cuda.teachers import input_spec

# Verbs have tests of their own, tables are run by hand, and the checks are what refuses.
ROOMS = [m.name for m in pkgutil.iter_modules(hc.__path__, "hast_cuda.") if m.ispkg]
PRIVATE = {f"hast_cuda.{name}" for name in ["checks", "cli", "files", "loops", "reproduce"]}
MODULES = ["hast_cuda", *sorted({*ROOMS} - PRIVATE)]
EXCLUDED = {
    "a result, which only the package makes": "QuantizationResult FinetuneResult Agreement BlockError Estimate "
    "CalibrationSet",
    "an exception": "CannotMergeError RankLostError",
    "it takes no argument": "available model_names launched Tap",
    "its constructor is torch's": "MatchedBatchNorm2d",
    # hast_cuda.deploy needs numpy alone: it cannot check types as the rest does; test_deploy.py has wrong files
    "of the deployed network": "Engine EngineFile read_file deploy.load",
    "it needs LiteRT, and students of one placement; test_export_litert.py": "save_litert",
    "it exports in every call; test_allocation.py": "with_engine_seconds",
    "it moves biases of students of one placement; test_export_int8.py": "integer_biases",
}
_numbers = itertools.count()


@functools.cache
def folder() -> Path:
    """Of everything that is written; gone at the end."""
    made = Path(tempfile.mkdtemp(prefix="fuzz-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def fresh(suffix: str = "") -> Path:
    """A path where nothing is."""
    return folder() / f"new-{next(_numbers)}{suffix}"


def images() -> Tensor:
    """Four of them."""
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(3))


def labels() -> Tensor:
    """Of :func:`images`."""
    return torch.tensor([0, 1, 2, 4])


def student() -> nn.Module:
    """Quantized and calibrated."""
    return hc.calibrate(hc.quantize(tiny(), 4, 4), [images()])


@functools.cache
def run(name: str = "run") -> Path:
    """A finished run."""
    make(folder() / name)
    return folder() / name


@functools.cache
def file(save: Callable[..., Any], *more: Any) -> Path:
    """A network in a file."""
    path = fresh(".onnx" if save is save_onnx else ".safetensors")
    save(student(), path, *more)
    return path


def recipe() -> Any:
    """The smallest that does everything."""
    small = replace(RECIPE.synthesis, num_images=8, iterations=1)
    short = replace(RECIPE.finetune, iterations=1, calibration_updates=1, evaluations=1)
    return replace(RECIPE, synthesis=small, finetune=short)


def _loss(*, value: bool = False) -> dict[str, Any]:
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    return {"loss": (x**3).sum() if value else (x**3).sum, "parameters": [x]}


def _hessian() -> analysis.Hessian:
    return analysis.Hessian(**_loss())


def _spectrum() -> analysis.Spectrum:
    return analysis.Spectrum(((1.0, 2.0),), ((0.5, 0.5),), ((0.0, 0.0),))


def _layers() -> dict[str, analysis.LayerSensitivity]:
    return {"a": analysis.LayerSensitivity({2: 0.5, 8: 0.0}, {2: 0.5, 8: 0.0}, 10, 20, 30)}


@functools.cache
def _measured() -> dict[str, analysis.LayerSensitivity]:
    """Of the network ``tiny``."""
    return hc.sensitivity(tiny(), images(), bits=(2, 8))


def _sensitivity() -> Path:
    path = fresh(".json")
    path.write_text(json.dumps({"sensitivity": {"a": vars(_layers()["a"])}}))
    return path


def _directory() -> RunDirectory:
    return RunDirectory(fresh(), {"a": 1}, torch.device("cpu"))


def _onnx() -> Path:
    return file(save_onnx, SHAPE)


def _batch() -> Images:
    return Images(images(), labels())


def _random() -> Tensor:
    return torch.rand(5)


def _one(name: str, value: Any) -> dict[str, Any]:
    return {name: lambda: {"a": value}}


# By name of the parameter, in whichever function; what can be called is called for each test.
ARGUMENTS: dict[str, Any] = {
    "student": student,
    "model": student,
    "exported": student,
    "teacher": tiny,
    "network": tiny,
    "prepared": tiny,
    "images": images,
    "labels": labels,
    "shape": SHAPE,
    "size": SHAPE,
    "run": run,
    "spec": SPEC,
    "recipe": recipe,
    "hessian": _hessian,
    "batches": lambda: [(images(), labels())],
    "logits": lambda: torch.randn(4, CLASSES),
    "difficulties": _random,
    "num_classes": CLASSES,
    "preset": "paper",
    "dataset": "cifar10",
    "folder": fresh,
    "out": fresh,
    "described": lambda: {"a": 1},
    "norm": lambda: nn.BatchNorm2d(4),
    "device": torch.device("cpu"),
    "index": 3,
    "steps": 2,
    "vectors": 1,
    "count": 1,
    "own_ops": True,
    "batch": 1,
    "batch_size": 4,
    "first": _random,
    "second": _random,
    "placement": "relu",
}
_CHART = {"path": lambda: fresh(".png")}
_PACKED = {"path": lambda: file(save_packed)}
_LAYER = {"args": (3, 4, 3)}
# By function, what its parameters need that others of that name do not; "" makes several at once.
OWN: dict[str, dict[str, Any]] = {
    "calibration_set": {"images": None, "num_images": 2, "iterations": 1, "normalization": "cifar10"},
    "to_normalized": {"pixels": lambda: torch.zeros(2, *SHAPE, dtype=torch.uint8)},
    "calibrate": {"batches": lambda: [images()]},
    "quantize": {"model": tiny, "overrides": lambda: {"output": hc.Override(8, 8)}},
    "shrink_ranges": {"candidates": 3},
    "sensitivity": {"bits": (2, 8)},
    "allocate_bits": {"sensitivity": _layers, "average_bits": 4, "size": None},
    "bit_curve": {"sensitivity": _layers, "points": 2},
    "layers_to_keep": {"sensitivity": _layers, "bits": 2},
    "allocate_within_drop": {"sensitivity": lambda: dict(_measured()), "max_drop": 100.0, "act_bits": 8},
    "read_sensitivity": {"path": _sensitivity},
    "FakeQuantConv2d": _LAYER,
    "FakeQuantLinear": _LAYER,
    "fix_weight_range": {"weight_range": lambda: torch.tensor([[-1.0], [1.0]]).expand(2, 4)},
    "set_range": {"lower": 0.0, "upper": 1.0},
    "forward": {"x": images},
    "from_float": {"conv": lambda: nn.Conv2d(3, 4, 3), "linear": lambda: nn.Linear(3, 4)},
    "BatchStatistics": {"model": tiny},
    "require_batch_norm": {"model": tiny},
    "feature_layers": {"model": tiny},
    "evaluate": {"model": tiny, "images": labelled},
    "FusedBatchNorm2d": {"activation": "relu", "quantizer": None},
    "has_running_statistics": {"module": lambda: nn.BatchNorm2d(3)},
    "merge_batch_norms": {"model": tiny, "fuse": lambda: FusedBatchNorm2d, "watch": ["features.1"]},
    "absorb_biases": {"model": lambda: fold_batch_norms(tiny())},
    "equalize": {"model": lambda: fold_batch_norms(tiny())},
    "correct_biases": {"model": tiny},
    "replace_relu6": {"model": tiny},
    "fold_batch_norms": {"model": tiny},
    "finish": {"config": lambda: PostTrainingConfig(rounding="squant", correct_biases=True)},
    "prepare": {"config": lambda: PostTrainingConfig(True, True, True)},
    "Recipe": {"synthesis": lambda: recipe().synthesis, "finetune": lambda: recipe().finetune, "images": "synthetic"},
    "change": {"changes": {"finetune.iterations": 3}},
    "Bits": {"overrides": {}},
    "ImageStore": {"directory": fresh},
    "GeneratorTrainer": {"batch_size": 2, "config": None},
    "InputSpec": {"channels": 1, "height": 8, "width": 8, "mean": (0.5,), "std": (0.5,)},
    "synthesize": {"shape": InputSpec(*SHAPE, CLASSES), "config": lambda: recipe().synthesis},
    "finetune": {"config": lambda: recipe().finetune},
    "ReconstructionFile": {"path": lambda: fresh(".safetensors")},
    "reconstruct": {"config": ReconstructionConfig(iterations=1, batch_size=2), "checkpoint": None},
    "StudentLosses": {"config": lambda: recipe().finetune},
    "gradient_cosines": {"config": lambda: recipe().finetune},
    "zero_shot_quantize": {"shape": InputSpec(*SHAPE, CLASSES), "bits": Bits(), "out": None, "images": None},
    "estimate": {"shape": InputSpec(*SHAPE, CLASSES), "bits": Bits(), "out": None, "images": None},
    "RunDirectory": {"path": fresh, "config": {"a": 1}},
    "open": {"path": run},
    "log": {"record": {"a": 1}},
    "RunDirectory.finish": {"result": {"a": 1}},
    "save": {"batch": _batch, "path": lambda: fresh(".safetensors")},
    "ImageStore.load": {"index": 0},
    "save_student": {"path": lambda: fresh(".safetensors")},
    "export": {"kind": "packed"},
    "load": _PACKED,
    "load_packed": _PACKED,
    "read_packed": _PACKED,
    "onnx_network": {"path": _onnx},
    "save_packed": {"path": lambda: fresh(".safetensors")},
    "save_onnx": {"path": lambda: fresh(".onnx")},
    "save_engine": {"path": lambda: fresh(".hast")},
    "save_program": {"path": lambda: fresh(".pt2")},
    "ImageSet": {"read": lambda: lambda _: None, "white": 255, "source": "noise"},
    "load_images": {"path": "digits", "spec": input_spec("digits"), "limit": 3},
    "input_spec": {"model": "digits", "num_classes": None},
    # A name of pytorchcv without weights would be downloaded.
    "load_teacher": {"model": "networks:tiny", "weights": lambda: file(save_float)},
    "build_network": {"model": "networks:tiny"},
    "load_weights": {"path": lambda: file(save_float)},
    "World": {"size": 1, "steps": None},
    "product": {"vector": lambda: torch.ones(3)},
    "Hessian": {"": _loss},
    "error_by_difficulty": {"wrong": lambda: torch.rand(5) > 0.5},
    "loss_curves": {"records": [{"phase": "synthesis", "iteration": 0, "batch": 0, "match": 1.0}]},
    "Context": {"spec": None, "teacher": None},
    "draw_accuracies": _CHART | _one("accuracies", 50.0),
    "draw_cosines": _CHART | _one("cosines", [0.5, -0.5]),
    "draw_difficulty": _CHART | _one("histograms", analysis.Histogram((0.0, 0.5, 1.0), (3, 4))) | {"network": "x"},
    "draw_error_by_difficulty": _CHART | _one("rates", analysis.ErrorRates((0.0, 0.5, 1.0), (3, 4), (10.0, None))),
    "draw_layers": {**_CHART, "layers": _layers},
    "draw_bit_curve": {**_CHART, "curves": lambda: {"a": analysis.bit_curve(_layers(), points=2)}},
    "draw_statistics": _CHART | _one("gaps", analysis.StatisticGap(0.5, 1.0)),
    "draw_gaps": _CHART | _one("top1", (60.0, 50.0)),
    "draw_inception": _CHART | _one("exponents", 2.0) | _one("marks", 0.5),
    "inception_loss": {"difficulty": 0.5, "exponent": 2.0},
    "draw_images": _CHART | {"rows": 1, "columns": 2},
    "draw_learning_rate": {**_CHART, "configs": lambda: {"a": recipe().finetune}},
    "draw_loss_curves": _CHART | _one("runs", {"test": {"top1": [(1, 50.0)]}}),
    "draw_sensitivity": _CHART | _one("sweeps", {1.0: [50.0, 60.0]}),
    "draw_spectrum": {**_CHART, "spectra": lambda: {"a": _spectrum()}},
    "write_report": {"out": lambda: fresh(".html")},
    "write_comparison": {"runs": lambda: [run(), run("other")], "out": lambda: fresh(".html")},
}
# Methods, and what has them.
METHODS: dict[str, Callable[[], Any]] = {
    "FakeQuantActivation.set_range": hc.FakeQuantActivation,
    "FakeQuantActivation.forward": hc.FakeQuantActivation,
    "FakeQuantConv2d.from_float": lambda: hc.FakeQuantConv2d,
    "FakeQuantConv2d.fix_weight_range": lambda: hc.FakeQuantConv2d(3, 4, 3),
    "FakeQuantLinear.from_float": lambda: hc.FakeQuantLinear,
    "MatchedBatchNorm2d.from_float": lambda: hc.merged.MatchedBatchNorm2d,
    "Hessian.product": _hessian,
    "ImageStore.path": lambda: ImageStore(fresh()),
    "ImageStore.save": lambda: ImageStore(fresh()),
    "ImageStore.load": lambda: ImageStore(run() / "images"),
    "RunDirectory.open": lambda: RunDirectory,
    "RunDirectory.log": _directory,
    "RunDirectory.finish": _directory,
}


def public() -> Iterator[tuple[str, Any]]:
    """Every public function and class but the ops, once, by the first of its names."""
    seen = {id(getattr(ops, name)) for name in ops.__all__}  # test_fuzz_quantizers.py and others
    for path in MODULES:
        module = importlib.import_module(path)
        for name in module.__all__:
            thing = getattr(module, name)
            if (inspect.isclass(thing) or inspect.isfunction(thing)) and id(thing) not in seen:
                seen.add(id(thing))
                yield f"{path}.{name}"[10:], thing


class Case:
    """A callable, what its annotations say, and arguments that work."""

    def __init__(self, name: str) -> None:
        things = {key.rpartition(".")[2]: thing for key, thing in public()} | dict(public())
        owner, _, self.method = name.rpartition(".")
        self.make = METHODS.get(name)
        self.thing = thing = getattr(things[owner], self.method) if self.make else things[name]
        self.own = OWN.get(name, OWN.get(self.method, {}))
        target = inspect.unwrap(thing)
        if inspect.isclass(target) and not dataclasses.is_dataclass(target):
            target = inspect.unwrap(target.__init__)
        self.hints = typing.get_type_hints(target)
        found = [p for p in inspect.signature(thing).parameters.values() if p.name != "self"]
        self.rest = next((p.name for p in found if p.kind == p.VAR_POSITIONAL), None)
        self.names = [p.name for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]

    def good(self) -> dict[str, Any]:
        """Arguments that work, made anew; those with a default that is good enough are left out."""
        known = ARGUMENTS | self.own
        names = [n for n in (*self.names, self.rest) if n in known]
        made = {n: known[n]() if callable(known[n]) else known[n] for n in names}
        return made | self.own.get("", dict)()

    def call(self, arguments: dict[str, Any]) -> Any:
        """What it gives for them."""
        function = getattr(self.make(), self.method) if self.make else self.thing
        rest = arguments.get(self.rest, ())
        named = {n: value for n, value in arguments.items() if n != self.rest}
        return function(*rest, **named)


case = functools.cache(Case)


def cases() -> list[str]:
    """Names of all that are called, by constructor, function or method."""
    excluded = " ".join(EXCLUDED.values()).split()
    found = (name for name, _ in public() if name not in excluded and name.rpartition(".")[2] not in excluded)
    return [*found, *METHODS]
