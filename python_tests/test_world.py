"""One process by itself, what is refused before several start, and who does what."""

from __future__ import annotations

import pytest
import torch
from networks import CHANNELS, CLASSES, SIZE, tiny

from hast_cuda.cli import main
from hast_cuda.data import InputSpec
from hast_cuda.finetune import FinetuneConfig, finetune
from hast_cuda.ranks import World, join
from hast_cuda.ranks import launch as ranks
from hast_cuda.ranks.world import world_on
from hast_cuda.run import zero_shot_quantize
from hast_cuda.synthesis import SynthesisConfig, synthesize
from hast_cuda.synthesis.batches import assign_batches


def test_parts_cover_every_batch() -> None:
    for size in range(1, 6):
        worlds = [World(rank, size) for rank in range(size)]
        for count in range(1, 12):
            parts = [world.part(count) for world in worlds]
            owned = [i for part, share in parts if share for i in range(count)[part]]
            assert owned == list(range(count))
            assert sum(share for _, share in parts) == pytest.approx(1, abs=1e-15)
            sizes = [len(range(count)[part]) for part, share in parts if share]
            assert max(sizes) - min(sizes) <= 1
            assert all(part == slice(0, 1) for part, share in parts if not share)


def test_batches_go_round_and_dependent_ones_stay() -> None:
    world = World(1, 3)
    assert assign_batches(7, set(), world, dependent=False) == [0, 1, 2, 0, 1, 2, 0]
    assert assign_batches(6, {0, 3, 9}, world, dependent=False) == [0, 0, 1, 0, 2, 0]
    assert assign_batches(5, {1}, world, dependent=True) == [0] * 5


def test_the_world_says_where_to_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    second = World(1, 2, torch.device("cuda:1"))
    assert world_on(second, None) is world_on(second, "cuda") is world_on(second, "cuda:1") is second
    assert world_on(None, None) == World()
    assert world_on(None, "cuda:1") == World(device=torch.device("cuda:1"))
    shape = InputSpec(CHANNELS, SIZE, SIZE, CLASSES)
    for world, device, own in (
        (second, "cuda:0", "rank 1 of 2 computes on 'cuda:1'"),
        (World(), "cuda", "rank 0 of 1 computes on 'cpu'"),
        (World(), torch.device("cuda", 0), "rank 0 of 1 computes on 'cpu'"),
    ):
        message = f"device is '{device}', but the world says that {own}: leave device out"
        with pytest.raises(ValueError, match=message):
            finetune(tiny(), tiny(), torch.randn(2, *shape.size), FinetuneConfig(), device=device, world=world)
        with pytest.raises(ValueError, match=message):
            synthesize(tiny(), shape, SynthesisConfig(), device=device, world=world)
        with pytest.raises(ValueError, match=message):
            zero_shot_quantize(tiny(), shape, device=device, world=world)


def test_one_process_asks_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    world = join("cpu")
    assert (world, world.first) == (World(), True)
    tensors = {"a": torch.ones(2)}
    assert world.share(tensors)["a"] is tensors["a"]
    assert world.gather(3) == [3]
    assert world.on_first(lambda: 5) == 5
    assert world.part(7) == (slice(0, 7), 1.0)
    with world.first_goes_first():
        world.sum_(tensors["a"])
        world.spread_(tensors["a"])
    assert tensors["a"].tolist() == [1, 1]
    world.say("here")
    World(1, 2).say("there")
    assert capsys.readouterr().out == "here\n"


def torchrun(monkeypatch: pytest.MonkeyPatch, **changed: str) -> None:
    found = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in (found | changed).items():
        monkeypatch.setenv(name, value)


def test_verbs_of_one_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    torchrun(monkeypatch)
    assert main(["evaluate", "--model", "digits", "--data", "digits"]) == 1
    message = "hast-cuda: rank 1: error: evaluate is the work of one process, and 2 were started"
    assert message in capsys.readouterr().err
    torchrun(monkeypatch, WORLD_SIZE="1")
    assert main(["info"]) == 0


def test_what_cannot_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun(monkeypatch)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ValueError, match=r"LOCAL_RANK is not set, .* start with torchrun"):
        join("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match=r"to use cuda:1, but torch sees 1 GPUs: start at most 1"):
        join("cuda")
    monkeypatch.setenv(ranks.TIMEOUT, "soon")
    with pytest.raises(ValueError, match="HAST_CUDA_RANK_TIMEOUT is 'soon'; it must be a positive"):
        join("cpu")
    monkeypatch.setenv(ranks.TIMEOUT, "1")
    with pytest.raises(ranks.RankLostError, match=r"not all of the 2 processes .* within 1 s"):
        join("cpu")


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "2.5"])
def test_a_world_size_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", text)
    with pytest.raises(ValueError, match="WORLD_SIZE is"):
        ranks.launched()
