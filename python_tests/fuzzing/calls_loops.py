"""Calls that work: synthesis, finetune, methods, run and ranks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from fuzzing import things
from hast_cuda import methods, run, synthesis
from hast_cuda.data import InputSpec
from hast_cuda.finetune import FinetuneConfig, finetune
from hast_cuda.generator import GeneratorConfig, GeneratorTrainer
from hast_cuda.loops.execution import Execution
from hast_cuda.methods import Recipe
from hast_cuda.networks import feature_layers
from hast_cuda.ranks import World, join
from hast_cuda.run import Bits, RunDirectory, TensorBoardLog
from hast_cuda.synthesis import ImageStore

Good = Callable[[], dict[str, Any]]


def _defaults(kind: Any) -> Good:
    """A configuration field by field."""

    def fields() -> dict[str, Any]:
        config = kind()
        return {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}

    return fields


def _of_run(**extra: Any) -> Good:
    return lambda: {"run": things.run(), **extra}


def _logits(**extra: Any) -> Good:
    return lambda: {"logits": torch.randn(4, 5), "labels": things.labels(), **extra}


def _directory() -> RunDirectory:
    return RunDirectory(things.fresh(), {"a": 1}, torch.device("cpu"))


def _named() -> dict[str, Any]:
    return {"preset": "paper", "dataset": "cifar10"}


CALLS: dict[str, tuple[Callable[..., Any], Good]] = {
    "hast_cuda.generator.GeneratorConfig": (GeneratorConfig, _defaults(GeneratorConfig)),
    "hast_cuda.generator.GeneratorTrainer": (GeneratorTrainer, lambda: {
        "teacher": things.teacher(), "shape": things.SHAPE, "num_classes": 5, "config": None,
        "batch_size": 2, "seed": 0, "device": "cpu", "merge": True,
    }),
    "hast_cuda.data.InputSpec": (InputSpec, lambda: {
        "channels": 3, "height": 8, "width": 8, "num_classes": 5,
    }),
    "hast_cuda.synthesis.ImageStore": (ImageStore, lambda: {"directory": things.fresh()}),
    "hast_cuda.synthesis.ImageStore.path": (
        lambda **given: ImageStore(things.fresh()).path(**given), lambda: {"index": 3},
    ),
    "hast_cuda.synthesis.ImageStore.save": (
        lambda **given: ImageStore(things.fresh()).save(**given),
        lambda: {"index": 3, "batch": things.synthetic()},
    ),
    "hast_cuda.synthesis.ImageStore.load": (
        lambda **given: ImageStore(things.run() / "images").load(**given), lambda: {"index": 0},
    ),
    "hast_cuda.synthesis.SynthesisConfig": (
        synthesis.SynthesisConfig, _defaults(synthesis.SynthesisConfig),
    ),
    "hast_cuda.data.Images": (synthesis.Images, lambda: {
        "images": things.images(), "labels": things.labels(),
    }),
    "hast_cuda.synthesis.difficulty": (synthesis.difficulty, _logits()),
    "hast_cuda.synthesis.margin_loss": (synthesis.margin_loss, lambda: {
        "features": torch.randn(4, 3), "references": torch.randn(4, 3), "known": torch.ones(4),
        "margins": (0.1, 0.9),
    }),
    "hast_cuda.synthesis.soft_label_loss": (
        synthesis.soft_label_loss, _logits(targets=torch.rand(4), check_labels=True),
    ),
    "hast_cuda.synthesis.synthesize": (synthesis.synthesize, lambda: {
        "teacher": things.teacher(), "shape": things.IMAGE_SHAPE, "config": things.synthesis(),
        "seed": 0, "device": "cpu", "store": None, "log": lambda _: None,
        "execution": Execution(), "world": None,
    }),
    "hast_cuda.finetune.FinetuneConfig": (FinetuneConfig, _defaults(FinetuneConfig)),
    "hast_cuda.networks.feature_layers": (
        feature_layers, lambda: {"model": things.teacher()},
    ),
    "hast_cuda.finetune.finetune": (finetune, lambda: {
        "teacher": things.teacher(), "student": things.student(), "images": things.images(),
        "config": things.finetuning(), "labels": None, "seed": 0, "device": "cpu",
        "evaluate": None, "checkpoint": None, "log": lambda _: None, "layers": None,
        "execution": None, "world": None,
    }),
    "hast_cuda.methods.Recipe": (Recipe, lambda: {
        f.name: getattr(things.recipe(), f.name) for f in dataclasses.fields(Recipe)
    }),
    "hast_cuda.methods.change": (methods.change, lambda: {
        "recipe": things.recipe(), "changes": {"finetune.iterations": 3},
    }),
    "hast_cuda.methods.recipe": (methods.recipe, lambda: {"method": "hast", **_named()}),
    **{
        f"hast_cuda.methods.{name}.recipe": (getattr(methods, name).recipe, _named)
        for name in methods.available()
    },
    "hast_cuda.run.Bits": (Bits, lambda: {
        "weights": 4, "activations": 4, "placement": "relu", "overrides": {},
    }),
    "hast_cuda.run.RunDirectory": (RunDirectory, lambda: {
        "path": things.fresh(), "config": {"a": 1}, "device": torch.device("cpu"),
        "tensorboard": False, "ranks": 1,
    }),
    "hast_cuda.run.RunDirectory.open": (RunDirectory.open, lambda: {"path": things.run()}),
    "hast_cuda.run.RunDirectory.log": (
        lambda **given: _directory().log(**given), lambda: {"record": {"a": 1}},
    ),
    "hast_cuda.run.RunDirectory.finish": (
        lambda **given: _directory().finish(**given), lambda: {"result": {"a": 1}},
    ),
    "hast_cuda.run.TensorBoardLog": (TensorBoardLog, lambda: {"path": things.fresh()}),
    "hast_cuda.run.check_same_work": (run.check_same_work, lambda: {
        "world": World(), "config": {"a": 1},
    }),
    "hast_cuda.run.environment": (
        run.environment, lambda: {"device": torch.device("cpu"), "ranks": 1},
    ),
    "hast_cuda.run.image_store": (run.image_store, _of_run()),
    "hast_cuda.run.infer_shape": (
        run.infer_shape, lambda: {"teacher": things.teacher(), "size": things.SHAPE},
    ),
    "hast_cuda.run.load_student": (
        run.load_student, lambda: {"teacher": things.teacher(), "run": things.run()},
    ),
    "hast_cuda.run.read_config": (run.read_config, _of_run()),
    "hast_cuda.run.read_finetune_config": (run.read_finetune_config, _of_run()),
    "hast_cuda.run.read_first_images": (run.read_first_images, _of_run(count=3)),
    "hast_cuda.run.read_images": (run.read_images, _of_run()),
    "hast_cuda.run.read_recipe": (run.read_recipe, _of_run()),
    "hast_cuda.run.read_synthesis_config": (
        run.read_synthesis_config, lambda: {"run": things.synthesis_run()},
    ),
    "hast_cuda.run.save_student": (run.save_student, lambda: {
        "student": things.student(), "path": things.fresh(".safetensors"), "described": {"a": 1},
    }),
    "hast_cuda.run.zero_shot_quantize": (run.zero_shot_quantize, lambda: {
        "teacher": things.teacher(), "shape": things.IMAGE_SHAPE, "bits": Bits(),
        "recipe": things.recipe(), "dataset": "cifar10", "method": "hast", "seed": 0,
        "device": "cpu", "out": None, "images": None, "test": None, "describe": None,
        "evaluation_batch": 4, "execution": None, "tensorboard": False, "world": None,
    }),
    "hast_cuda.ranks.World": (World, lambda: {
        "rank": 0, "size": 1, "device": torch.device("cpu"), "steps": None, "waits": None,
    }),
    "hast_cuda.ranks.join": (join, lambda: {"device": "cpu", "backend": None}),
}  # fmt: skip
