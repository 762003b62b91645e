"""ONNX files of integers alone, and of uint8 pairs: what computes in them, and that it is the student."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_networks import SHAPE, Bottlenecks, Joined, Residual, pictures, student_of
from torch import nn

from hast_cuda.exports import Exported, check, integer_biases, onnx_network, save_onnx
from hast_cuda.exports.grid import Affine

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
qlinear = pytest.importorskip("hast_cuda.exports.requantize")


FLOAT = {"QuantizeLinear": 1, "Cast": 1, "Mul": 1, "Add": 1}  # the images; the classifier's scale and bias


Made = tuple[nn.Module, Exported]
Maker = Callable[..., Made]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Each student with integer biases, and its file, once for all tests."""
    folder = tmp_path_factory.mktemp("int8")

    @cache
    def student(build: Callable[[], nn.Module], *bits: int) -> nn.Module:
        return integer_biases(student_of(build, *bits), SHAPE)[0]

    @cache
    def make(build: Callable[[], nn.Module], form: str, *bits: int) -> Made:
        path = folder / f"{build.__name__}-{form}-{bits}.onnx"
        return student(build, *bits), save_onnx(student(build, *bits), path, SHAPE, form=form)

    return make


def inputs(info: Exported, op: str) -> list[dict[int, np.ndarray]]:
    """Of every node of a kind its constants, by their place."""
    graph = onnx.load(info.file).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == op]
    return [{i: arrays[name] for i, name in enumerate(node.input) if name in arrays} for node in nodes]


@pytest.mark.parametrize(
    ("build", "bits", "expected"),
    [
        (Residual, (4, 4), {"QLinearConv": 6, "QLinearAdd": 2, "MaxPool": 1, "Clip": 5}),
        (Bottlenecks, (3, 3), {"QLinearConv": 5, "QLinearAdd": 1, "Clip": 4}),
        (Joined, (4, 4), {"QLinearConv": 5, "MaxPool": 1, "Concat": 1, "QLinearAveragePool": 1, "Clip": 5}),
        (Residual, (8, 8), {"QLinearConv": 6, "QLinearAdd": 2, "MaxPool": 1}),
    ],
    ids=["residual-4", "bottlenecks-3", "joined-4", "residual-8"],
)
def test_integers_alone_give_the_students_logits(
    made: Maker, build: type[nn.Module], bits: tuple[int, int], expected: dict[str, int]
) -> None:
    student, info = made(build, "int8", *bits)
    moved = {"Flatten", "Reshape", "Unsqueeze"}
    counted = {op: n for op, n in info.nodes.items() if op not in moved}
    assert counted == {**FLOAT, **expected, "QLinearGlobalAveragePool": 1, "MatMulInteger": 1}
    assert info.integer_layers == expected["QLinearConv"] + 1 or build is Joined
    assert not info.float_layers
    assert not info.rounded_layers
    found = check(onnx_network(info.file), student, pictures(300, 7))
    assert found.passed()
    assert found.cosine > 0.999


def test_codes_stay_below_those_of_their_bits(made: Maker) -> None:
    _, info = made(Bottlenecks, "int8", 3, 3)
    assert {int(clip[2]) for clip in inputs(info, "Clip")} == {7}
    weights = inputs(info, "QLinearConv")
    assert all(constants[3].dtype == np.int8 and not constants[5].any() for constants in weights)


def test_eight_bit_weights_have_zero_points_and_lose_nothing(made: Maker) -> None:
    student, info = made(Residual, "int8", 8, 8)
    kinds = {constants[3].dtype.name for constants in inputs(info, "QLinearConv")}
    assert kinds == {"uint8"}
    first = inputs(info, "QLinearConv")[0]
    integers = first[3].astype(np.float64) - first[5].reshape(-1, 1, 1, 1)
    norm = student.stem[0][1]
    factor = (norm.weight / (norm.running_var + norm.eps).sqrt()).reshape(-1, 1, 1, 1)
    expected = (student.stem[0][0].quantized_weight() * factor).detach().numpy()
    np.testing.assert_allclose(integers * first[4].reshape(-1, 1, 1, 1), expected, rtol=1e-4, atol=1e-7)


