"""Maps of the engine that share memory: every one is whole for as long as it is read, borders and all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engine.networks import Builder, skipping_network
from test_engine import SETS, assert_equal_values, images_of

from hast_cuda.deploy import load, reference
from hast_cuda.deploy.file import read_file
from hast_cuda.deploy.images import normalised


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("seed", range(24))
def test_values_that_are_read_late_and_often(seed: int, isa: str, tmp_path: Path) -> None:
    path = skipping_network(seed, tmp_path / f"{seed}.hast")
    assert_equal_values(path, isa)
    engine, file = load(path, isa=isa), read_file(path)
    for count, threads in ((3, 1), (1, 3), (2, 1), (5, 3)):  # in one engine: what an image left, the next one meets
        images = images_of(engine, count, 10 * count + threads)
        np.testing.assert_array_equal(engine.run(images, threads=threads), reference.run(file, images))
    assert_equal_values(path, isa)


@pytest.mark.slow
@pytest.mark.parametrize("isa", SETS)
def test_more_values_that_are_read_late_and_often(isa: str, tmp_path: Path) -> None:
    for seed in range(24, 200):
        test_values_that_are_read_late_and_often(seed, isa, tmp_path)


def test_a_chain_has_room_for_two_maps(tmp_path: Path) -> None:
    sizes = []
    for length in (4, 12):
        builder = Builder(np.random.default_rng(0), 16, 14)
        last = builder.convert(0, 4)
        for _ in range(length):
            last = builder.convolve(last, 16, (3, 3), padding=(1, 1, 1, 1), bits=4)
        sizes.append(load(builder.finish(last, tmp_path / "n.hast")).workspace_bytes)
    codes, logits = 16 * 16 * 16, 64
    assert sizes == [2 * codes + logits] * 2


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_pixels_and_numbers_become_the_same_codes(channels: int, isa: str, tmp_path: Path) -> None:
    builder = Builder(np.random.default_rng(channels), channels, 35)
    first = builder.convert(0, 8)
    builder.steps[-1]["activation"] = None
    engine = load(builder.finish(builder.convolve(first, 6, (3, 3), bits=4), tmp_path / "n.hast"), isa=isa)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 35, 35, channels), dtype=np.uint8)
    numbers = normalised(pixels, np.full(channels, 0.5), np.full(channels, 0.25))
    np.testing.assert_array_equal(engine.run(pixels), engine.run(numbers))
    assert_equal_values(tmp_path / "n.hast", isa)


@pytest.mark.parametrize("isa", SETS)
def test_images_that_a_sum_reads_too(isa: str, tmp_path: Path) -> None:
    builder = Builder(np.random.default_rng(0), 3, 9)
    codes = builder.convert(0, 4)
    last = builder.convolve(codes, 3, (3, 3), padding=(1, 1, 1, 1), bits=4)
    builder.steps[-1]["residual"] = 0
    assert_equal_values(builder.finish(last, tmp_path / "n.hast"), isa)


def test_every_step_has_its_seconds(tmp_path: Path) -> None:
    engine = load(skipping_network(1, tmp_path / "n.hast"))
    seconds = engine.step_seconds(images_of(engine, 1))
    assert [name for name, _ in seconds] == ["images", *engine.steps]
    assert all(value >= 0 for _, value in seconds)
