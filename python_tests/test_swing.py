"""Convolutions whose grid moves: against padding and cropping, in the loop, merged and not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import CHANNELS, CLASSES, SIZE, pictures, tiny
from torch import Tensor, nn

from hast_cuda.data import InputSpec
from hast_cuda.loops.execution import Execution
from hast_cuda.loops.modes import frozen_copy
from hast_cuda.merged import BatchStatistics
from hast_cuda.synthesis import SynthesisConfig, synthesize
from hast_cuda.synthesis import step as step_module
from hast_cuda.synthesis.swing import Swing, SwingConv2d, draw_places, swing

SHAPE = InputSpec(CHANNELS, SIZE, SIZE, CLASSES)
CONFIG = SynthesisConfig(num_images=6, batch_size=4, iterations=6, learning_rate=0.1, swing=True)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("reach", [(1, 1), (3, 2), (0, 4), (2, 0)])
def test_equals_padding_and_cropping(reach: tuple[int, int], layout: Any) -> None:
    """Bit for bit, also its gradient where each pixel takes part once."""
    tall, wide = reach
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    padded = F.pad(x, (wide, wide, tall, tall), mode="reflect")
    weights = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    for top in range(2 * tall + 1):
        for left in range(2 * wide + 1):
            expected = padded[:, :, top : top + 6, left : left + 7]
            found = swing(x, torch.tensor([top, left]), reach)
            assert torch.equal(found, expected)
            both = [torch.autograd.grad((y * weights).sum(), x, retain_graph=True)[0] for y in (found, expected)]
            torch.testing.assert_close(*both)


def test_a_map_smaller_than_the_reach_moves_as_far_as_it_can() -> None:
    x = torch.tensor([[[[1.0, 2.0]]]])
    for top in range(7):
        for left, expected in enumerate(([2.0, 1.0], [2.0, 1.0], [2.0, 1.0], [1.0, 2.0], *[[2.0, 1.0]] * 3)):
            assert swing(x, torch.tensor([top, left]), (3, 3)).flatten().tolist() == expected


def test_places_are_all_drawn_and_no_others() -> None:
    reaches = torch.tensor([[1, 3], [0, 1]])
    drawn = draw_places(reaches, 500, torch.Generator().manual_seed(0))
    assert drawn.shape == (500, 2, 2)
    for convolution, axis in ((0, 0), (0, 1), (1, 0), (1, 1)):
        values = set(drawn[:, convolution, axis].tolist())
        assert values == set(range(2 * int(reaches[convolution, axis]) + 1))


class Strided(nn.Module):
    """Two strides that skip pixels, one of them on two branches; no other layer mixes neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.left, self.after = nn.Conv2d(4, 4, 1, stride=2, bias=False), nn.BatchNorm2d(4)
        self.right, self.other = nn.Conv2d(4, 4, 3, (2, 1), padding=1, bias=False), nn.BatchNorm2d(4)
        self.output = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        right = self.other(self.right(x))[:, :, :, ::2]
        logits: Tensor = self.output((self.after(self.left(x)) + right).relu().mean((2, 3)))
        return logits


def network(seed: int = 4) -> Strided:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        made = Strided()
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_var, 0.5, 2)
    return made.eval()


def own_way(model: Strided, x: Tensor, places: Tensor) -> Tensor:
    """Logits with the inputs of both strided convolutions padded and cropped."""

    def moved(value: Tensor, place: Tensor, tall: int, wide: int) -> Tensor:
        top, left = place.tolist()
        padded = F.pad(value, (wide, wide, tall, tall), mode="reflect")
        return padded[:, :, top : top + value.shape[2], left : left + value.shape[3]]

    x = model.norm(model.stem(x)).relu()
    right = model.other(model.right(moved(x, places[1], 1, 0)))[:, :, :, ::2]
    left = model.after(model.left(moved(x, places[0], 1, 1)))
    logits: Tensor = model.output((left + right).relu().mean((2, 3)))
    return logits


@pytest.mark.parametrize(("merge", "segments"), [(False, 0), (True, 0), (True, 3)])
def test_merged_and_unmerged_networks_swing(merge: bool, segments: int) -> None:
    frozen = frozen_copy(network(), torch.device("cpu")).double()
    moving = Swing(frozen, torch.device("cpu"))
    statistics = BatchStatistics(moving.network, merge=merge, segments=segments)
    found = [m for m in statistics.model.modules() if isinstance(m, SwingConv2d)]
    assert len(found) == 2
    x = pictures(3).double().requires_grad_()
    for places in ([[1, 1], [1, 0]], [[0, 2], [2, 0]]):
        moving.places.copy_(torch.tensor(places))
        expected = own_way(network().double(), x, moving.places)
        y = statistics.model(x)
        statistics.forget()
        torch.testing.assert_close(y, expected)
        pairs = [torch.autograd.grad(value.square().sum(), x)[0] for value in (y, expected)]
        torch.testing.assert_close(*pairs)
    moving.rest()
    torch.testing.assert_close(statistics.model(x), network().double()(x))


def test_gradients_of_the_statistics_reach_all_pixels() -> None:
    """A 1x1 convolution of stride 2 sees a quarter of the pixels, the same ones in every iteration."""
    seen = {}
    for moves in (False, True):
        moving = Swing(frozen_copy(network(), torch.device("cpu")), torch.device("cpu"))
        statistics = BatchStatistics(moving.network)
        behind: Any = moving.network.get_submodule("after")
        moving.start(0, "swing", 0)
        touched = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        for iteration in range(40):
            if moves:
                moving.move(iteration)
            x = pictures(3).requires_grad_()
            statistics.model(x)
            (gradient,) = torch.autograd.grad(behind.batch_var.sum(), x)
            touched |= (gradient != 0).any(0).any(0)
        seen[moves] = int(touched.sum())
    assert seen == {False: SIZE * SIZE // 4, True: SIZE * SIZE}


def test_other_images_and_equal_bits_of_a_seed(device: torch.device) -> None:
    first, again, merged = (
        synthesize(tiny(), SHAPE, CONFIG, device=device, execution=Execution(merge=merge)).images
        for merge in (False, False, True)
    )
    still = synthesize(tiny(), SHAPE, replace(CONFIG, swing=False), device=device).images
    assert torch.equal(first, again)
    torch.testing.assert_close(first, merged, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(merged, still, atol=1e-2)


def test_the_network_rests_between_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """IntraQ's features of a finished batch are those of the network as it is, made or read."""
    at_rest = []
    original = step_module.SynthesisStep.start

    def start(self: Any, *args: Any) -> None:
        at_rest.append(torch.equal(self.swing.places, self.swing.at_rest))
        original(self, *args)

    monkeypatch.setattr(step_module.SynthesisStep, "start", start)
    synthesize(tiny(), SHAPE, CONFIG)
    assert at_rest == [True, True]


def test_a_forward_of_its_own_is_kept() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    conv = Doubled(3, 4, 3, stride=2, padding=1)
    moving = Swing(conv, torch.device("cpu"))
    x = pictures(2)
    assert isinstance(moving.network, SwingConv2d)
    assert torch.equal(moving.network(x), conv(x))


def test_a_network_without_strides_stays_as_it_is() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2))
    moving = Swing(plain, torch.device("cpu"))
    moving.start(0)
    moving.move(0)
    assert moving.network is plain
    assert moving.places.shape == (0, 2)
