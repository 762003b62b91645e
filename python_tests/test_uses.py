"""Weights that are read around their layer, layers that are called in other ways, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import TinyNet, draw_batch_norms, pictures, tiny
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.exports import load_packed, save_packed
from hast_cuda.nn import quantization_table
from hast_cuda.posttraining import fold_batch_norms


def lively(network: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    draw_batch_norms(network)
    return network.eval()


class Cosine(TinyNet):
    """Its classifier compares directions, and never calls the layer."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(self.features(x).mean((2, 3))), F.normalize(self.output.weight))


class Again(TinyNet):
    """A convolution's weight is used a second time."""

    def forward(self, x: Tensor) -> Tensor:
        y, weight = self.features(x), self.features[3].weight
        return self.output((y + F.conv2d(F.conv_transpose2d(y, weight), weight)).mean((2, 3)))


class Hidden(Again):
    """The same where torch.fx cannot look."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > -1e9 else -x)


class Tied(TinyNet):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 1, bias=False), nn.Conv2d(8, 8, 1, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.second(self.first(self.features(x))).mean((2, 3)))


def calibrated(network: nn.Module, bits: int = 2, **options: Any) -> nn.Module:
    return hc.calibrate(hc.quantize(network, bits, 8, **options), [pictures(8)]).eval()


@pytest.mark.filterwarnings("ignore:calls of functions such as F.conv2d")
@pytest.mark.parametrize(("kind", "name"), [(Cosine, "output"), (Again, "features.3")])
def test_a_weight_that_others_read_stays_as_it_is(kind: type[nn.Module], name: str, tmp_path: Path) -> None:
    network = lively(kind())
    with pytest.warns(UserWarning, match=rf"stay in full precision: '{name}' .*something else reads its weight"):
        student = calibrated(network)
    assert type(student.get_submodule(name)) is type(network.get_submodule(name))
    save_packed(student, tmp_path / "p.safetensors")
    again = load_packed(tmp_path / "p.safetensors", network)
    assert torch.equal(again(pictures(3)), student(pictures(3)))


def test_two_layers_with_one_weight_are_quantized_alike(tmp_path: Path) -> None:
    network = lively(Tied())
    student = calibrated(network)
    assert torch.equal(student.first.quantized_weight(), student.second.quantized_weight())
    assert len(student.first.quantized_weight()[0].unique()) <= 4
    save_packed(student, tmp_path / "p.safetensors")
    assert torch.equal(load_packed(tmp_path / "p.safetensors", network)(pictures(3)), student(pictures(3)))


def test_a_weight_read_where_nobody_can_look_is_found_by_the_first_image() -> None:
    student = hc.quantize(lively(Hidden()), 4, 8)
    with pytest.raises(ValueError, match=r"reads the weight of 'features\.3' in full precision, beside"):
        hc.calibrate(student, [pictures(4)])
    calibrated(lively(Hidden()), overrides={"features.3": hc.Override(None, None)})


ELSEWHERE = nn.Conv2d(8, 8, 1)


class Elsewhere(TinyNet):
    """A layer of the module that wrote it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.output(ELSEWHERE(self.features(x)).mean((2, 3)))


def test_a_weight_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weight \[8, 8, 1, 1\] that is no parameter .*behind or in 'features\.5'"):
        calibrated(lively(Elsewhere()))


class Padded(nn.Conv2d):
    """More than a convolution, in a method behind forward."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(F.pad(input, (1, 1, 1, 1), value=1.0), weight, bias)


class Doubled(nn.Conv2d):
    """More than a convolution, in front of forward."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return 2 * super().__call__(*args, **kwargs)


@pytest.mark.parametrize("layer", [Padded(3, 6, 3, bias=False), Doubled(3, 6, 3, padding=1, bias=False)])
def test_layers_that_do_more_are_left_alone_by_every_step(layer: nn.Conv2d) -> None:
    network = tiny()
    network.features[0] = layer.eval()
    with pytest.warns(UserWarning, match=r"'features\.0' .*it has a forward of its own"):
        student = calibrated(network, bits=8)
    torch.testing.assert_close(student(pictures(3)), network(pictures(3)), rtol=0.05, atol=0.1)
    if isinstance(layer, Doubled):
        with pytest.raises(ValueError, match=r"features\.0 has a __call__ of its own"):
            fold_batch_norms(network)
    else:
        torch.testing.assert_close(fold_batch_norms(network)(pictures(3)), network(pictures(3)))


def test_hooks_keep_a_layer_from_being_folded() -> None:
    network = tiny()
    network.features[0].register_forward_hook(lambda _module, _args, output: output.clamp(-0.1, 0.1))
    folded = fold_batch_norms(network)
    torch.testing.assert_close(folded(pictures(3)), network(pictures(3)))
    assert isinstance(folded.features[1], nn.BatchNorm2d)
    assert isinstance(folded.features[4], nn.Identity)


def test_what_stays_in_full_precision_is_said_unless_it_was_asked_for() -> None:
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Hardtanh(0, 6), nn.ConvTranspose2d(4, 2, 3)]
    network = nn.Sequential(*layers)
    with pytest.warns(UserWarning, match=r"2 layers stay .*'3' \(Hardtanh\).*'4' \(ConvTranspose2d\)"):
        student = hc.quantize(network)
    assert [row.name for row in quantization_table(student).left] == ["3", "4"]
    hc.quantize(network, overrides={"[34]": hc.Override(None, None)})
    with pytest.warns(UserWarning, match="1 layers stay"):
        hc.quantize(network, placement="all")


def test_convolutions_called_as_functions_are_said() -> None:
    class Own(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Parameter(torch.ones(8, 8, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.output(F.conv2d(self.features(x), self.gate).mean((2, 3)))

    with pytest.warns(UserWarning, match=r"F\.conv2d and F\.linear \(1 of them\) keep their weights"):
        hc.quantize(Own())
