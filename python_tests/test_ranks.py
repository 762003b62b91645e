"""Runs over several processes (gloo), beside those of one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from edge_networks import METHODS
from torch import Tensor

from hast_cuda.cli import main
from hast_cuda.files.tensors import fingerprint

SCRIPT = Path(__file__).with_name("rank_server.py")
ALONE, MOST = 1, 3
# Sums over the ranks have another order than those of one process, so gradients differ in their
# last bits, and every one of the 3 to 6 updates is rounded to the weight's grid: half a unit in the
# last place each. Measured: 1 unit.
ULPS = 64 * torch.finfo(torch.float32).eps  # steps are learned from sums in another order
# Where a student that AdamW trained is kept: it divides by the size of a gradient, so that one of nearly 0, of which
# rounding decides, moves its weight as far as any.
TRAINED = 1e-3
# The same in float64, relative to the largest update: a few hundred sums of some 1e4 terms. A part
# with a wrong weight, or a loss that is no mean over images, is wrong by more than 1e-3.
UPDATE_GAP = 1e-10
# On a GPU convolutions of other batch sizes are other algorithms, and the sign of a tiny gradient
# may turn, which is then worth a whole step of a pixel.
GPU_GAP = 1e-4


@dataclass
class Ended:
    """How the processes of a launch ended; None stood still."""

    codes: list[int | None]
    seconds: float
    said: list[str]


class Launcher:
    """One process that forks the ranks of every launch."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Unbuffered: the ranks write to one file twice, and tests look at the order.
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        )

    def __call__(self, count: int, work: str, folder: Path, *values: str, **env: str) -> Ended:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        launch = {"ranks": count, "work": work, "folder": str(folder), "values": values, "environment": env}
        print(json.dumps(launch), file=self.process.stdin, flush=True)
        found = json.loads(self.process.stdout.readline())
        return Ended(**found, said=[(folder / f"output-{i}.txt").read_text() for i in range(count)])


@pytest.fixture(scope="module")
def launch() -> Iterator[Launcher]:
    launcher = Launcher()
    with launcher.process:  # closes its input, which ends it
        yield launcher
    assert launcher.process.returncode == 0


