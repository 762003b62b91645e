from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hast_cuda.data import Images
from hast_cuda.synthesis import ImageStore

BATCH = Images(torch.randn(2, 3, 4, 4), torch.tensor([1, 0]))


def test_round_trip(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "new" / "folder")
    store.save(0, BATCH)
    store.save(1, Images(BATCH.images[1:], BATCH.labels[1:]))
    found = ImageStore(store.directory).load_all()
    assert torch.equal(found.images, torch.cat([BATCH.images, BATCH.images[1:]]))
    assert found.labels.tolist() == [1, 0, 0]


def test_what_a_kill_leaves_behind_does_not_count(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    store.save(0, BATCH)
    (tmp_path / ".batch_00001.safetensors.77.part").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    assert store.finished() == {0}
    assert len(store.load_all()) == 2


@pytest.mark.parametrize(
    ("labels", "message"),
    [({}, r"is corrupt \('labels'\)"), ({"labels": BATCH.labels[:1]}, r"corrupt .2 images and 1 labels")],
)
def test_shard_whose_parts_do_not_fit(tmp_path: Path, labels: dict[str, torch.Tensor], message: str) -> None:
    """Other damage is in test_hostile_files.py and test_damaged_files.py."""
    store = ImageStore(tmp_path)
    save_file({"images": BATCH.images, **labels}, store.path(0))
    with pytest.raises(ValueError, match=message):
        store.load(0)


@pytest.mark.parametrize("kept", [[], [1], [0, 2]])
def test_missing_shards(tmp_path: Path, kept: list[int]) -> None:
    store = ImageStore(tmp_path)
    for index in kept:
        store.save(index, BATCH)
    with pytest.raises(ValueError, match=r"holds batches \[.*\]; expected 0, 1, 2, ... without"):
        store.load_all()


def test_reading_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent holds batches \[\]"):
        ImageStore(tmp_path / "absent").load_all()
    assert not (tmp_path / "absent").exists()
