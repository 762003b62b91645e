"""Calls that work: hast_cuda, hast_cuda.nn, posttraining and analysis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import hast_cuda as hc
from fuzzing import things
from hast_cuda import analysis, posttraining
from hast_cuda import nn as hnn
from hast_cuda.merged import BatchStatistics, FusedBatchNorm2d, merge_batch_norms, warn_unmerged
from hast_cuda.moments import batch_norm_ranges
from hast_cuda.networks import CannotMergeError, has_running_statistics, require_batch_norm
from hast_cuda.posttraining import PostTrainingConfig


def _conv() -> nn.Conv2d:
    return nn.Conv2d(3, 4, 3)


def _losses(**extra: Any) -> dict[str, Any]:
    return {
        "teacher": things.teacher(), "student": things.student(), "config": things.finetuning(),
        "layers": None, "device": "cpu", **extra,
    }  # fmt: skip


def _hessian() -> analysis.Hessian:
    return analysis.Hessian(**things.scalar_loss())


def _model() -> dict[str, Any]:
    return {"model": things.student()}


def _spectrum() -> analysis.Spectrum:
    return analysis.Spectrum(((1.0, 2.0),), ((0.5, 0.5),), ((0.0, 0.0),))


def _flat() -> dict[str, Any]:
    found = things.scalar_loss()
    return {"loss": found["loss"](), "parameters": found["parameters"], "retain_graph": False}


CALLS: dict[str, tuple[Callable[..., Any], Callable[[], dict[str, Any]]]] = {
    "hast_cuda.Execution": (hc.Execution, lambda: {
        "merge": True, "cuda_graphs": "auto", "channels_last": False, "precision": "fp32",
        "checkpoint_segments": 0,
    }),
    "hast_cuda.FakeQuantActivation": (hc.FakeQuantActivation, lambda: {
        "bits": 4, "activation": "relu", "beta": 0.9, "ema": "corrected", "ste": "identity",
    }),
    "hast_cuda.FakeQuantActivation.set_range": (
        lambda **given: hc.FakeQuantActivation().set_range(**given),
        lambda: {"lower": 0.0, "upper": 1.0},
    ),
    "hast_cuda.FakeQuantActivation.forward": (
        hc.FakeQuantActivation().forward, lambda: {"x": things.images()},
    ),
    "hast_cuda.FakeQuantConv2d": (
        lambda **given: hc.FakeQuantConv2d(3, 4, 3, **given),
        lambda: {"weight_bits": 4, "act_bits": 4, "zero_point": "integer"},
    ),
    "hast_cuda.FakeQuantConv2d.from_float": (hc.FakeQuantConv2d.from_float, lambda: {
        "conv": _conv(), "weight_bits": 4, "act_bits": 4, "zero_point": "integer",
    }),
    "hast_cuda.FakeQuantConv2d.fix_weight_range": (
        lambda **given: hc.FakeQuantConv2d(3, 4, 3).fix_weight_range(**given),
        lambda: {"weight_range": torch.tensor([[-1.0], [1.0]]).expand(2, 4)},
    ),
    "hast_cuda.FakeQuantLinear": (
        lambda **given: hc.FakeQuantLinear(3, 4, **given),
        lambda: {"weight_bits": 4, "act_bits": 4, "zero_point": "integer"},
    ),
    "hast_cuda.FakeQuantLinear.from_float": (hc.FakeQuantLinear.from_float, lambda: {
        "linear": nn.Linear(3, 4), "weight_bits": 4, "act_bits": None, "zero_point": "real",
    }),
    "hast_cuda.MatchedBatchNorm2d.from_float": (
        hc.MatchedBatchNorm2d.from_float, lambda: {"norm": nn.BatchNorm2d(4)},
    ),
    "hast_cuda.Override": (hc.Override, lambda: {"weight_bits": 8, "act_bits": None}),
    "hast_cuda.calibrate": (hc.calibrate, lambda: {**_model(), "batches": [things.images()]}),
    "hast_cuda.freeze_ranges": (hc.freeze_ranges, _model),
    "hast_cuda.unfreeze_ranges": (hc.unfreeze_ranges, _model),
    "hast_cuda.quantization_table": (hc.quantization_table, _model),
    "hast_cuda.quantize": (hc.quantize, lambda: {
        "model": things.teacher(), "weight_bits": 4, "act_bits": 4, "placement": "relu",
        "overrides": {"output": hc.Override(8, 8)}, "ema": "corrected", "ste": "identity",
        "zero_point": "integer",
    }),
    "hast_cuda.shrink_ranges": (hc.shrink_ranges, lambda: {
        **_model(), "images": things.images(), "candidates": 3, "smallest": 0.5, "power": 2.0,
    }),
    "hast_cuda.merged.BatchStatistics": (BatchStatistics, lambda: {
        "model": things.teacher(), "merge": False, "segments": 0,
    }),
    "hast_cuda.merged.FusedBatchNorm2d": (FusedBatchNorm2d, lambda: {
        "norm": nn.BatchNorm2d(4), "activation": "relu", "quantizer": None,
    }),
    "hast_cuda.nn.activation_quantizers": (hnn.activation_quantizers, _model),
    "hast_cuda.moments.batch_norm_ranges": (
        batch_norm_ranges, lambda: {**_model(), "width": 6.0},
    ),
    "hast_cuda.networks.has_running_statistics": (
        has_running_statistics, lambda: {"module": nn.BatchNorm2d(3)},
    ),
    "hast_cuda.merged.merge_batch_norms": (merge_batch_norms, lambda: {
        "model": things.teacher(), "fuse": FusedBatchNorm2d, "watch": ["features.1"],
    }),
    "hast_cuda.nn.quantized_once": (hnn.quantized_once, _model),
    "hast_cuda.networks.require_batch_norm": (
        require_batch_norm, lambda: {"model": things.teacher()},
    ),
    "hast_cuda.merged.warn_unmerged": (
        warn_unmerged, lambda: {"reason": CannotMergeError("because")},
    ),
    "hast_cuda.posttraining.PostTrainingConfig": (PostTrainingConfig, lambda: {
        "fold": True, "equalize": True, "absorb_biases": True, "correct_biases": True,
        "rounding": "squant", "range_width": 6.0, "keep_relu6": False,
    }),
    "hast_cuda.posttraining.absorb_biases": (
        posttraining.absorb_biases, lambda: {"model": things.folded()},
    ),
    "hast_cuda.posttraining.correct_biases": (posttraining.correct_biases, lambda: {
        "student": things.student(), "model": things.teacher(),
    }),
    "hast_cuda.posttraining.equalize": (
        posttraining.equalize, lambda: {"model": things.folded()},
    ),
    "hast_cuda.posttraining.finish": (posttraining.finish, lambda: {
        "student": things.student(), "prepared": things.teacher(),
        "config": PostTrainingConfig(rounding="squant", correct_biases=True),
    }),
    "hast_cuda.posttraining.fold_batch_norms": (
        posttraining.fold_batch_norms, lambda: {"model": things.teacher(), "relu6": True},
    ),
    "hast_cuda.posttraining.prepare": (posttraining.prepare, lambda: {
        "teacher": things.teacher(),
        "config": PostTrainingConfig(fold=True, equalize=True, absorb_biases=True),
    }),
    "hast_cuda.posttraining.replace_relu6": (
        posttraining.replace_relu6, lambda: {"model": things.teacher()},
    ),
    "hast_cuda.posttraining.squant": (posttraining.squant, _model),
    "hast_cuda.analysis.Hessian": (analysis.Hessian, things.scalar_loss),
    "hast_cuda.analysis.Hessian.product": (
        lambda **given: _hessian().product(**given), lambda: {"vector": torch.ones(3)},
    ),
    "hast_cuda.analysis.Spectrum.largest": (
        lambda **given: _spectrum().largest(**given), lambda: {"count": 1},
    ),
    "hast_cuda.analysis.Spectrum.density": (
        lambda **given: _spectrum().density(**given), lambda: {"points": 10, "variance": 1e-5},
    ),
    "hast_cuda.analysis.StudentLosses": (
        analysis.StudentLosses, lambda: _losses(images=things.images(), labels=things.labels()),
    ),
    "hast_cuda.analysis.cosine": (
        analysis.cosine, lambda: {"first": torch.ones(3), "second": torch.ones(3)},
    ),
    "hast_cuda.analysis.difficulty_histogram": (
        analysis.difficulty_histogram, lambda: {"difficulties": torch.rand(5), "bins": 4},
    ),
    "hast_cuda.analysis.error_by_difficulty": (analysis.error_by_difficulty, lambda: {
        "difficulties": torch.rand(5), "wrong": torch.rand(5) > 0.5, "bins": 4,
    }),
    "hast_cuda.analysis.flat_gradient": (analysis.flat_gradient, _flat),
    "hast_cuda.analysis.gradient_cosines": (
        analysis.gradient_cosines, lambda: _losses(batches=things.pairs()),
    ),
    "hast_cuda.analysis.hessian_spectrum": (
        analysis.hessian_spectrum,
        lambda: {"hessian": _hessian(), "vectors": 1, "steps": 2, "seed": 0},
    ),
    "hast_cuda.analysis.hessian_trace": (
        analysis.hessian_trace, lambda: {"hessian": _hessian(), "vectors": 2, "seed": 0},
    ),
    "hast_cuda.analysis.judge": (analysis.judge, lambda: {
        "network": things.teacher(), "batches": things.pairs(), "device": "cpu",
    }),
    "hast_cuda.analysis.loss_curves": (analysis.loss_curves, lambda: {
        "records": [{"phase": "synthesis", "iteration": 0, "batch": 0, "match": 1.0}],
    }),
    "hast_cuda.analysis.reestimate_batch_norms": (
        analysis.reestimate_batch_norms,
        lambda: {
            "network": things.teacher(), "images": things.images(), "batch_size": 8,
            "device": "cpu",
        },
    ),
    "hast_cuda.analysis.statistic_gaps": (
        analysis.statistic_gaps,
        lambda: {
            "network": things.teacher(), "images": things.images(), "batch_size": 3,
            "device": "cpu",
        },
    ),
    "hast_cuda.analysis.require_double_backward": (
        lambda **given: analysis.require_double_backward(*given.values()),
        lambda: {"tensors": things.scalar_loss()["loss"]()},
    ),
    "hast_cuda.analysis.top_eigenvalues": (
        analysis.top_eigenvalues,
        lambda: {"hessian": _hessian(), "count": 1, "steps": 2, "seed": 0},
    ),
    "hast_cuda.analysis.twice_differentiable": (
        analysis.twice_differentiable, lambda: {"network": things.student()},
    ),
}  # fmt: skip
