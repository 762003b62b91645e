"""ONNX files give what the quantized network gives, in every form and for every kind of layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import Branching
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.exports import OnnxInfo, check, onnx_network, save_onnx
from hast_cuda.exports.grid import activation_grid
from hast_cuda.nn import activation_quantizers

onnx = pytest.importorskip("onnx")
numpy_helper = pytest.importorskip("onnx.numpy_helper")
pytest.importorskip("onnxruntime")
pytestmark = [  # Mixed has one of each
    pytest.mark.filterwarnings("ignore:calls of functions such as F.relu"),
    pytest.mark.filterwarnings("ignore:1 layers stay in full precision. 'leaky.1'"),
]

SHAPE = (3, 12, 12)


class Mixed(nn.Module):
    """Residual, depthwise, linear bottleneck, biases, concatenation, pooling, odd activations."""

    def __init__(self) -> None:
        super().__init__()
        conv, norm = nn.Conv2d, nn.BatchNorm2d
        self.stem = nn.Sequential(conv(3, 8, 3, padding=1, bias=False), norm(8), nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        self.body = nn.Sequential(
            conv(8, 8, 3, padding=1, bias=False), norm(8), nn.ReLU(), conv(8, 8, 3, padding=1, bias=False), norm(8)
        )
        self.after = nn.ReLU()
        self.depthwise = nn.Sequential(conv(8, 8, 3, padding=1, groups=8, bias=False), norm(8), nn.ReLU6())
        self.bottleneck = nn.Sequential(conv(8, 6, 1, bias=False), norm(6))
        self.leaky = nn.Sequential(conv(6, 6, 3, stride=2, padding=1), nn.LeakyReLU(0.1))
        self.last = conv(12, 10, 1)
        self.output = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x))
        x = self.after(self.body(x) + x)
        x = self.bottleneck(self.depthwise(x))
        x = torch.cat([self.leaky(x), F.max_pool2d(x, 2)], 1)
        logits: Tensor = self.output(F.relu(self.last(x)).mean((2, 3)))
        return logits


def _network() -> nn.Module:
    torch.manual_seed(3)
    network = Mixed().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)  # negative scales too
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.3, 2)
    with torch.no_grad():
        network.stem[1].weight[0] = 0  # a channel that BatchNorm makes constant
        network.body[0].weight[1] = 0  # and one that its weights do
        network.depthwise[0].weight[2].abs_().add_(0.3)  # a range that does not contain 0
        network.depthwise[0].weight[3].abs_().mul_(0.01).add_(1)  # far from 0
    return network


@dataclass
class Case:
    student: nn.Module
    info: OnnxInfo
    model: object

    def array(self, suffix: str) -> dict[str, np.ndarray]:
        """Constants by the name of their layer."""
        return {
            tensor.name.removesuffix(suffix): numpy_helper.to_array(tensor)
            for tensor in self.model.graph.initializer
            if tensor.name.endswith(suffix)
        }


_SETTINGS = {
    "relu3": {"weight_bits": 3, "act_bits": 3},
    "all4": {"weight_bits": 4, "act_bits": 4, "placement": "all", "sum_bits": 4},
    "mixed": {"weight_bits": 4, "act_bits": 2, "overrides": {"stem*": hc.Override(8, 8), "output": hc.Override()}},
}
Maker = Callable[[str, str], Case]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Each export once for all tests."""
    folder = tmp_path_factory.mktemp("onnx")

    @cache
    def make(settings: str, form: str) -> Case:
        student = hc.calibrate(hc.quantize(_network(), **_SETTINGS[settings]), [_images(64)])
        path = folder / f"{settings}-{form}.onnx"
        info = save_onnx(student, path, SHAPE, form=form, describe={"seed": 0})
        return Case(student, info, onnx.load(path))

    return make


