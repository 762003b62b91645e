"""Packed networks come back bit by bit; whatever is not one is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from exporting import images, student_of
from networks import same_state, snapshot, tiny
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.exports import load_packed, read_packed, save_packed
from hast_cuda.nn.quantized_weight import QuantizedWeight
from hast_cuda.posttraining import PostTrainingConfig, finish, prepare
from hast_cuda.teachers.digits import load_digits_network


def with_other_weights(network: nn.Module) -> nn.Module:
    """The same architecture, nothing of its values."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.fill_(1)
    return other


@torch.no_grad()
def check_round_trip(student: nn.Module, network: nn.Module, path: Path, x: Tensor) -> nn.Module:
    """The file into ``network``'s architecture: same outputs, weights and ranges."""
    save_packed(student, path)
    blank = with_other_weights(network)
    before = snapshot(blank)
    loaded = load_packed(path, blank)
    assert same_state(blank, before)
    assert not any(module.training for module in loaded.modules())
    assert torch.equal(loaded(x), student(x))
    theirs = dict(student.named_modules())
    for name, module in loaded.named_modules():
        if isinstance(module, QuantizedWeight):
            assert torch.equal(module.quantized_weight(), theirs[name].quantized_weight())
            assert module.weight.requires_grad
        if isinstance(module, hc.FakeQuantActivation):
            assert not module.observing
            assert torch.equal(module.range_state[:2], theirs[name].range_state[:2])
    again = path.with_suffix(".again")
    save_packed(loaded, again)
    ours, first = read_packed(again), read_packed(path)
    assert ours[1] == first[1]
    assert all(torch.equal(first[0][k], v) for k, v in ours[0].items() if "lookup" not in k)
    return loaded


@pytest.mark.parametrize("bits", [3, 5])
def test_digits_network(bits: int, tmp_path: Path) -> None:
    network = load_digits_network()
    student = student_of(network, bits, bits, shape=(1, 8, 8))
    check_round_trip(student, network, tmp_path / "p", images(9, (1, 8, 8)))


@pytest.mark.parametrize(
    "options",
    [
        {"act_bits": None},
        {"placement": "all"},
        {"overrides": {"features.0": hc.Override(8, 8), "output": hc.Override(3)}},
        {"overrides": {"features.3": hc.Override()}},
        {"placement": "all", "overrides": {"features.0": hc.Override(8)}, "ste": "clipped"},
    ],
)
def test_placements(options: dict[str, Any], tmp_path: Path) -> None:
    check_round_trip(student_of(tiny(), 4, **options), tiny(), tmp_path / "p", images())


@pytest.mark.parametrize("rounding", ["nearest", "squant"])
def test_prepared_networks(rounding: str, tmp_path: Path) -> None:
    config = PostTrainingConfig(fold=True, equalize=True, correct_biases=True, rounding=rounding)
    prepared = prepare(tiny(), config)
    student = finish(student_of(prepared, 4, 4), prepared, config)
    check_round_trip(student, prepared, tmp_path / "p", images())
    with pytest.raises(ValueError, match=r"does not fit this TinyNet.*posttraining\.prepare"):
        load_packed(tmp_path / "p", tiny())


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_difficult_channels(dtype: torch.dtype, bits: int, tmp_path: Path) -> None:
    """Constant, one-sided and nearly constant channels."""
    network = nn.Sequential(nn.Conv2d(3, 40, 3), nn.ReLU(), nn.Conv2d(40, 8, 1))
    spread = torch.logspace(-9, 2, 40).reshape(-1, 1, 1, 1)
    with torch.no_grad():
        weight = network[0].weight
        weight[:20].copy_(0.005 + weight[:20].abs() * spread[:20])
        weight[20:].copy_((1 + weight[20:] * spread[:20]) * spread[20:])
        for channel, constant in enumerate([0.0, 1e-8, 0.003, -0.0151, 0.5, 3.0, 100.0]):
            weight[channel] = constant
        network[2].weight.abs_().add_(0.1)
    network = network.to(dtype)
    student = student_of(network, bits, 8)
    x = images().to(dtype)
    check_round_trip(student, network, tmp_path / "p", x)
    loaded = load_packed(tmp_path / "p", copy.deepcopy(network).float())
    assert torch.equal(loaded(x), student(x))  # the file's dtype, not that of the architecture
    tensors, _ = read_packed(tmp_path / "p")
    assert tensors["0.zero_point"].dtype == torch.int64
    assert tensors["2.zero_point"].dtype == torch.int32


def test_grids_on_which_dequantized_values_quantize_otherwise(tmp_path: Path) -> None:
    network = nn.Linear(9, 500)
    with torch.no_grad():  # zero points of 2^22 to 2^23: S*w is rounded to halves
        base = torch.linspace(0.04, 0.08, 500).reshape(-1, 1)
        network.weight.copy_(base * (1 + torch.rand(500, 9) * 255 / 7e6))
    student = hc.quantize(network, 8, None)
    again = copy.deepcopy(student)
    again.fix_weight_range()
    again.weight.data.copy_(again.quantized_weight().detach())
    assert not torch.equal(again.quantized_weight(), student.quantized_weight())
    check_round_trip(student, network, tmp_path / "p", images(3, (9,)))
    assert read_packed(tmp_path / "p")[0]["lookup"].shape == (500, 256)


