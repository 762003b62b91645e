"""Files of a run that were cut short or changed are noticed: made again, or refused by name."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from networks import same_state, snapshot, tiny
from safetensors.torch import load_file, save_file
from test_run import real_images, run

from hast_cuda.exports import read_packed, save_packed
from hast_cuda.files.tensors import CHECKSUM, DamagedFileError, load_tensors, read_metadata, save_tensors
from hast_cuda.run import load_student

Read = Callable[[], object]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    run(out, test=None)
    return out


def damages(content: bytes, count: int) -> dict[str, bytes]:
    """Cut or a bit flipped at random places, a third in the header, and in all of its length."""
    draw, found = random.Random(3), {"longer": content + b"\0", "empty": b""}
    header = int.from_bytes(content[:8], "little") + 8
    places = [draw.randrange(header if n % 3 == 0 else len(content)) for n in range(count)]
    for at in [*places, header - 1, header, len(content) - 1]:
        found[f"cut at {at}"] = content[:at]
    for at in [*places, *range(8), header - 1, header, len(content) - 1]:
        for bit in range(8) if at < 8 else [draw.randrange(8)]:
            bent = bytearray(content)
            bent[at] ^= 1 << bit
            found[f"bit {bit} of byte {at}"] = bytes(bent)
    return found


@pytest.mark.parametrize("name", ["images/batch_00000", "checkpoints/last", "student"])
def test_no_damage_changes_a_tensor_unseen(finished: Path, tmp_path: Path, name: str) -> None:
    path = finished / f"{name}.safetensors"
    tensors, metadata = load_tensors(path)
    for what, damaged in damages(path.read_bytes(), 200).items():
        (tmp_path / "damaged").write_bytes(damaged)
        try:
            found, told = load_tensors(tmp_path / "damaged")
        except DamagedFileError:
            continue
        # Only the name of the checksum can be lost unseen: the contents are whole.
        assert CHECKSUM not in told, what
        assert "bit" in what, what
        assert found.keys() == tensors.keys(), what
        assert all(torch.equal(found[k], v) for k, v in tensors.items()), what
        assert {k: v for k, v in metadata.items() if k != CHECKSUM}.items() <= told.items(), what


def test_every_damage_of_a_packed_network_is_found(finished: Path, tmp_path: Path) -> None:
    save_packed(load_student(tiny(), finished), tmp_path / "whole")
    read_packed(tmp_path / "whole")
    for what, damaged in damages((tmp_path / "whole").read_bytes(), 400).items():
        (tmp_path / "bent").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"bent (.*export the network again|has format)"):
            pytest.fail(f"{what}: {read_packed(tmp_path / 'bent')}")
    with pytest.raises(FileNotFoundError, match="absent is not a file"):
        read_packed(tmp_path / "absent")


@pytest.mark.parametrize("flip", [True, False])
def test_a_damaged_shard_is_made_again_bit_by_bit(tmp_path: Path, flip: bool) -> None:
    whole = run(None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, test=real_images(killed_at=0))
    shard = tmp_path / "images" / "batch_00000.safetensors"
    content = bytearray(before := shard.read_bytes())
    content[-5] ^= 4
    shard.write_bytes(content if flip else before[:-5])
    with pytest.warns(RuntimeWarning, match=r"shard .*batch_00000.safetensors is corrupt .*again"):
        done = run(tmp_path)
    assert shard.read_bytes() == before
    assert same_state(done.student, snapshot(whole.student))


def test_a_damaged_checkpoint_is_refused_and_deleting_it_helps(tmp_path: Path) -> None:
    whole = run(None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, test=real_images(killed_at=4))
    checkpoint = tmp_path / "checkpoints" / "last.safetensors"
    content = bytearray(checkpoint.read_bytes())
    content[-3] ^= 64
    checkpoint.write_bytes(content)
    with pytest.raises(ValueError, match=r"last.safetensors .*checksum does not fit.*delete it"):
        run(tmp_path)
    checkpoint.unlink()
    assert same_state(run(tmp_path).student, snapshot(whole.student))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"iteration": "7"}, "has 7 iterations, more than those of 6"),
        ({"iteration": "-1"}, "iteration -1"),
        ({"accuracies": "[1]"}, "delete it"),
        ({"iteration": "9" * 5000}, "delete it"),
    ],
)
def test_a_checkpoint_that_nobody_wrote(tmp_path: Path, changed: dict[str, str], message: str) -> None:
    run(tmp_path, test=None)
    checkpoint = tmp_path / "checkpoints" / "last.safetensors"
    tensors, metadata = load_tensors(checkpoint)
    del metadata[CHECKSUM]
    save_tensors(checkpoint, tensors, metadata | changed)
    (tmp_path / "result.json").unlink()
    with pytest.raises(ValueError, match=rf"(?s)last.safetensors .*{message}"):
        run(tmp_path, test=None)
    tensors = {k: v if k != "optimizer.0.momentum_buffer" else v[:1] for k, v in tensors.items()}
    save_tensors(checkpoint, tensors, metadata)
    with pytest.raises(ValueError, match=r"last.safetensors .*0.momentum_buffer.*delete it"):
        run(tmp_path, test=None)


def test_a_damaged_student_is_refused_and_made_again(tmp_path: Path) -> None:
    done = run(tmp_path, test=None)
    student = tmp_path / "student.safetensors"
    content = bytearray(before := student.read_bytes())
    content[-20] ^= 1
    student.write_bytes(content)
    read: list[Read] = [lambda: load_student(tiny(), tmp_path), lambda: run(tmp_path, test=None)]
    for reader in read:
        with pytest.raises(ValueError, match=r"student.safetensors is corrupt .*delete it"):
            reader()
    student.unlink()
    assert same_state(run(tmp_path, test=None).student, snapshot(done.student))
    assert student.read_bytes() == before


def test_files_without_a_checksum_are_read(tmp_path: Path) -> None:
    """Those of earlier versions."""
    done = run(tmp_path, test=None)
    for path in tmp_path.rglob("*.safetensors"):
        metadata = {k: v for k, v in read_metadata(path).items() if k != CHECKSUM}
        save_file(load_file(path), path, metadata or None)
    assert same_state(load_student(tiny(), tmp_path), snapshot(done.student))
    again = run(tmp_path, test=None)
    assert again.images is not None
    assert done.images is not None
    assert torch.equal(again.images.images, done.images.images)


def test_equal_contents_give_equal_bytes(tmp_path: Path) -> None:
    metadata = {f"é\u2028{i}": "<\\\"'\n" * i for i in range(20)}
    for name in ("a", "b"):
        save_tensors(tmp_path / name, {"x": torch.arange(5), "y": torch.ones(())}, metadata)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found, told = load_tensors(tmp_path / "a")
    assert metadata.items() <= told.items()
    assert torch.equal(found["x"], torch.arange(5))
    with pytest.raises(ValueError, match="'sha256', the name of the checksum"):
        save_tensors(tmp_path / "a", found, told)