def _images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("settings", "form"),
    [
        *(("all4", form) for form in ("ort", "portable", "uint4")),
        ("relu3", "ort"),
        ("relu3", "portable"),
        ("mixed", "uint4"),
    ],
)
def test_onnxruntime_gives_the_students_logits(case: Maker, settings: str, form: str) -> None:
    made = case(settings, form)
    network, x = onnx_network(made.info.file), _images(200, seed=2)
    found = check(network, made.student, _images(500, seed=1))
    assert found.passed()
    assert found.cosine > 0.9999
    # An activation within rounding of the border between two codes may fall on either side.
    logits = torch.cat([network(x[:1]), network(x[1:])])  # batches of any size
    with torch.no_grad():
        expected = made.student(x)
    equal = (logits - expected).abs().amax(1) < 1e-4
    assert float(equal.float().mean()) > 0.95


def test_inner_convolutions_multiply_integers(case: Maker) -> None:
    info = case("all4", "ort").info
    # Far from 0, with zero padding: the only layer that integers cannot do.
    assert set(info.float_layers) == {"depthwise.0"}
    assert info.integer_layers == 7
    # Between two quantizers one operator; in front of sums and odd activations exact int32 sums.
    counts = [info.nodes[op] for op in ("QLinearConv", "ConvInteger", "MatMulInteger")]
    assert counts == [1, 5, 1]
    relu = case("relu3", "ort").info
    assert (relu.nodes["QLinearConv"], relu.nodes["ConvInteger"]) == (1, 2)
    assert relu.float_layers == {
        "depthwise.0": "a channel's range lies too far from 0",
        **dict.fromkeys(("stem.0", "leaky.0", "last", "output"), "its input is not quantized"),
    }
    assert "BatchNormalization" not in relu.nodes


def test_portable_files_have_no_zero_points(case: Maker) -> None:
    for settings in ("relu3", "all4"):
        made = case(settings, "portable")
        zeros = made.array(".zero_point")
        assert zeros
        assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros.values())
        weights = made.array(".weight_integers")
        assert {w.dtype.name for n, w in weights.items() if n != "depthwise.0"} == {"int8"}
        assert "BatchNormalization" not in made.info.nodes
        for node in made.model.graph.node:
            if node.op_type in ("Conv", "Gemm"):
                assert len(node.input) == 2  # a bias there would be rounded by the runtime


def test_four_bit_files_store_four_bits(case: Maker) -> None:
    small, eight = case("all4", "uint4"), case("all4", "portable")
    kinds = {t.name: t.data_type for t in small.model.graph.initializer}
    weights = {n: k for n, k in kinds.items() if n.endswith("weight_integers")}
    assert set(weights.values()) == {onnx.TensorProto.UINT4}
    assert {k for n, k in kinds.items() if n.endswith("zero_point")} == {onnx.TensorProto.UINT4}
    assert small.info.bytes < eight.info.bytes
    assert (small.info.weight_bits, eight.info.weight_bits) == (4.0, 8.0)
    assert small.model.opset_import[0].version == 21
    mixed = case("mixed", "uint4")
    kinds = {t.name: t.data_type for t in mixed.model.graph.initializer}
    assert kinds["stem.0.weight_integers"] == onnx.TensorProto.UINT8
    assert 4 < mixed.info.weight_bits < 8


def test_integers_are_the_codes_of_the_layer(case: Maker) -> None:
    made = case("relu3", "portable")
    integers, scale = made.array(".weight_integers"), made.array(".weight_scale")
    layer, norm = made.student.bottleneck
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    expected = (layer.quantized_weight() * factor.reshape(-1, 1, 1, 1)).detach().numpy()
    values = integers["bottleneck.0"] * scale["bottleneck.0"].reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-8)
    assert (scale["bottleneck.0"] > 0).all()
    assert len(np.unique(integers["bottleneck.0"][0])) <= 8


def test_metadata_says_what_it_is_and_nothing_of_this_machine(case: Maker) -> None:
    made = case("relu3", "ort")
    found = {entry.key: entry.value for entry in made.model.metadata_props}
    assert found == {"hast_cuda.form": "ort", "seed": "0"}
    assert (made.model.producer_name, made.model.producer_version) == ("hast_cuda", hc.__version__)
    content = made.info.file.read_bytes()
    assert b"site-packages" not in content
    assert str(Path(__file__).parent).encode() not in content
    names = [value.name for value in (*made.model.graph.input, *made.model.graph.output)]
    assert names == ["images", "logits"]


