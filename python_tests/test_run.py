from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import CHANNELS, CLASSES, SIZE, same_state, snapshot, tiny
from safetensors import safe_open
from torch import Tensor

from hast_cuda import methods
from hast_cuda.data import ImageSet, evaluate
from hast_cuda.data.input_spec import InputSpec
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.loops.execution import Execution
from hast_cuda.methods import Recipe
from hast_cuda.nn import Override
from hast_cuda.run import Bits, QuantizationResult, load_student, work, zero_shot_quantize
from hast_cuda.synthesis import ImageStore, SynthesisConfig

pytestmark = pytest.mark.usefixtures("exact")
SHAPE = (CHANNELS, SIZE, SIZE)
SPEC = InputSpec(*SHAPE, CLASSES, (0.5,) * 3, (0.25,) * 3)
RECIPE = Recipe(
    SynthesisConfig(num_images=12, batch_size=8, iterations=3, learning_rate=0.1),
    FinetuneConfig(
        iterations=6, batch_size=8, calibration_updates=2, calibration_batch_size=8, shrink_ranges=True, evaluations=2
    ),
)
BITS = Bits(3, 3)


def real_images(killed_at: int | None = None) -> ImageSet:
    """40 labelled images; reading them the ``killed_at``-th time ends the process.

    The look at them before any work does not count.
    """
    random = torch.Generator().manual_seed(11)
    pixels = torch.randint(256, (40, *SHAPE), generator=random, dtype=torch.uint8)
    reads = iter(range(-1, 1000))

    def read(indices: Any) -> Tensor:
        if next(reads) == killed_at:
            raise KeyboardInterrupt
        return pixels[torch.as_tensor(indices)]

    return ImageSet(SPEC, torch.arange(40) % CLASSES, read, 255, "noise")


