from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import same_state, snapshot
from test_run import RECIPE, run
from torch import Tensor

from hast_cuda import methods
from hast_cuda.cli import main
from hast_cuda.data import Images
from hast_cuda.loops.low_pass import AT_ONCE, low_pass
from hast_cuda.methods import Recipe
from hast_cuda.run import read_images
from hast_cuda.run.settings import read_first_images
from hast_cuda.synthesis import ImageStore

CUTOFF = 0.2


def by_distances(images: Tensor, cutoff: float) -> Tensor:
    """SynQ's filter on square images: distances in samples from the middle of the shifted spectrum."""
    size = images.shape[-1]
    places = torch.arange(size, dtype=torch.float64) - size // 2
    distances = torch.hypot(places[:, None], places[None])
    response = torch.exp(-distances.square() / (2 * (cutoff * size) ** 2))
    shifted = torch.fft.fftshift(torch.fft.fft2(images.double()), dim=(-2, -1)) * response
    return torch.fft.ifft2(torch.fft.ifftshift(shifted, dim=(-2, -1))).real


@pytest.mark.parametrize("size", [1, 8, 9, 32])
@pytest.mark.parametrize("cutoff", [0.05, 0.3, 1.875])
def test_response_of_square_images(size: int, cutoff: float) -> None:
    images = torch.randn(3, 2, size, size)
    before = images.clone()
    found = low_pass(images, cutoff)
    assert torch.equal(images, before)
    torch.testing.assert_close(found, by_distances(images, cutoff).float())
    torch.testing.assert_close(found.mean((2, 3)), images.mean((2, 3)))


def test_waves_along_either_axis_lose_what_the_formula_says() -> None:
    height, width = 12, 20
    rows, columns = torch.arange(height, dtype=torch.float64)[:, None], torch.arange(width, dtype=torch.float64)
    wave = torch.cos(2 * torch.pi * (rows / 4 + columns / 5)).expand(1, 1, height, width)
    gain = torch.exp(torch.tensor(-(0.25**2 + 0.2**2) / (2 * 0.3**2), dtype=torch.float64))
    torch.testing.assert_close(low_pass(wave, 0.3), gain * wave)


def test_one_cutoff_blurs_by_the_same_width_at_every_size() -> None:
    found = []
    for size in (32, 224):
        point = torch.zeros(1, 1, size, size)
        point[..., size // 2, size // 2] = 1
        near = slice(size // 2 - 5, size // 2 + 6)
        found.append(low_pass(point, 0.1)[..., near, near])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-5)


def test_images_are_filtered_by_themselves() -> None:
    images = torch.randn(AT_ONCE + 3, 1, 8, 8)
    alone = torch.cat([low_pass(image[None], CUTOFF) for image in images])
    assert torch.equal(low_pass(images, CUTOFF), alone)
    assert low_pass(images, 0.0) is images


@pytest.mark.parametrize("cutoff", [1e-300, 1e300])
def test_extreme_cutoffs(cutoff: float) -> None:
    images = torch.randn(2, 3, 8, 8)
    expected = images if cutoff > 1 else images.mean((2, 3), keepdim=True).expand_as(images)
    torch.testing.assert_close(low_pass(images, cutoff), expected)


def filtered(**changed: float) -> Recipe:
    return replace(RECIPE, finetune=replace(RECIPE.finetune, low_pass=CUTOFF, held_out=0.25, **changed))


def test_a_run_filters_once_what_stays_on_disk(tmp_path: Path) -> None:
    plain, done = run(tmp_path / "plain"), run(tmp_path / "filtered", recipe=filtered())
    assert plain.images is not None
    assert done.images is not None
    stored = ImageStore(tmp_path / "filtered" / "images").load_all()
    assert torch.equal(stored.images, plain.images.images)
    assert torch.equal(done.images.images, low_pass(stored.images, CUTOFF))
    assert torch.equal(done.images.labels, stored.labels)
    assert torch.equal(read_images(tmp_path / "filtered").images, done.images.images)
    first = read_first_images(tmp_path / "filtered", 3)
    assert first is not None
    assert torch.equal(first.images, done.images.images[:3])
    again = run(tmp_path / "filtered", recipe=filtered())  # finds it done
    assert again.images is not None
    assert torch.equal(again.images.images, done.images.images)
    given = run(tmp_path / "given", recipe=filtered(), images=stored)
    assert same_state(given.student, snapshot(done.student))
    ready = run(
        None, recipe=replace(filtered(), finetune=replace(filtered().finetune, low_pass=0.0)), images=done.images
    )
    assert same_state(ready.student, snapshot(done.student))  # ranges, blocks and student see nothing else


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gdfq", "finetune.low_pass is 0.5, which needs images that stay"),
        ("rtn", "has none to filter: set finetune.low"),
    ],
)
def test_refused_without_stored_images(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        methods.change(methods.recipe(name), {"finetune.low_pass": 0.5})


def test_by_the_command_line(tmp_path: Path) -> None:
    images = Images(torch.randn(4, 1, 8, 8), torch.arange(4))
    ImageStore(tmp_path / "images").save(0, images)
    budget = f"--finetune-iterations 1 --reconstruction-iterations 0 --device cpu --out {tmp_path / 'run'}"
    more = f"--images {tmp_path / 'images'} --set finetune.low_pass=0.3 finetune.calibration_updates=1"
    assert main(f"quantize --model digits {budget} {more}".split()) == 0
    found: Any = read_images(tmp_path / "run").images
    assert torch.equal(found, low_pass(images.images, 0.3))