@pytest.fixture(scope="module")
def folders(launch: Launcher, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By number of processes, what every method gave; with the most, single steps and refusals too."""
    found = {}
    for count, work in ((ALONE, "methods reconstructed"), (MOST, "methods reconstructed losses refusals")):
        found[count] = tmp_path_factory.mktemp(f"ranks{count}")
        ended = launch(count, work, found[count])
        assert ended.codes == [0] * count, "\n".join(ended.said)
    return found


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def assert_equal_runs(found: dict[str, Any], alone: dict[str, Any], bound: float = ULPS) -> None:
    """Images, ranges and figures of one process; the student within ``bound`` of its largest."""
    assert (found["images"] is None) == (alone["images"] is None)
    if alone["images"] is not None:
        assert torch.equal(found["images"], alone["images"])
    assert found["student"].keys() == alone["student"].keys()
    for name, expected in alone["student"].items():
        value: Tensor = found["student"][name]
        if name.endswith(("frozen", "num_batches_tracked")):
            assert torch.equal(value, expected), name
        else:
            gap, largest = (value - expected).abs().max(), expected.abs().max()
            assert gap <= bound * largest, name
    if bound == ULPS:
        assert found["result"] == alone["result"]


@pytest.mark.parametrize("name", [*METHODS, "nowhere"])
def test_every_method_gives_what_one_process_gives(name: str, folders: dict[int, Path]) -> None:
    alone = load(folders[ALONE] / f"{name}-0.pt")
    everyone = [load(folders[MOST] / f"{name}-{rank}.pt") for rank in range(MOST)]
    for found in everyone:
        assert_equal_runs(found, alone, TRAINED if alone["result"].get("kept_iteration") else ULPS)
        assert fingerprint(found["student"]) == fingerprint(everyone[0]["student"])
    if name != "nowhere":
        environment = json.loads((folders[MOST] / name / "environment.json").read_text())
        assert environment["ranks"] == MOST
        config, other = (folders[n] / name / "config.json" for n in (MOST, ALONE))
        assert config.read_text() == other.read_text()


def test_steps_are_those_of_one_process(folders: dict[int, Path]) -> None:
    check_steps(folders[MOST], MOST)


@pytest.mark.slow
def test_steps_of_two_are_those_of_one_process(launch: Launcher, tmp_path: Path) -> None:
    assert launch(2, "losses", tmp_path).codes == [0, 0]
    check_steps(tmp_path, 2)


def check_steps(folder: Path, count: int) -> None:
    """Each kind of loss moves the parameters as in one process."""
    for rank in range(count):
        gaps = load(folder / f"losses-{rank}.pt")
        assert len(gaps) == 11
        for name, gap in gaps.items():
            assert gap < UPDATE_GAP, name


def test_blocks_are_reconstructed_as_in_one_process(folders: dict[int, Path]) -> None:
    """A weight may be rounded the other way where its variable ends within rounding of 0.5."""
    alone = load(folders[ALONE] / "reconstructed-0.pt")
    everyone = [load(folders[MOST] / f"reconstructed-{rank}.pt") for rank in range(MOST)]
    for found in everyone:
        assert fingerprint(found["student"]) == fingerprint(everyone[0]["student"])
        for (name, *values), (expected, *others) in zip(found["errors"], alone["errors"], strict=True):
            assert name == expected
            assert values == pytest.approx(others, rel=0.02)


def test_all_batches_are_logged_and_kept_once(folders: dict[int, Path]) -> None:
    for count in (ALONE, MOST):
        folder = folders[count]
        lines = (folder / "hast" / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        seen = [(r["batch"], r["iteration"]) for r in records if r["phase"] == "synthesis"]
        assert seen == [(batch, iteration) for batch in (0, 1) for iteration in range(3)], count
        names = sorted(p.name for p in (folder / "hast" / "images").iterdir())
        assert names == ["batch_00000.safetensors", "batch_00001.safetensors"]


def test_work_that_differs_is_refused_on_every_rank(folders: dict[int, Path]) -> None:
    for rank in range(MOST):
        said = load(folders[MOST] / f"refusals-{rank}.pt")
        assert "seed is 0 on rank 0 and 1 on rank 1; start all with the same" in said["seed"]
        assert "recipe.finetune.momentum is 0.0 on rank 0 and 0.25 on rank 1" in said["recipe"]
        assert "out is '" in said["out"]
        assert "the network's weights is '" in said["weights"]
        assert "the images given is '" in said["images"]
        assert "is a file; give --out another name" in said["broken directory"]
        assert "seed is 0 on rank 0 and 1 on rank 1; start all with the same" in said["synthesis"]
        assert "the images given is '" in said["steps"]
        assert len(said) == 8
    assert not list(folders[MOST].glob("none*"))


def test_a_killed_rank_ends_the_others_and_other_numbers_go_on(launch: Launcher, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    assert launch(1, "interrupted", tmp_path / "whole", "never").codes == [0]
    alone = load(tmp_path / "whole" / "whole-0.pt")
    for count, phase in ((2, "synthesis"), (3, "finetune")):
        ended = launch(count, "interrupted", tmp_path, f"{phase}-kill")
        assert ended.codes == [*[1] * (count - 1), -9], ended.said
        assert ended.seconds < 30  # and not 600: a closed connection is noticed
        for said in ended.said[:-1]:
            assert "RankLostError: rank " in said
            assert "then give the same command again, with any number of processes" in said
        images = sorted(p.name for p in (tmp_path / "run" / "images").glob("*.safetensors"))
        kept = [0, 1, 2] if phase == "synthesis" else [0, 1, 2, 3]
        assert images == [f"batch_{i:05d}.safetensors" for i in kept]
        assert (tmp_path / "run" / "checkpoints").exists() == (phase == "finetune")
    assert launch(2, "interrupted", tmp_path, "never").codes == [0, 0]
    for rank in range(2):
        assert_equal_runs(load(tmp_path / f"whole-{rank}.pt"), alone)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    tests = [r["iteration"] for r in map(json.loads, lines) if r["phase"] == "test"]
    assert tests == [3, 6]


def test_a_rank_that_stands_still_ends_the_others(launch: Launcher, tmp_path: Path) -> None:
    ended = launch(2, "interrupted", tmp_path, "finetune-stop", HAST_CUDA_RANK_TIMEOUT="2")
    assert ended.codes == [1, None]
    assert 2 <= ended.seconds < 30
    assert "(Timed out waiting 2000ms" in ended.said[0]


def test_faults_are_found_by_rank_0_and_told_to_all(launch: Launcher, tmp_path: Path) -> None:
    count = MOST
    ended = launch(count, "faults", tmp_path)
    assert ended.codes == [0] * count, "\n".join(ended.said)
    for rank in range(count):
        said = load(tmp_path / f"faults-{rank}.pt")
        for name in ("finished", "unfinished"):
            assert said[name].count("It is made again now") == (2 if rank == 0 else 0)
        assert re.match("BlockingIOError: .* is in use by another process", said["lock"])
        assert "has 99 iterations, more than those of 3 to do" in said["checkpoint"]
        own = "OutOfMemoryError: fine-tuning ran out of memory on cpu"
        told = "RuntimeError: OutOfMemoryError: CUDA out of memory"
        assert said["memory of rank 0"].startswith(told if rank else own)
        last = said["memory of the last"]
        assert last.startswith(own if rank == count - 1 else "RankLostError: ")
        assert ("Images and the last checkpoint are kept." in last) == (rank == count - 1)
    left = sorted(p.name for p in (tmp_path / "run" / "images").iterdir())
    assert left == [f"batch_{i:05d}.safetensors" for i in range(3)]


def test_rows_of_a_table(launch: Launcher, tmp_path: Path) -> None:
    found = []
    for count in (ALONE, MOST):
        folder = tmp_path / str(count)
        folder.mkdir()
        ended = launch(count, "rows", folder)
        assert ended.codes == [0] * count, ended.said
        found.append(load(folder / "rows-0.pt"))
        assert len(list((folder / "images").iterdir())) == 1
    assert found[0] == found[1]


def test_images_from_the_command_line(launch: Launcher, tmp_path: Path) -> None:
    ended = launch(2, "command", tmp_path, "never", "synthesize")
    assert ended.codes == [0, 0], ended.said
    assert ended.said[0].endswith(f"4 images in {tmp_path / 'run' / 'images'}\n")
    assert ended.said[1] == ""
    names = [p.name for p in (tmp_path / "run" / "images").iterdir()]
    assert names == ["batch_00000.safetensors"]


def test_the_command_line_says_in_one_line_what_happened(launch: Launcher, tmp_path: Path) -> None:
    ended = launch(2, "command", tmp_path, "never", "quantize", "--seed", "RANK")
    assert ended.codes == [1, 1], ended.said
    for rank, said in enumerate(ended.said):
        errors = said[said.index("hast-cuda: ") :].splitlines()
        assert len(errors) == 2
        start = f"hast-cuda: rank {rank}: error: the processes were given different work: seed is 0"
        assert errors[0].startswith(start)
        assert "HAST_CUDA_DEBUG=1" in errors[1]
    assert not (tmp_path / "run").exists()
    ended = launch(2, "command", tmp_path, "finetune-kill", "quantize")
    assert ended.codes == [1, -9], ended.said
    errors = ended.said[0][ended.said[0].index("hast-cuda: ") :].splitlines()
    assert len(errors) == 2
    assert errors[0].startswith("hast-cuda: rank 0: error: rank 0 of 2 lost another process")


def test_a_budget_is_measured_by_one_for_all(launch: Launcher, tmp_path: Path) -> None:
    ended = launch(2, "budget", tmp_path)
    assert ended.codes == [0, 0], ended.said
    assert [said.count("budget 50%, on 2 x cpu:") for said in ended.said] == [1, 0]
    first, second = (load(tmp_path / f"run-{rank}.pt") for rank in range(2))
    assert len(first["images"]) == 4
    assert first["result"] == second["result"]
    assert first["result"]["budget"] == "50%"


def test_the_command_line_under_torchrun(launch: Launcher, tmp_path: Path) -> None:
    out = tmp_path / "run"
    budget = "--num-images 8 --batch-size 4 --synthesis-iterations 2 --finetune-iterations 2"
    settings = "--reconstruction-iterations 2 --set finetune.calibration_updates=2 finetune.calibration_batch_size=4"
    given = f"quantize --model digits --data digits --test-limit 60 {budget} {settings} --device cpu --out"
    command = [*given.split(), str(out)]
    ended = launch(1, "torchrun", tmp_path, *command)
    assert ended.codes == [0], ended.said
    assert ended.said[0].count("run directory:") == 1
    assert ended.said[0].count("top-1 on 60 test images") == 1
    assert json.loads((out / "environment.json").read_text())["ranks"] == 2
    assert (out / "result.json").exists()
    assert main(command) == 0  # one process finds it done


def assert_equal_on_gpus(launch: Launcher, folder: Path, *where: str) -> None:
    """Two processes on ``where`` against one on a GPU."""
    folders = [folder / "alone", folder / "both"]
    for count, place, values in ((1, folders[0], ("cuda",)), (2, folders[1], where)):
        place.mkdir()
        ended = launch(count, "methods", place, *values)
        assert ended.codes == [0] * count, "\n".join(ended.said)
    for name in [*METHODS, "nowhere"]:
        alone = load(folders[0] / f"{name}-0.pt")
        for rank in range(2):
            assert_equal_runs(load(folders[1] / f"{name}-{rank}.pt"), alone, GPU_GAP)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL wants a GPU for each rank")
def test_every_method_on_two_gpus(launch: Launcher, tmp_path: Path) -> None:
    assert_equal_on_gpus(launch, tmp_path, "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_every_method_of_two_processes_on_one_gpu(launch: Launcher, tmp_path: Path) -> None:
    assert_equal_on_gpus(launch, tmp_path, "cuda:0", "gloo")
