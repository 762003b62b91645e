"""Reconstruction and images held out in a run: what each phase is given, and what is told of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import CLASSES, pictures, same_state, snapshot, tiny
from test_run import RECIPE, real_images, run

from hast_cuda.data import Images
from hast_cuda.finetune import agreement
from hast_cuda.reconstruction import ReconstructionConfig, ReconstructionFile
from hast_cuda.run import work
from hast_cuda.run.results import read_result

pytestmark = pytest.mark.usefixtures("exact")
GUARDED = replace(
    RECIPE,
    finetune=replace(RECIPE.finetune, held_out=0.25, keep="best", optimizer="adamw", learning_rate=1e-3),
    reconstruction=ReconstructionConfig(iterations=4, batch_size=4),
)


@pytest.mark.parametrize(("count", "held_out"), [(12, 3), (10, 2), (2, 1), (1, 0)])
def test_images_held_out_are_never_trained_on(count: int, held_out: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = Images(pictures(count), torch.arange(count) % CLASSES)
    seen: dict[str, Any] = {}

    def recorded(name: str, real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            seen[name] = arguments[2], options.get("labels"), options.get("held_out")
            return real(*arguments, **options)

        return call

    for name in ("finetune", "reconstruct"):
        monkeypatch.setattr(work, name, recorded(name, getattr(work, name)))
    keep = "best" if held_out else "last"
    recipe = replace(GUARDED, finetune=replace(GUARDED.finetune, label_weight=1.0, keep=keep))
    result = run(None, recipe=recipe, images=given, test=None).result
    own = count - held_out
    for images, _, _ in seen.values():
        assert torch.equal(images, given.images[:own])
    _, labels, others = seen["finetune"]
    assert torch.equal(labels, given.labels[:own])
    assert (others is None) == (held_out == 0)
    assert others is None or torch.equal(others, given.images[own:])
    assert result["num_held_out"] == held_out
    assert result["num_images"] == count


def test_what_a_run_tells_of_them(tmp_path: Path) -> None:
    done = run(tmp_path, recipe=GUARDED)
    found = read_result(tmp_path / "result.json")
    for key in ("reconstructed", "quantized", "quantized_last", "quantized_best_epoch"):
        assert 0 <= found[key] <= 100
    assert found["num_held_out"] == 3
    assert done.images is not None
    expected = agreement(tiny(), done.student, done.images.images[-3:])
    assert found["agreement"] == vars(expected)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    looks = [r for r in map(json.loads, lines) if r["phase"] == "held out"]
    assert found["kept_iteration"] in [look["iteration"] for look in looks]
    tests = {r["iteration"]: r["top1"] for r in map(json.loads, lines) if r["phase"] == "test"}
    tests[0] = found["reconstructed"]
    assert found["quantized"] == tests[found["kept_iteration"]]
    assert found["quantized_last"] == tests[6]
    assert found["seconds"].keys() >= {"reconstruction", "finetuning"}
    assert run(tmp_path, recipe=GUARDED).result == done.result


@pytest.mark.parametrize("keep", ["last", "best"])
def test_which_is_kept_does_not_need_test_images(keep: str) -> None:
    recipe = replace(GUARDED, finetune=replace(GUARDED.finetune, keep=keep))
    seen, blind = (run(None, recipe=recipe, test=test) for test in (real_images(), None))
    assert blind.result["quantized"] is blind.result["quantized_last"] is None
    assert blind.result["kept_iteration"] == seen.result["kept_iteration"] > 0
    assert same_state(blind.student, snapshot(seen.student))


def test_a_run_broken_off_between_blocks_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(None, recipe=GUARDED)
    save = ReconstructionFile.save

    def stop(self: ReconstructionFile, student: Any, done: Any) -> None:
        save(self, student, done)
        if len(done) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(ReconstructionFile, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, recipe=GUARDED)
    monkeypatch.setattr(ReconstructionFile, "save", save)
    assert (tmp_path / "checkpoints" / "reconstruction.safetensors").exists()
    done = run(tmp_path, recipe=GUARDED)
    assert same_state(done.student, snapshot(whole.student))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    blocks = [r["name"] for r in map(json.loads, lines) if r["phase"] == "reconstruction"]
    assert blocks == ["features.0", "features.3", "output"]
