from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import CLASSES, pictures, same_state, snapshot, tiny, without_batch_norm
from torch import nn

import hast_cuda as hc
from hast_cuda.files.tensors import CHECKSUM, load_tensors, save_tensors
from hast_cuda.finetune import FinetuneConfig, finetune
from hast_cuda.finetune.batches import shuffled
from hast_cuda.finetune.checkpoint import CheckpointFile
from hast_cuda.finetune.config import CHOICES

pytestmark = pytest.mark.usefixtures("exact")
CONFIG = FinetuneConfig(iterations=6, batch_size=8, learning_rate=1e-5, evaluations=2)
Records = list[dict[str, Any]]


def calibrated(bits: int = 3, device: torch.device | str = "cpu") -> nn.Module:
    return hc.calibrate(hc.quantize(tiny(device), bits, bits), [pictures(20, device)])


def test_loss_falls(device: torch.device) -> None:
    records: Records = []
    config = replace(CONFIG, iterations=40, batch_size=20, crop_scale=(1.0, 1.0))
    finetune(tiny(), calibrated(), pictures(20), config, device=device, log=records.append)
    first, last = (r["distillation"] + r["alignment"] for r in (records[0], records[-1]))
    assert [r["iteration"] for r in records] == [*range(0, 40, 2), 39]
    assert last < 0.9 * first


def test_only_parameters_of_the_student_change(device: torch.device) -> None:
    teacher, student = tiny().train(), calibrated().train()
    before, start = snapshot(teacher), snapshot(student)
    random = torch.random.get_rng_state()
    done = finetune(teacher, student, pictures(20), CONFIG, device=device)
    assert done.student is student
    assert same_state(teacher, before)
    assert teacher.training
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    assert not any(m._forward_hooks for n in (teacher, student) for m in n.modules())
    parameters = dict(student.named_parameters())
    for name, value in student.state_dict().items():
        assert torch.equal(value.cpu(), start[name]) == (name not in parameters), name
    assert torch.equal(torch.random.get_rng_state(), random)


def test_a_seed_decides_every_bit(device: torch.device) -> None:
    first, again, other = (
        finetune(tiny(), calibrated(), pictures(20), CONFIG, seed=seed, device=device).student for seed in (1, 1, 2)
    )
    assert same_state(first, snapshot(again))
    assert not same_state(first, snapshot(other))


def test_each_pass_shows_every_image_once_and_can_start_anywhere() -> None:
    images = torch.arange(10)
    stream = shuffled(10, 4, seed=0)
    batches = [next(stream) for _ in range(9)]
    passes = [torch.cat(batches[i : i + 3]) for i in (0, 3, 6)]
    assert all(torch.equal(p.sort().values, images) for p in passes)
    assert not torch.equal(passes[0], passes[1])
    for start in range(9):
        assert torch.equal(next(shuffled(10, 4, seed=0, start=start)), batches[start])


def score(stop_at: int | None = None) -> Callable[[nn.Module], float]:
    calls = iter(range(100))

    def evaluate(network: nn.Module) -> float:
        call = next(calls)
        if call == stop_at:
            raise KeyboardInterrupt
        return float(sum(p.detach().sum() for p in network.parameters()))

    return evaluate


MAPS_OF_CLASSES = {"alignment": "cam", "label_weight": 1.0, "label_difficulty": 0.7}


@pytest.mark.parametrize("changed", [*({"optimizer": o} for o in CHOICES["optimizer"]), MAPS_OF_CLASSES], ids=str)
def test_resumed_equals_unbroken(device: torch.device, tmp_path: Path, changed: dict[str, Any]) -> None:
    config = replace(CONFIG, iterations=9, evaluations=3, learning_rate=1e-3, **changed)
    labels = torch.arange(20) % CLASSES
    whole = finetune(tiny(), calibrated(), pictures(20), config, labels=labels, device=device, evaluate=score())
    file = CheckpointFile(tmp_path / "checkpoints" / "last.safetensors")
    arguments: dict[str, Any] = {"images": pictures(20), "labels": labels, "config": config, "checkpoint": file}
    with pytest.raises(KeyboardInterrupt):
        finetune(tiny(), calibrated(), evaluate=score(1), device=device, **arguments)
    records: Records = []
    resumed = finetune(tiny(), calibrated(), evaluate=score(), device=device, log=records.append, **arguments)
    assert same_state(resumed.student, snapshot(whole.student))
    assert resumed.accuracies == whole.accuracies
    assert [i for i, _ in resumed.accuracies] == [3, 6, 9]
    assert min(r["iteration"] for r in records) == 3
    finished = finetune(tiny(), calibrated(), evaluate=score(0), device=device, **arguments)
    assert same_state(finished.student, snapshot(whole.student))  # nothing is left to do


