"""Calls that work: export, data, evaluate, zoo and report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fuzzing import things
from hast_cuda import analysis, report
from hast_cuda import exports as export
from hast_cuda.data import ImageSet, evaluate, load_images
from hast_cuda.data.input_spec import InputSpec
from hast_cuda.teachers import zoo

Good = Callable[[], dict[str, Any]]


def _export(suffix: str, **extra: Any) -> Good:
    return lambda: {"student": things.student(), "path": things.fresh(suffix), **extra}


def _drawn(**values: Any) -> Good:
    return lambda: {**values, "path": things.fresh(".png")}


_HISTOGRAM = analysis.Histogram((0.0, 0.5, 1.0), (3, 4))
_RATES = analysis.ErrorRates((0.0, 0.5, 1.0), (3, 4), (10.0, None))
_SPECTRUM = analysis.Spectrum(((1.0, 2.0),), ((0.5, 0.5),), ((0.0, 0.0),))
_RECORDS = [{"phase": "test", "iteration": 1, "top1": 50.0}]

CALLS: dict[str, tuple[Callable[..., Any], Good]] = {
    "hast_cuda.exports.check": (export.check, lambda: {
        "exported": things.student(), "student": things.student(), "images": things.images(),
        "batch_size": 4,
    }),
    "hast_cuda.exports.export_network": (export.export_network, lambda: {
        "student": things.student(), "folder": things.fresh(), "kind": "packed",
        "shape": things.SHAPE, "network": things.teacher(), "images": things.images(),
        "name": "student", "describe": None,
    }),
    "hast_cuda.exports.export_program": (export.export_program, lambda: {
        "student": things.student(), "shape": things.SHAPE, "own_ops": True, "batch": 2,
    }),
    "hast_cuda.exports.load_packed": (
        export.load_packed, lambda: {"path": things.packed(), "network": things.teacher()},
    ),
    "hast_cuda.exports.measure": (export.measure, lambda: {
        "exported": things.onnx(), "full_precision": things.onnx(), "shape": things.SHAPE,
        "batch": 1, "threads": 1,
    }),
    "hast_cuda.exports.onnx_network": (
        export.onnx_network, lambda: {"path": things.onnx(), "threads": 1},
    ),
    "hast_cuda.exports.read_packed": (export.read_packed, lambda: {"path": things.packed()}),
    "hast_cuda.exports.save_float": (export.save_float, _export(".safetensors", describe=None)),
    "hast_cuda.exports.save_onnx": (
        export.save_onnx, _export(".onnx", shape=things.SHAPE, form="ort", describe=None),
    ),
    "hast_cuda.exports.save_packed": (export.save_packed, _export(".safetensors", describe=None)),
    "hast_cuda.exports.save_program": (
        export.save_program, _export(".pt2", shape=things.SHAPE, own_ops=True, batch=2),
    ),
    "hast_cuda.exports.to_float": (export.to_float, lambda: {"student": things.student()}),
    "hast_cuda.data.ImageSet": (ImageSet, lambda: {
        "spec": things.SPEC_OF_TINY, "labels": things.labels(), "read": lambda _: None,
        "white": 255, "source": "noise",
    }),
    "hast_cuda.data.load_images": (load_images, lambda: {
        "path": "digits", "spec": zoo.input_spec("digits"), "split": "test", "limit": 3,
    }),
    "hast_cuda.data.evaluate": (evaluate, lambda: {
        "model": things.teacher(), "images": things.image_set(), "batch_size": 4, "device": "cpu",
    }),
    "hast_cuda.teachers.zoo.InputSpec": (InputSpec, lambda: {
        "channels": 1, "height": 8, "width": 8, "mean": (0.5,), "std": (0.5,), "num_classes": 5,
        "resize": None,
    }),
    "hast_cuda.teachers.input_spec": (zoo.input_spec, lambda: {
        "model": "digits", "normalization": None, "image_size": None, "num_classes": None,
    }),
    # A name of pytorchcv without weights would be downloaded.
    "hast_cuda.teachers.load_teacher": (zoo.load_teacher, lambda: {
        "model": "networks:tiny", "weights": things.weights(), "num_classes": 5,
    }),
    "hast_cuda.teachers.load_weights": (
        zoo.load_weights, lambda: {"network": things.teacher(), "path": things.weights()},
    ),
    "hast_cuda.data.parse_normalization": (
        zoo.parse_normalization, lambda: {"normalization": "0.5,0.5/0.1,0.1"},
    ),
    "hast_cuda.report.Context": (report.Context, lambda: {
        "teacher": None, "problem": "none", "spec": None, "command": None, "remarks": (),
    }),
    "hast_cuda.report.draw_accuracies": (
        report.draw_accuracies, _drawn(accuracies={"a": 50.0, "b": 60}),
    ),
    "hast_cuda.report.draw_cosines": (report.draw_cosines, _drawn(cosines={"a": [0.5, -0.5]})),
    "hast_cuda.report.draw_curves": (report.draw_curves, _drawn(records=_RECORDS)),
    "hast_cuda.report.draw_difficulty": (
        report.draw_difficulty, _drawn(histograms={"a": _HISTOGRAM}),
    ),
    "hast_cuda.report.draw_error_by_difficulty": (
        report.draw_error_by_difficulty, _drawn(rates={"a": _RATES}),
    ),
    "hast_cuda.report.draw_statistics": (
        report.draw_statistics, _drawn(gaps={"a": analysis.StatisticGap(0.5, 1.0)}),
    ),
    "hast_cuda.report.draw_gaps": (report.draw_gaps, _drawn(top1={"a": (60.0, 50.0)})),
    "hast_cuda.report.draw_inception": (
        report.draw_inception, _drawn(exponents={"a": 2.0}, marks={"a": 0.5}),
    ),
    "hast_cuda.report.inception_loss": (
        report.inception_loss, lambda: {"difficulty": 0.5, "exponent": 2.0},
    ),
    "hast_cuda.report.draw_images": (report.draw_images, lambda: {
        "images": things.images(), "labels": things.labels(), "spec": things.SPEC_OF_TINY,
        "path": things.fresh(".png"), "rows": 1, "columns": 2,
    }),
    "hast_cuda.report.draw_learning_rate": (
        report.draw_learning_rate, _drawn(configs={"a": things.finetuning()}),
    ),
    "hast_cuda.report.draw_loss_curves": (
        report.draw_loss_curves, _drawn(runs={"a": {"test": {"top1": [(1, 50.0)]}}}),
    ),
    "hast_cuda.report.draw_sensitivity": (
        report.draw_sensitivity, _drawn(sweeps={"a": {1.0: [50.0, 60.0]}}),
    ),
    "hast_cuda.report.draw_spectrum": (
        report.draw_spectrum, _drawn(spectra={"a": _SPECTRUM}),
    ),
    "hast_cuda.report.write_report": (report.write_report, lambda: {
        "run": things.run(), "context": None, "out": things.fresh(".html"),
    }),
    "hast_cuda.report.write_comparison": (report.write_comparison, lambda: {
        "runs": [things.run(), things.other_run()], "out": things.fresh(".html"),
    }),
}  # fmt: skip
