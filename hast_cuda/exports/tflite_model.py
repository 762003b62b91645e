"""A TFLite model under construction: tensors of one image, channels last, and operators on them."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder

Array: TypeAlias = np.ndarray[Any, Any]
Quantization: TypeAlias = tuple[Array, Array, int]  # scales, zero points, the axis of several
# Operators with the class of their options and the version that has int8.
_OPERATORS = {
    "ADD": ("Add", 2),
    "CONCATENATION": ("Concatenation", 2),
    "CONV_2D": ("Conv2D", 3),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2D", 3),
    "DEQUANTIZE": ("Dequantize", 2),
    "FULLY_CONNECTED": ("FullyConnected", 1),
    "MAXIMUM": ("MaximumMinimum", 2),
    "MAX_POOL_2D": ("Pool2D", 2),
    "MEAN": ("Reducer", 2),
    "MINIMUM": ("MaximumMinimum", 2),
    "MUL": ("Mul", 2),
    "PAD": ("Pad", 2),
    "PADV2": ("PadV2", 2),
    "QUANTIZE": ("Quantize", 2),
}
_GROUPED = 6  # CONV_2D with groups
_IDENTIFIER, _VERSION = b"TFL3", 3


class TfliteModel:
    """Tensors are known by their number."""

    def __init__(self) -> None:
        self._graph: Any = schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self._buffers: list[Any] = [schema.BufferT()]  # the first is that of tensors without data
        self._codes: dict[tuple[str, int], int] = {}

    def tensor(self, name: str, shape: tuple[int, ...], dtype: type, quantization: Quantization | None = None) -> int:
        """One that operators make, or the images."""
        made = schema.TensorT()
        made.name, made.shape = name, list(shape)
        made.type = getattr(schema.TensorType, np.dtype(dtype).name.upper())
        if quantization is not None:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = (
                array.reshape(-1).astype(kind)
                for array, kind in zip(quantization[:2], (np.float32, np.int64), strict=True)
            )
            made.quantization.quantizedDimension = quantization[2]
        self._graph.tensors.append(made)
        return len(self._graph.tensors) - 1

    def constant(self, name: str, data: Array, quantization: Quantization | None = None) -> int:
        """One with data."""
        number = self.tensor(name, data.shape, data.dtype.type, quantization)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
        self._graph.tensors[number].buffer = len(self._buffers)
        self._buffers.append(buffer)
        return number

    def like(self, tensor: int, name: str, shape: tuple[int, ...] | None = None) -> int:
        """Another one on the same grid, of this shape or the same."""
        found = self._graph.tensors[tensor]
        made = self.tensor(name, tuple(found.shape) if shape is None else shape, np.int8)
        self._graph.tensors[made].quantization = found.quantization
        return made

    def operator(self, op: str, inputs: list[int], output: int, *, grouped: bool = False, **options: Any) -> None:
        """``options`` are those of the schema; "padding" and "fusedActivationFunction" by their names."""
        kind, version = _OPERATORS[op]
        given = getattr(schema, f"{kind}OptionsT")()
        for key, value in options.items():
            names = {"padding": schema.Padding, "fusedActivationFunction": schema.ActivationFunctionType}.get(key)
            setattr(given, key, value if names is None else getattr(names, value))
        made = schema.OperatorT()
        made.inputs, made.outputs, made.builtinOptions = inputs, [output], given
        made.builtinOptionsType = getattr(schema.BuiltinOptions, f"{kind}Options")
        code = op, _GROUPED if grouped else version
        made.opcodeIndex = self._codes.setdefault(code, len(self._codes))
        self._graph.operators.append(made)

    @property
    def operators(self) -> list[str]:
        """Their kinds, in the order of execution."""
        codes = [op for op, _ in self._codes]
        return [codes[made.opcodeIndex] for made in self._graph.operators]

    def file(self, images: int, logits: int, description: str, metadata: dict[str, str]) -> bytes:
        """The whole model, whose input and output these are."""
        self._graph.inputs, self._graph.outputs = [images], [logits]
        model = schema.ModelT()
        model.version, model.description, model.subgraphs = _VERSION, description, [self._graph]
        model.operatorCodes = [_operator_code(*code) for code in self._codes]
        model.signatureDefs = [self._signature(images, logits)]
        model.buffers, model.metadata = [*self._buffers], []
        for name, text in metadata.items():
            entry, buffer = schema.MetadataT(), schema.BufferT()
            buffer.data = np.frombuffer(text.encode(), np.uint8)
            entry.name, entry.buffer = name, len(model.buffers)
            model.metadata.append(entry)
            model.buffers.append(buffer)
        builder = Builder(1 << 20)
        builder.Finish(model.Pack(builder), _IDENTIFIER)
        return bytes(builder.Output())

    def _signature(self, *ends: int) -> Any:
        signature, maps = schema.SignatureDefT(), []
        for number in ends:
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = self._graph.tensors[number].name, number
            maps.append([entry])
        signature.signatureKey, (signature.inputs, signature.outputs) = "serving_default", maps
        return signature


def _operator_code(op: str, version: int) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, op)
    code.version = version
    return code