def run(out: Path | None, **changed: Any) -> QuantizationResult:
    arguments = {"teacher": tiny(), "shape": SHAPE, "bits": BITS, "recipe": RECIPE, "out": out}
    return zero_shot_quantize(**arguments | {"test": real_images(), "seed": 4} | changed)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def test_files_of_a_run(device: torch.device, tmp_path: Path) -> None:
    done = run(tmp_path, device=device, describe={"preset": "mine", "network": "tiny"})
    names = {p.name for p in tmp_path.iterdir()}
    assert names >= {"config.json", "environment.json", "metrics.jsonl", "images", "checkpoints"}
    assert names >= {"result.json", "student.safetensors"}
    assert not list(tmp_path.rglob("*.part"))
    result = read_json(tmp_path / "result.json")
    assert result == json.loads(json.dumps(done.result, default=vars))
    for key in ("full_precision", "rounded", "quantized", "quantized_best_epoch"):
        assert isinstance(result[key], float), key
        assert 0 <= result[key] <= 100
    assert result["num_test_images"] == 40
    assert (result["num_images"], result["seed"], result["preset"]) == (12, 4, "mine")
    assert result["bits"] == {"weights": 3, "activations": 3, "placement": "relu", "overrides": {}}
    phases = {"synthesis", "calibration", "range search", "finetuning", "evaluation"}
    assert result["seconds"].keys() == phases
    assert all(isinstance(s, float) and s > 0 for s in result["seconds"].values())
    with safe_open(tmp_path / "student.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["network"], metadata["seed"]) == ("tiny", "4")


def test_configuration_and_environment(device: torch.device, tmp_path: Path) -> None:
    run(tmp_path, device=device)
    config = read_json(tmp_path / "config.json")
    assert config["recipe"]["synthesis"]["num_images"] == 12
    assert config["recipe"]["finetune"]["crop_scale"] == [0.5, 1.0]
    assert config["shape"] == {"channels": 3, "height": 8, "width": 8, "num_classes": CLASSES}
    environment = read_json(tmp_path / "environment.json")
    assert environment["torch"] == torch.__version__
    assert environment["device"] == str(device)
    assert environment.keys() >= {"hast_cuda", "build", "python", "device_name", "threads"}


def test_metrics_tell_of_every_phase(tmp_path: Path) -> None:
    done = run(tmp_path)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {r["phase"] for r in records} == {"synthesis", "finetune", "test"}
    assert {r["batch"] for r in records if r["phase"] == "synthesis"} == {0, 1}
    seen = [(r["iteration"], r["top1"]) for r in records if r["phase"] == "test"]
    assert [iteration for iteration, _ in seen] == [3, 6]
    assert done.result["quantized"] == seen[-1][1]


def test_the_last_accuracy_counts_and_the_best_is_told_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = iter([90.0, 50.0, 60.0, 70.0, 65.0])
    monkeypatch.setattr(work, "evaluate", lambda *_, **__: next(accuracies))
    result = run(None).result
    keys = ("full_precision", "rounded", "start_of_finetuning", "quantized", "quantized_best_epoch")
    assert [result[key] for key in keys] == [90, 50, 60, 65, 70]


def test_accuracies_are_those_of_the_networks(device: torch.device, tmp_path: Path) -> None:
    done = run(tmp_path, device=device)
    assert done.result["full_precision"] == evaluate(tiny(), real_images(), device=device)
    loaded = load_student(tiny(), tmp_path)
    assert not loaded.training
    assert evaluate(loaded, real_images(), device=device) == done.result["quantized"]
    assert same_state(loaded, {k: v.cpu() for k, v in snapshot(done.student).items()})


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_every_phase_computes_by_the_rules_of_the_run(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    others = {"deterministic": False, "benchmark": True, "allow_tf32": precision == "fp32"}
    for name, value in others.items():
        monkeypatch.setattr(cudnn, name, value)
    seen: dict[str, set[tuple[bool, ...]]] = {}

    def recorded(name: str, real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            flags = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
            seen.setdefault(name, set()).add(flags)
            return real(*arguments, **options)

        return call

    phases = ("synthesize", "calibrate_student", "evaluate", "shrink_ranges", "finish", "finetune")
    for name in phases:
        monkeypatch.setattr(work, name, recorded(name, getattr(work, name)))
    run(None, execution=Execution(precision=precision))
    tf32 = precision == "tf32"
    assert seen == {name: {(True, False, tf32, tf32)} for name in phases}
    assert (cudnn.benchmark, cudnn.allow_tf32) == (True, not tf32)


@pytest.mark.parametrize("method", ["hast", "rtn"])
def test_the_student_is_in_eval_mode(method: str) -> None:
    recipe = RECIPE if method == "hast" else methods.recipe(method)
    student = run(None, teacher=tiny().train(), recipe=recipe, test=None).student
    assert not any(module.training for module in student.modules())


def test_teacher_is_untouched(device: torch.device) -> None:
    teacher = tiny().train()
    teacher.features[1].eval()
    before, modes = snapshot(teacher), [m.training for m in teacher.modules()]
    run(None, teacher=teacher, device=device)
    assert same_state(teacher, before)
    assert [m.training for m in teacher.modules()] == modes
    assert all(p.requires_grad and p.device.type == "cpu" for p in teacher.parameters())


def test_the_same_call_finds_everything_done(device: torch.device, tmp_path: Path) -> None:
    first = run(tmp_path, device=device)
    lines = (tmp_path / "metrics.jsonl").read_text()
    again = run(tmp_path, device=device)
    assert same_state(again.student, snapshot(first.student))
    assert (tmp_path / "metrics.jsonl").read_text() == lines
    kept = {k: v for k, v in first.result.items() if k != "seconds"}
    assert {k: v for k, v in again.result.items() if k != "seconds"} == kept


@pytest.mark.parametrize("killed_at", [0, 2, 3, 4])
def test_killed_and_continued_equals_unbroken(device: torch.device, tmp_path: Path, killed_at: int) -> None:
    whole = run(None, device=device)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, device=device, test=real_images(killed_at))
    assert not (tmp_path / "result.json").exists()
    assert (tmp_path / "checkpoints" / "last.safetensors").exists() == (killed_at == 4)
    with pytest.raises(FileNotFoundError, match="is not a finished run directory"):
        load_student(tiny(), tmp_path)
    done = run(tmp_path, device=device)
    assert same_state(done.student, snapshot(whole.student))
    for key in ("full_precision", "rounded", "quantized", "quantized_best_epoch"):
        assert done.result[key] == whole.result[key], key


def test_without_a_directory_the_result_is_the_same(tmp_path: Path) -> None:
    kept, lost = run(tmp_path), run(None)
    assert same_state(lost.student, snapshot(kept.student))
    assert torch.equal(lost.images.images, ImageStore(tmp_path / "images").load_all().images)


def test_without_test_images_there_is_no_accuracy(tmp_path: Path) -> None:
    result = run(tmp_path, test=None).result
    assert result["num_test_images"] is None
    assert result["quantized"] is result["full_precision"] is None
    recipe = replace(RECIPE, finetune=replace(RECIPE.finetune, shrink_ranges=False))
    assert "range search" not in run(None, test=None, recipe=recipe).result["seconds"]


def test_images_of_an_earlier_run(tmp_path: Path) -> None:
    first = run(tmp_path / "a")
    ready = ImageStore(tmp_path / "a" / "images").load_all()
    before = ready.images.clone()
    second = run(tmp_path / "b", images=ready)
    assert torch.equal(ready.images, before)
    assert same_state(second.student, snapshot(first.student))
    assert not (tmp_path / "b" / "images").exists()


@pytest.mark.parametrize(
    "bits",
    [
        Bits(2, 8),
        Bits(4, None),
        Bits(4, 4, "all"),
        Bits(3, 3, overrides={"output": Override(), "features.0": Override(8, 8)}),
    ],
)
def test_bits_survive_the_directory(tmp_path: Path, bits: Bits) -> None:
    done = run(tmp_path, bits=bits, test=None)
    loaded = load_student(tiny(), str(tmp_path))
    x = torch.randn(4, *SHAPE)
    assert str(loaded.quantization_table) == str(done.student.quantization_table)
    assert torch.equal(loaded(x), done.student(x))


def test_shared_modules_and_channels_last(tmp_path: Path) -> None:
    teacher = tiny().to(memory_format=torch.channels_last)
    teacher.alias = teacher.features[3]  # type: ignore[assignment]
    done = run(tmp_path, teacher=teacher)
    assert same_state(load_student(teacher, tmp_path), snapshot(done.student))


@pytest.mark.parametrize("name", ["default", "paper", "released"])
def test_presets_by_name(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def small(method: str, name: str, dataset: str) -> Recipe:
        full = make(method, name, dataset)
        return Recipe(
            replace(full.synthesis, num_images=8, iterations=2),
            replace(full.finetune, iterations=2, calibration_updates=2),
        )

    make = methods.recipe
    monkeypatch.setattr(methods, "recipe", small)
    result = run(tmp_path, recipe=name, dataset="cifar100").result
    assert result["preset"] == name
    assert read_json(tmp_path / "config.json")["preset"] == name


@pytest.mark.parametrize(
    ("shape", "dataset", "expected"),
    [
        (InputSpec(3, 32, 32, 10), None, "cifar10"),
        (InputSpec(3, 8, 64, 21), None, "cifar100"),
        (InputSpec(3, 64, 65, 10), None, "imagenet"),
        (InputSpec(3, 32, 32, 10), "imagenet", "imagenet"),
    ],
)
def test_a_preset_is_that_of_images_like_these(
    shape: InputSpec, dataset: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(method: str, name: str, dataset: str) -> Recipe:
        raise KeyboardInterrupt(dataset)

    monkeypatch.setattr(methods, "recipe", stop)
    with pytest.raises(KeyboardInterrupt, match=f"^{expected}$"):
        run(None, shape=shape, recipe="default", dataset=dataset)
