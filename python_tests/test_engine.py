"""The engine beside plain numpy: every kernel, every instruction set, any number of threads."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine.networks import EXTREMES, extreme_network, random_network
from engine.tiny import tiny, write

from hast_cuda.deploy import load, reference
from hast_cuda.deploy.engine import Engine, require_engine
from hast_cuda.deploy.file import read_file

Array = np.ndarray[Any, Any]
SETS: list[str] = require_engine().instruction_sets()


def images_of(engine: Engine, count: int, seed: int = 0) -> Array:
    """Multiples of an eighth, in whose sums nothing rounds."""
    random = np.random.default_rng(seed)
    return (random.integers(-16, 17, (count, *engine.input_shape)) / 8).astype(np.float32)


def assert_equal_values(path: Path, isa: str) -> None:
    engine, file = load(path, isa=isa), read_file(path)
    image = images_of(engine, 1)
    found, expected = engine.trace(image), reference.trace(file, image)
    assert list(found) == list(expected)
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name][0], err_msg=f"{path.name}, {isa}: value {name!r}")


def assert_equal_steps(path: Path, isa: str) -> None:
    """Each step from the engine's own values before it.

    The engine sums floats in float32 and the reference in float64, which differ in the last bits where the floats
    are no multiples of an eighth any more, as behind an average; all sums of integers have one value.
    """
    engine, file = load(path, isa=isa), read_file(path)
    content, image = file.content, images_of(engine, 1)
    found, entries, whole = engine.trace(image), content["values"], reference.trace(file, image)
    assert list(found) == list(whole)
    np.testing.assert_array_equal(found[entries[0]["name"]], whole[entries[0]["name"]][0])
    reals = {index: found[entry["name"]][None] for index, entry in enumerate(entries)}
    for step in content["steps"]:
        value, expected = reals[step["output"]], reference.follow(file, step, reals)
        said = f"{path.name}, {isa}: step {step['name']!r}"
        assert value.shape == expected.shape, said
        given = reals[step["inputs"][0]]
        floats = step["op"] == "convolution" and "bits" not in entries[step["inputs"][0]]
        if not floats or (given * 8 == np.rint(given * 8)).all():
            np.testing.assert_array_equal(value, expected, err_msg=said)
            continue
        unit, apart = entries[step["output"]].get("step", 0.0), np.abs(value - expected)
        assert apart.max() <= unit + 1e-6 * max(1.0, float(np.abs(expected).max())), said
        assert not unit or (apart > 0.5 * unit).mean() < 0.01, said  # of another level: ties


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("seed", range(24))
def test_random_networks_give_the_reference_bits(seed: int, isa: str, tmp_path: Path) -> None:
    assert_equal_values(random_network(seed, tmp_path / f"{seed}.hast"), isa)


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.slow
def test_more_random_networks_give_the_reference_bits(isa: str, tmp_path: Path) -> None:
    for seed in range(24, 200):
        assert_equal_steps(random_network(seed, tmp_path / f"{seed}.hast"), isa)


@pytest.mark.parametrize("isa", SETS)
def test_every_op_with_any_activation(isa: str, tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.hast", *tiny())
    engine = load(path, isa=isa)
    images = np.random.default_rng(0).standard_normal((3, *engine.input_shape)).astype(np.float32)
    np.testing.assert_allclose(engine.run(images), reference.run(read_file(path), images), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("extreme", EXTREMES, ids=str)
def test_the_largest_sums_do_not_overflow(extreme: tuple[int, int, int], isa: str, tmp_path: Path) -> None:
    for sign in (1, -1, 0):
        path = extreme_network(*extreme, sign, tmp_path / f"{sign}.hast")
        engine = load(path, isa=isa)
        image = np.full(engine.input_shape, 1000, np.float32)
        found, expected = engine.trace(image), reference.trace(read_file(path), image)
        for name, values in found.items():
            np.testing.assert_array_equal(values, expected[name][0], err_msg=name)


@pytest.mark.parametrize("isa", SETS)
def test_any_number_of_threads_gives_the_same_bits(isa: str, tmp_path: Path) -> None:
    path = random_network(3, tmp_path / "n.hast")
    engine = load(path, isa=isa)
    images = images_of(engine, 7)
    alone = np.concatenate([engine.run(image, threads=1) for image in images])
    for threads in (1, 2, 3, 5, 16):
        for count in (1, 2, 5, 7):
            np.testing.assert_array_equal(engine.run(images[:count], threads=threads), alone[:count])


def test_callers_in_several_threads_do_not_meet(tmp_path: Path) -> None:
    engine = load(random_network(5, tmp_path / "n.hast"))
    batches = [images_of(engine, 3, seed) for seed in range(4)]
    expected = [engine.run(batch, threads=1) for batch in batches]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(50):
            if not np.array_equal(engine.run(batches[i], threads=1 + i % 2), expected[i]):
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_pixels_are_normalised_as_the_file_says(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.hast", *tiny())
    engine = load(path)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    mean, std = np.array([0.5, 0.25, 0.125]), np.array([0.25, 0.5, 1])
    floats = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    np.testing.assert_allclose(engine.run(pixels), engine.run(np.ascontiguousarray(floats)), rtol=1e-5, atol=1e-4)


def test_empty_batch_and_wrong_images(tmp_path: Path) -> None:
    engine = load(write(tmp_path / "tiny.hast", *tiny()))
    assert engine.run(np.empty((0, 3, 8, 8), np.float32)).shape == (0, 3)
    with pytest.raises(ValueError, match="8"):
        engine.run(np.zeros((1, 3, 9, 8), np.float32))
    with pytest.raises(ValueError, match="this machine does not run"):
        load(tmp_path / "tiny.hast", isa="mmx")
    assert json.loads(json.dumps(engine.describe))["model"] == "tiny"
    assert engine.isa == SETS[0]


def test_images_that_are_not_numbers_give_codes_all_the_same(tmp_path: Path) -> None:
    """A maximum with the lowest code follows every sum: no undefined conversion, on any set alike."""
    path = write(tmp_path / "tiny.hast", *tiny())
    image = np.full((1, 3, 8, 8), np.nan, np.float32)
    first = [load(path, isa=isa).trace(image)["first"] for isa in SETS]
    for values in first:
        np.testing.assert_array_equal(values, first[0])