def test_biases_move_by_less_than_a_product_and_the_student_stays() -> None:
    student = student_of(Residual, 4, 4)
    with torch.no_grad():  # as training leaves both ends of a block
        student.short[1].module.bias.copy_(student.b[1].module.bias)
    before = copy.deepcopy(student.state_dict())
    moved, sizes = integer_biases(student, SHAPE)
    assert set(sizes) == {"b.0", "short.0", "d.0"}
    assert 0 < max(sizes.values()) < 0.5
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    changed = {n for n, tensor in moved.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed == {f"{name}.1.module.bias" for name in ("b", "short", "d")}


def test_another_placement_is_refused_by_name(tmp_path: Path) -> None:
    student = student_of(Residual, 4, 4, placement="all")
    with pytest.raises(ValueError, match=r"b\.0, short\.0, d\.0.*--placement integer"):
        save_onnx(student, tmp_path / "a.onnx", SHAPE, form="int8")
    assert not list(tmp_path.iterdir())


def test_weights_far_from_zero_are_rounded_once_more_and_named() -> None:
    """A channel from 900 to 1100 keeps its sums to a part in 500."""
    random = np.random.default_rng(0)
    integers = np.stack([random.integers(900, 1100, 30), random.integers(-7, 8, 30)]).astype(np.int64)
    before, after = Affine(4, 0.1, 0), Affine(8, 40.0, 100)
    products = qlinear.Products("conv", integers, np.asarray([0.1, 1.0]), np.asarray([3.0, -2.0]), "")
    assert qlinear.requantized(products, before, after, 0, 255, exact=True) is None
    found = qlinear.requantized(products, before, after, 0, 255, exact=False)
    assert found is not None
    assert "far from 0" in found.rounding
    weights = (found.weights.astype(np.int64) - found.zero_point[:, None]) * found.scale[:, None].astype(np.float64)
    np.testing.assert_allclose(weights, integers * products.scale[:, None], atol=0.1 * 1100 / 500)


def test_a_bias_that_int32_cannot_hold() -> None:
    """Weights of a channel that BatchNorm all but removes: its bias keeps its code."""
    before, after = Affine(8, 0.1, 10), Affine(8, 0.5, 100)
    integers = np.asarray([[200, -55], [100, -100]])
    products = qlinear.Products("conv", integers, np.asarray([1e-12, 1e-2]), np.asarray([7.0, 3.0]), "")
    found = qlinear.requantized(products, before, after, 0, 255, exact=False)
    assert found is not None
    assert "tiny beside their bias" in found.rounding
    values = found.bias * before.step * found.scale.astype(np.float64)
    np.testing.assert_allclose(values, products.bias, atol=0.001)


def test_unsigned_weights() -> None:
    small = np.asarray([[-100, 100], [3, 4]])
    weights, zero_point = qlinear.unsigned(small)
    assert zero_point == 128
    np.testing.assert_array_equal(weights.astype(int) - zero_point, small)
    large = np.asarray([[-200, 55], [0, 255], [-255, -3]])
    weights, zero_point = qlinear.unsigned(large)
    np.testing.assert_array_equal(zero_point, [200, 0, 255])
    np.testing.assert_array_equal(weights.astype(int) - zero_point[:, None], large)


def test_pairs_give_the_students_logits(made: Maker) -> None:
    student, info = made(Residual, "qdq", 4, 4)
    assert info.nodes["Conv"] == 6
    assert info.nodes["QuantizeLinear"] + 7 == info.nodes["DequantizeLinear"]
    assert {constants[2].dtype.name for constants in inputs(info, "QuantizeLinear")} == {"uint8"}
    weights = [c for c in inputs(info, "DequantizeLinear") if 0 in c]
    assert all(constants[0].dtype == np.int8 and not constants[2].any() for constants in weights)
    assert check(onnx_network(info.file), student, pictures(300, 7)).passed()


def test_openvino_computes_pairs_in_integers(made: Maker) -> None:
    openvino = pytest.importorskip("openvino")
    student, info = made(Residual, "qdq", 4, 4)
    core = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    network = core.compile_model(core.read_model(str(info.file)), "CPU", options)
    found = [operation.get_rt_info() for operation in network.get_runtime_model().get_ops()]
    kinds = [(str(o["layerType"].astype(str)), str(o["runtimePrecision"].astype(str))) for o in found]
    layers = [precision for kind, precision in kinds if kind in ("Convolution", "FullyConnected")]
    assert layers == ["u8"] * 7
    result = check(lambda x: torch.from_numpy(network(x.numpy())[0]), student, pictures(300, 7))
    assert result.cosine > 0.99


def test_one_pool(tmp_path: Path) -> None:
    """In front of the quantizer, whose input is a float convolution's."""
    student = student_of(Residual, 4, 4, placement="relu")
    info = save_onnx(student, tmp_path / "a.onnx", SHAPE, form="ort")
    assert info.nodes["MaxPool"] == 1
    assert check(onnx_network(info.file), student, pictures(300, 7)).passed()
