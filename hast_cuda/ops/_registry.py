"""The ``hast_cuda`` operator library and the door to the compiled core.

An op is one function that calls the core for CPU and CUDA tensors alike; :func:`operator` makes its
schema from the annotations and adds the shapes for tracing. Without the core (a source checkout
that was never built) the eager reference takes its place, with one warning.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Sequence
from itertools import chain
from types import ModuleType
from typing import TYPE_CHECKING, Any, ParamSpec, TypedDict, TypeVar, cast

import torch
from torch import Tensor

from hast_cuda.ops.codes import DTYPES, Device, DType, Pointer, Stream

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

LIBRARY = torch.library.Library("hast_cuda", "DEF")
_SCHEMA_TYPES = {
    "Tensor": "Tensor",
    "Tensor | None": "Tensor?",
    "list[Tensor]": "Tensor[]",
    "bool": "bool",
    "int": "int",
    "int | None": "int?",
    "list[int]": "int[]",
    "float": "float",
    "str": "str",
    "str | None": "str?",
    "None": "()",
}


def _load_core() -> ModuleType | None:
    # torch is imported above, before the core: both then share torch's OpenMP pool.
    try:
        return importlib.import_module("hast_cuda._core")
    except ModuleNotFoundError as error:
        if error.name != "hast_cuda._core":
            raise
    warnings.warn(
        "hast_cuda was imported from a source tree without its compiled core: the slow eager "
        "reference is used. Run `pip install .` (and start Python elsewhere), or "
        "`pip install -e . --no-build-isolation`.",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


if TYPE_CHECKING:
    from hast_cuda import _core

    core = _core
else:
    core = _load_core()
COMPILED = cast("Any", core) is not None


def build_info() -> dict[str, str]:
    """How the core was built and what it runs on: version, compiler, cuda, architectures, ISA.

    Example:
        >>> import hast_cuda as hc
        >>> hc.build_info()["kind"]
        'compiled'
    """
    if not COMPILED:
        return {"kind": "missing: eager reference ops"}
    return {"kind": "compiled", **core.build_info()}


def cuda_devices() -> int | None:
    """How many CUDA devices the core can use; None where nothing was compiled.

    Example:
        >>> cuda_devices() in (None, torch.cuda.device_count())
        True
    """
    return core.cuda_device_count() if COMPILED else None


def _schema(name: str, annotations: dict[str, str], mutates: Sequence[str]) -> str:
    """``name(Tensor x, ...) -> ...`` as annotated; what is changed in place is marked so."""
    marks = {name: f"Tensor({letter}!)" for name, letter in zip(mutates, "abc", strict=False)}
    *arguments, (_, result) = annotations.items()
    listed = ", ".join(f"{marks.get(n) or _SCHEMA_TYPES[kind]} {n}" for n, kind in arguments)
    if result.startswith("tuple["):
        kinds = [_SCHEMA_TYPES[kind] for kind in result[len("tuple[") : -1].split(", ")]
        return f"{name}({listed}) -> ({', '.join(kinds)})"
    return f"{name}({listed}) -> {_SCHEMA_TYPES[result]}"


def _by_name(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """``function`` of those positional arguments, called ``names``, that it has parameters for."""
    places = [(name, names.index(name)) for name in inspect.signature(function).parameters]
    return lambda *values: function(**{name: values[place] for name, place in places})


def on_its_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with the device of its tensors, which is one for all, as the current one.

    The core could do that alone, but going back it would create a context on a device that nothing
    has used yet. torch's guard looks first.
    """

    def call(*arguments: Any) -> Any:
        flat = chain.from_iterable(a if isinstance(a, list) else (a,) for a in arguments)
        device = next(a.device for a in flat if isinstance(a, Tensor))
        if device.index == torch.cuda.current_device():
            return function(*arguments)
        with torch.cuda.device(device):
            return function(*arguments)

    return call


def operator(
    reference: Callable[..., Any], fake: Callable[..., Any], *, mutates: Sequence[str] = ()
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Make an op of the library from the function that calls the core, of its name (without underscores) and arguments.

    ``reference`` gives the same results without the core, ``fake`` empty ones of the right shapes; both name the
    arguments that they look at. ``mutates`` are those that are changed in place.
    """

    def define(compiled: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        name, annotations = compiled.__name__.lstrip("_"), compiled.__annotations__
        names = list(annotations)[:-1]
        LIBRARY.define(_schema(name, annotations, mutates))
        implementation = compiled if COMPILED else _by_name(reference, names)
        LIBRARY.impl(name, implementation, "CPU")
        LIBRARY.impl(name, on_its_device(implementation), "CUDA")
        torch.library.register_fake(f"hast_cuda::{name}", _by_name(fake, names), lib=LIBRARY)
        overload: Any = getattr(torch.ops.hast_cuda, name).default
        return cast("Callable[Arguments, Result]", overload)

    return define


def like_x(x: Tensor) -> Tensor:
    """The fake of an op whose result is like its argument x."""
    return torch.empty_like(x)


def _current_stream(device: int) -> int:
    return torch.cuda.current_stream(device).cuda_stream


# The private accessor is several times cheaper, but CPU-only builds of torch lack it.
_raw_stream: Callable[[int], int] = getattr(torch._C, "_cuda_getCurrentRawStream", _current_stream)


_CPU = Device(-1), Stream(0)


def device_and_stream(x: Tensor) -> tuple[Device, Stream]:
    """Device index and raw current stream for the core; (-1, 0) on the CPU."""
    if x.is_cpu:  # several times cheaper than to ask x.device
        return _CPU
    return Device(x.device.index), Stream(_raw_stream(x.device.index))


class Launch(TypedDict):
    """What every call of the core takes."""

    dtype: DType
    device: Device
    stream: Stream


def launch(x: Tensor) -> Launch:
    """For work on ``x``: the code of its dtype, its device and the current stream."""
    device, stream = device_and_stream(x)
    return {"dtype": DTYPES[x.dtype], "device": device, "stream": stream}


def pointer(x: Tensor | None) -> Pointer:
    """Address of the first element, 0 for an absent or an empty tensor.

    It keeps nothing alive: ``x`` needs a name until the core has returned.
    """
    # Pointer() itself would double what this costs, and a call of the core takes up to thirty
    return 0 if x is None else x.data_ptr()  # type: ignore[return-value]


def pointers(tensors: Sequence[Tensor]) -> list[Pointer]:
    """The address of each."""
    return [pointer(x) for x in tensors]