def test_a_fixed_grid_is_exported_as_it_is(tmp_path: Path) -> None:
    student = hc.quantize(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 2)), 3, None)
    student[0].fix_weight_range()
    with torch.no_grad():
        student[0].weight.mul_(0.6)
    info = save_onnx(student, tmp_path / "a.onnx", (3, 1, 1), form="portable")
    x = torch.randn(9, 3, 1, 1)
    torch.testing.assert_close(onnx_network(info.file)(x), student(x).detach(), rtol=1e-5, atol=1e-6)


def test_a_refusal_says_one_thing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"torch.onnx cannot translate the network: [^\n]+$"):
        save_onnx(hc.quantize(Branching(), 4, None), tmp_path / "a.onnx", (3, 8, 8))
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_exported_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    student = hc.quantize(Branching(), 4, None)
    with pytest.raises(ValueError, match=r"torch.onnx cannot translate the network: \w+"):
        save_onnx(student, path, SHAPE)
    open_ranges = hc.quantize(_network(), 4, 4)
    with pytest.raises(ValueError, match=r"'stem.2' is not frozen"):
        save_onnx(open_ranges, path, SHAPE)
    with pytest.raises(ValueError, match="no quantized layer"):
        save_onnx(_network(), path, SHAPE)
    with pytest.raises(ValueError, match="form is 'tflite'; allowed: 'ort'"):
        save_onnx(student, path, SHAPE, form="tflite")
    wide = hc.quantize(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten()), 8, None)
    with pytest.raises(ValueError, match="4 bits or fewer"):
        save_onnx(wide, path, (3, 1, 1), form="uint4")
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'hast_cuda\[export\]'"):
        save_onnx(hc.quantize(_network(), 4, None), tmp_path / "a.onnx", SHAPE)
    with pytest.raises(ImportError, match=r"onnxruntime.*hast_cuda\[export\]"):
        onnx_network(tmp_path / "a.onnx")


def test_damaged_files_and_images_that_do_not_fit(case: Maker, tmp_path: Path) -> None:
    file = case("relu3", "ort").info.file
    with pytest.raises(ValueError, match=r"does not take images \[2, 5, 4, 4\]"):
        onnx_network(file, 1)(torch.zeros(2, 5, 4, 4))
    content = file.read_bytes()
    for name, bad in (("cut", content[: len(content) // 2]), ("text", b"not a network")):
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(ValueError, match=f"cannot load .*{name}"):
            onnx_network(tmp_path / name)


@pytest.mark.parametrize("form", ["ort", "portable", "uint4"])
def test_every_quantizer_gives_what_it_gives_in_pytorch(case: Maker, form: str, tmp_path: Path) -> None:
    """Layer by layer: the activations behind every quantizer, not the logits alone."""
    import onnxruntime

    made = case("all4", form)
    model = onnx.load(made.info.file)
    suffix = ".codes" if form == "ort" else ".dequantized"
    quantizers = activation_quantizers(made.student)
    outputs = {value for node in model.graph.node for value in node.output}
    names = {name: name + suffix for name in quantizers if name + suffix in outputs}
    assert len(names) == len(quantizers) == 8
    for value in names.values():
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(value))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x, seen = _images(64, seed=4), {}
    hooks = [
        module.register_forward_hook(lambda m, i, o, name=name: seen.update({name: o.detach()}))
        for name, module in quantizers.items()
    ]
    with torch.no_grad():
        made.student(x)
    for hook in hooks:
        hook.remove()
    found = session.run(list(names.values()), {"images": x.numpy()})
    for name, array in zip(names, found, strict=True):
        values = torch.from_numpy(array).double()
        if form == "ort":
            grid = activation_grid(quantizers[name])
            values = (values - grid.zero_point) * grid.step
        expected = seen[name].double().flatten()
        assert float(torch.cosine_similarity(values.flatten(), expected, 0)) > 0.9995, name
