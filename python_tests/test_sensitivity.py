"""What every layer loses alone: on small networks, against the same by hand."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from engine_networks import Bottlenecks
from networks import tiny
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.analysis import LayerSensitivity, read_sensitivity
from hast_cuda.finetune import agreement
from hast_cuda.nn.quantized_weight import QuantizedWeight
from hast_cuda.reconstruction.rounding import search_weight_range


def images(count: int = 8, size: int = 8) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_more_bits_lose_less() -> None:
    found = hc.sensitivity(tiny(), images(), bits=(8, 2))
    assert list(found) == ["features.0", "features.2", "features.3", "features.5", "output"]
    assert [name for name, layer in found.items() if layer.weights] == ["features.0", "features.3", "output"]
    for layer in found.values():
        for losses in filter(None, (layer.weights, layer.activations)):
            assert list(losses) == [2, 8]
            assert losses[2] > 10 * losses[8] >= 0
    assert found["features.0"].parameters == 6 * 3 * 9
    assert found["features.3"].multiplications == 8 * 16 * 6 * 9
    assert found["output"].multiplications == 40
    assert found["features.2"].values == 6 * 64


@pytest.mark.parametrize("symmetric", [False, True])
def test_one_layer_is_quantized_and_no_other(symmetric: bool) -> None:
    network, x = tiny(), images()
    before = copy.deepcopy(network.state_dict())
    flags = {"search": False, "symmetric_weights": symmetric}
    found = hc.sensitivity(network, x, bits=(3,), placement="all", **flags)
    student = hc.quantize(
        network, 3, None, overrides={"features.0": hc.Override(), "output": hc.Override()}, symmetric_weights=symmetric
    )
    assert found["features.3"].weights[3] == pytest.approx(agreement(network, student, x).divergence, rel=1e-5)
    acts = hc.calibrate(hc.quantize(network, 8, 3, placement="all", sum_bits=3), [x])
    for layer in (m for m in acts.modules() if isinstance(m, QuantizedWeight)):
        layer.cached_weight = layer.weight
    acts.features[3].input_quantizer = acts.output.input_quantizer = None
    assert found["features.0"].activations[3] == pytest.approx(agreement(network, acts, x).divergence, rel=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_searched_ranges() -> None:
    network, x = tiny(), images(64)
    found = hc.sensitivity(network, x, bits=(2,))
    alone = {"features.0": hc.Override(), "output": hc.Override()}
    student = hc.quantize(network, 2, None, overrides=alone)
    student.features[3].fix_weight_range(search_weight_range(network.features[3].weight, 2))
    assert found["features.3"].weights[2] == pytest.approx(agreement(network, student, x).divergence, rel=1e-5)
    acts = hc.quantize(network, 8, 2, overrides={"features.*": hc.Override(8, 8), "features.5": hc.Override(None, 2)})
    acts = hc.shrink_ranges(hc.calibrate(acts, [x]), x)
    assert found["features.5"].activations[2] == pytest.approx(agreement(network, acts, x).divergence, rel=0.1)


def test_constant_weights_lose_nothing() -> None:
    network = tiny()
    with torch.no_grad():
        network.features[3].weight.copy_(torch.linspace(-1, 1, 8)[:, None, None, None].expand(8, 6, 3, 3))
    for search in (True, False):
        found = hc.sensitivity(network, images(), search=search)
        assert max(found["features.3"].weights.values()) < 1e-9
        assert found["output"].weights[2] > 1e-4


def test_sums_and_what_is_in_place() -> None:
    network = Bottlenecks().eval()
    found = hc.sensitivity(network, images(4, 16), bits=(2, 8), placement="integer")
    assert found["stem.0.0"].sums  # the image in front of it
    assert not found["stem.1"].sums
    assert {name for name, layer in found.items() if layer.weights} == {
        name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)
    }
    assert all(layer.activations[8] <= layer.activations[2] for layer in found.values() if layer.activations)


class Joined(nn.Module):
    """Two convolutions whose outputs are concatenated: one grid."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.output = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(8, 5, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x), self.b(x)], 1)
        return self.output(nn.functional.max_pool2d(y, 1)).flatten(1)


def test_layers_on_one_grid_are_one() -> None:
    network = Joined().eval()
    found = hc.sensitivity(network, images(), bits=(2, 4, 8), placement="integer")
    assert found["a"].joined == ("b",)
    assert found["b"].activations == {}
    chosen = hc.allocate_bits(found, average_bits=4, average_act_bits=4)
    student = hc.quantize(network, 4, 4, placement="integer", overrides=chosen)
    assert student.a.output_quantizer is student.b.output_quantizer
    assert student.a.output_quantizer.bits == chosen["a"].act_bits == chosen["b"].act_bits


def test_written_and_read_again(tmp_path: Path) -> None:
    layer = LayerSensitivity({2: 0.5, 8: 0.0}, {2: 0.25}, 3, 4, 5, True, ("b",))
    path = tmp_path / "sensitivity.json"
    path.write_text(json.dumps({"sensitivity": {"a": vars(layer)}}))
    assert read_sensitivity(path) == {"a": layer}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "holds no sensitivity (KeyError"),
        ('{"sensitivity": [1]}', "holds no sensitivity (AttributeError"),
        ('{"sensitivity": {"a": {"weights": {"9": 1.0}}}}', "a width is 9; allowed: 2 to 8"),
        ('{"sensitivity": {"a": {"weights": {"x": 1.0}}}}', "holds no sensitivity (ValueError"),
        ('{"sensitivity": {"a": {"weights": {"2": -1.0}}}}', "weights at 2 bits is -1.0"),
        ('{"sensitivity": {"a": {"weights": {"2": "x"}}}}', "weights[2] must be a number"),
        ('{"sensitivity": {"a": {"colour": 1}}}', "colour"),
    ],
)
def test_files_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_sensitivity(tmp_path / "x.json")


def test_refused() -> None:
    with pytest.raises(ValueError, match="bits is 9; allowed: 2 to 8"):
        hc.sensitivity(tiny(), images(), bits=(2, 9))
    with pytest.raises(ValueError, match="the number of bits is 0"):
        hc.sensitivity(tiny(), images(), bits=())
    with pytest.raises(FileNotFoundError, match="make it with hast-cuda analyze sensitivity"):
        read_sensitivity("nowhere.json")


def test_the_second_order_estimate_is_near_what_is_measured() -> None:
    found = hc.sensitivity(
        hc.load_teacher("digits"), torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    )
    weights = {name: layer for name, layer in found.items() if layer.weights}
    ratios = [layer.second_order[8] / layer.weights[8] for layer in weights.values()]
    assert 1 / 3 < torch.tensor(ratios).log().mean().exp() < 3
    assert all(layer.second_order.keys() == layer.weights.keys() for layer in found.values())
    order = [sorted(weights, key=lambda name: getattr(weights[name], kind)[6]) for kind in ("weights", "second_order")]
    places = [[names.index(name) for name in weights] for names in order]
    assert torch.corrcoef(torch.tensor(places, dtype=torch.float64))[0, 1] > 0.8