def test_checkpoint_of_a_network_with_a_shared_module(tmp_path: Path) -> None:
    teacher = tiny()
    teacher.alias = teacher.features[3]  # type: ignore[assignment]
    student = hc.calibrate(hc.quantize(teacher), [pictures(20)])
    file = CheckpointFile(tmp_path / "a.safetensors")
    done = finetune(teacher, student, pictures(20), CONFIG, checkpoint=file)
    again = hc.calibrate(hc.quantize(teacher), [pictures(20)])
    assert same_state(finetune(teacher, again, pictures(20), CONFIG, checkpoint=file).student, snapshot(done.student))


def test_checkpoint_of_another_optimizer(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "last.safetensors")
    finetune(tiny(), calibrated(), pictures(20), CONFIG, checkpoint=file)
    config = replace(CONFIG, optimizer="adamw")
    with pytest.raises(ValueError, match=r"needs \['exp_avg', 'exp_avg_sq', 'step'\] of a param"):
        finetune(tiny(), calibrated(), pictures(20), config, checkpoint=file)


def test_checkpoint_with_tensors_of_nothing_known(tmp_path: Path) -> None:
    """As one of a version that named the optimizer's state otherwise: it must not be left out."""
    file = CheckpointFile(tmp_path / "last.safetensors")
    finetune(tiny(), calibrated(), pictures(20), CONFIG, checkpoint=file)
    tensors, metadata = load_tensors(file.path)
    del metadata[CHECKSUM]
    save_tensors(file.path, {k.replace("optimizer", "sgd"): v for k, v in tensors.items()}, metadata)
    with pytest.raises(ValueError, match=r"unknown sgd\.\d+.*delete it"):
        finetune(tiny(), calibrated(), pictures(20), CONFIG, checkpoint=file)


@pytest.mark.parametrize("content", [b"garbage", None])
def test_corrupt_checkpoint(tmp_path: Path, content: bytes | None) -> None:
    file = CheckpointFile(tmp_path / "last.safetensors")
    finetune(tiny(), calibrated(), pictures(20), CONFIG, checkpoint=file)
    half = file.path.read_bytes()[:2000]
    file.path.write_bytes(half if content is None else content)
    with pytest.raises(ValueError, match=r"last.safetensors does not fit .* delete it to start"):
        finetune(tiny(), calibrated(), pictures(20), CONFIG, checkpoint=file)


def test_nan_images_stop_at_the_first_iteration(device: torch.device, tmp_path: Path) -> None:
    images, file = pictures(20), CheckpointFile(tmp_path / "last.safetensors")
    images[:] = torch.nan
    with pytest.raises(FloatingPointError, match=r"fine-tuning: .* not finite from iteration 0 on"):
        finetune(tiny(), calibrated(), images, CONFIG, device=device, checkpoint=file)
    assert not file.path.exists()


def test_a_step_too_far_is_noticed_before_the_student_is_kept(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "last.safetensors")
    config = replace(CONFIG, iterations=1, learning_rate=3e38)
    with pytest.raises(FloatingPointError, match="fine-tuning: the result contains NaN"):
        finetune(tiny(), calibrated(), pictures(20), config, checkpoint=file)
    assert not file.path.exists()


def test_no_images() -> None:
    with pytest.raises(ValueError, match="images is empty: fine-tuning needs at least one image"):
        finetune(tiny(), calibrated(), pictures(0), CONFIG)


def test_unknown_feature_layer() -> None:
    with pytest.raises(ValueError, match=r"feature layers \['conv9'\] are not modules"):
        finetune(tiny(), calibrated(), pictures(20), CONFIG, layers=["conv9"])


def test_network_without_feature_layers() -> None:
    teacher = without_batch_norm()
    student = hc.calibrate(hc.quantize(teacher), [pictures(20)])
    with pytest.raises(ValueError, match=r"no BatchNorm .*feature_weight"):
        finetune(teacher, student, pictures(20), CONFIG)
    finetune(teacher, student, pictures(20), replace(CONFIG, feature_weight=0.0))