def test_weights_that_no_integer_zero_point_describes(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        network[0].weight[0] = 1e12
    with pytest.raises(ValueError, match=r"'0'.*too large.*Override\(\)"):
        save_packed(hc.quantize(network, 4, None), tmp_path / "p")
    assert not list(tmp_path.iterdir())


class Shared(nn.Module):
    """One block under two names, weights tied to another layer, an embedding and a buffer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
        self.again = self.first
        self.tied = nn.Linear(6, 6)
        self.tied.weight = self.first[0].weight
        self.words = nn.Embedding(4, 6)
        self.decoder = nn.Linear(6, 4, bias=False)
        self.decoder.weight = self.words.weight
        self.norm = nn.LayerNorm(6)
        self.norms = nn.ModuleList([self.norm, nn.LayerNorm(6)])
        self.norms[1].weight = self.norm.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.tied(self.first(x)) + self.words.weight.sum(0))
        result: Tensor = self.decoder(self.norms[1](self.norm(x)))
        return result


TIED = "ignore:1 layers stay in full precision. 'decoder' .Linear.. something else reads its weight"


@pytest.mark.filterwarnings(TIED)
@pytest.mark.parametrize("overrides", [None, {"tied": hc.Override(3)}])
def test_shared_modules_and_tied_weights(overrides: Any, tmp_path: Path) -> None:
    network = Shared().eval()
    student = student_of(network, 4, 4, shape=(6,), overrides=overrides)
    loaded = check_round_trip(student, network, tmp_path / "p", images(5, (6,)))
    assert loaded.again is loaded.first
    assert (loaded.tied.weight is loaded.first[0].weight) == (overrides is None)
    assert loaded.norms[1].weight is loaded.norm.weight
    tensors, content = read_packed(tmp_path / "p")
    assert ("tied.qweight" in tensors) == (overrides is not None)
    assert "again.0.qweight" not in tensors
    assert content["aliases"]["norms.1.weight"] == "norm.weight"
    untied = Shared().eval()
    untied.again = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    with pytest.raises(ValueError, match=r"missing: 'again\.0\.weight'"):
        load_packed(tmp_path / "p", untied)


@pytest.mark.filterwarnings(TIED)
def test_tied_weights_on_equal_fixed_grids_stay_tied(tmp_path: Path) -> None:
    network = Shared().eval()
    student = student_of(network, 4, 4, shape=(6,))
    for layer in (student.first[0], student.tied):
        layer.fix_weight_range()
    loaded = check_round_trip(student, network, tmp_path / "p", images(5, (6,)))
    assert loaded.tied.weight is loaded.first[0].weight
    student.tied.fix_weight_range(student.tied.weight_range * 2)
    loaded = check_round_trip(student, network, tmp_path / "p", images(5, (6,)))
    assert loaded.tied.weight is not loaded.first[0].weight


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_empty_layers_and_a_layer_that_is_the_network(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 0), nn.Linear(0, 4))
    student = hc.quantize(network, 4, None)
    x = images(2, (3,))
    check_round_trip(student, network, tmp_path / "p", x)
    alone = nn.Linear(3, 2)
    check_round_trip(student_of(alone, 4, 4, shape=(3,), placement="all"), alone, tmp_path / "a", x)
    assert "qweight" in read_packed(tmp_path / "a")[0]


def test_an_architecture_without_memory_is_enough(tmp_path: Path) -> None:
    student = student_of(tiny(), 4, 4, placement="all")
    save_packed(student, tmp_path / "p")
    loaded = load_packed(tmp_path / "p", tiny().to("meta"))
    x = images()
    assert torch.equal(loaded(x), student(x))


def test_what_is_stored_and_how_large(tmp_path: Path) -> None:
    network = load_digits_network()
    student = student_of(network, 4, 4, shape=(1, 8, 8))
    info = save_packed(student, tmp_path / "p", {"seed": 3, "notes": ["a", None]})
    assert info.bytes == (tmp_path / "p").stat().st_size
    assert info.float_bytes == 4 * sum(p.numel() for p in network.parameters())
    layers = {n: m for n, m in student.named_modules() if isinstance(m, QuantizedWeight)}
    count = sum(layer.weight.numel() for layer in layers.values())
    channels = sum(layer.weight.shape[0] for layer in layers.values())
    assert info.weight_bits == pytest.approx(4 + 8 * 16 * channels / count, rel=1e-3)
    tensors, content = read_packed(tmp_path / "p")
    payload = sum(t.numel() * t.element_size() for t in tensors.values())
    assert payload < info.float_bytes / 4 < info.bytes < info.float_bytes  # small: names count
    assert content["describe"] == {"seed": 3, "notes": ["a", None]}
    assert content["versions"] == {"hast_cuda": hc.__version__, "torch": torch.__version__}
    for name, layer in layers.items():
        assert tensors[f"{name}.qweight"].numel() == -(-layer.weight.numel() // 2)
        assert f"{name}.weight" not in tensors
        record = content["layers"][name]
        assert (record["bits"], record["shape"]) == (4, list(layer.weight.shape))
    assert not any("range_state" in name or "frozen" in name for name in tensors)


def test_the_documented_reader(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
    (code,) = [b for b in text.split("```python\n") if "def read_weight" in b.partition("```")[0]]
    names: dict[str, Any] = {}
    exec(code.partition("```")[0], names)
    student = student_of(tiny(), 4, 4, overrides={"features.*": hc.Override(3, 4)})
    save_packed(student, tmp_path / "p")
    for name in ("features.0", "features.3", "output"):
        weight = torch.from_numpy(names["read_weight"](tmp_path / "p", name))
        torch.testing.assert_close(weight, student.get_submodule(name).quantized_weight(), rtol=1e-6, atol=0)
