"""Per-tensor activation quantizer with a range that is tracked, then frozen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.checks import tensors as _checks
from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_flag, check_number, check_range, check_whole
from hast_cuda.ops import new_range_state, quantize_activation
from hast_cuda.ops.activations import activate, activation_code
from hast_cuda.ops.update_range import EMA, update_range_


def _computed_again() -> bool:
    """Whether a backward pass computes what activation checkpointing did not keep: its range has seen these already."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


class FakeQuantActivation(nn.Module):
    """Activation (optional), range tracking and fake quantization in one pass (Eq. 1-2).

    While :attr:`observing`, each forward updates the moving average of (min, max), but none that
    ``torch.utils.checkpoint`` computes again; after :meth:`freeze` the range stays fixed for ever. Replace
    ``nn.ReLU()`` by ``FakeQuantActivation(4, activation="relu")``.

    Args:
        bits: 2 to 8.
        activation: None, "relu" or "relu6", fused in front of the quantizer.
        beta: decay of the moving average.
        ema: "corrected" or "released" (the published recursion).
        ste: "identity" or "clipped".
        inplace: write the result into the input too, as ``nn.ReLU(inplace=True)`` does.
        calls: how often one forward pass of the network calls it: for tensors that share one grid, whose
            smallest and largest values together are one update of the moving average.
        holds_zero: widen the range, when it is frozen or set, so that 0 is in it: integer runtimes need a code for it.

    Shapes: any -> same. Dtypes: float32, float16, bfloat16, float64; the range is float32 or
        float64.

    Example:
        >>> import hast_cuda as hc
        >>> relu = hc.FakeQuantActivation(4, activation="relu")
        >>> len(relu(torch.randn(1000)).unique()) <= 2**4
        True
    """

    range_state: Tensor
    frozen: Tensor
    inplace = False  # of objects that were pickled without it
    calls = 1
    holds_zero = False
    _seen: tuple[Tensor, Tensor] | None = None  # before the first call, and ends so far
    _called = 0
    _observing = True
    _flag: tuple[Tensor, int] | None = None  # `frozen` and its version when `_observing` was made equal to it
    set_aside = False  # forward is the activation alone, while networks are compared

    def __init__(
        self,
        bits: int = 4,
        *,
        activation: str | None = None,
        beta: float = 0.9,
        ema: str = "corrected",
        ste: str = "identity",
        inplace: bool = False,
        calls: int = 1,
        holds_zero: bool = False,
    ) -> None:
        super().__init__()
        _checks.bit_width("bits", bits)
        activation_code(activation)
        _checks.choice("ema", ema, EMA)
        _checks.choice("ste", ste, _checks.STE)
        _checks.decay(beta)
        check_flag("inplace", inplace)
        check_flag("holds_zero", holds_zero)
        check_whole("calls", calls)
        check_range("calls", calls, 1)
        self.bits, self.activation, self.beta, self.ema, self.ste = bits, activation, beta, ema, ste
        self.inplace, self.calls, self.holds_zero = inplace, calls, holds_zero
        self.register_buffer("range_state", new_range_state())
        self.register_buffer("frozen", torch.tensor(False))
        self._remember(observing=True)

    @property
    def lower(self) -> Tensor:
        """Lower end of the range, 0-d, on the device."""
        return self.range_state[0]

    @property
    def upper(self) -> Tensor:
        """Upper end of the range, 0-d, on the device."""
        return self.range_state[1]

    @property
    def observing(self) -> bool:
        """Whether forward updates the range: the host's copy of :attr:`frozen`, asked of the device where it was
        written by others (an average of networks, a broadcast of buffers)."""
        flag = self.frozen
        if not torch.compiler.is_compiling() and not flag.is_meta and not flag.is_inference():
            known = self._flag
            if known is None or known[0] is not flag or known[1] != flag._version:
                self._remember(observing=not bool(flag))
        return self._observing

    def _remember(self, *, observing: bool) -> None:
        """What :attr:`frozen` says now; inference tensors have no version that would tell of changes."""
        self._observing, self._seen, self._called = observing, None, 0
        self._flag = None if self.frozen.is_inference() else (self.frozen, self.frozen._version)

    def freeze(self) -> None:
        """Keep the range fixed from now on."""
        self._widen()
        self.frozen.fill_(True)
        self._remember(observing=False)

    def unfreeze(self) -> None:
        """Let forward update the range again."""
        self.frozen.fill_(False)
        self._remember(observing=True)

    @typed
    def set_range(self, lower: float | Tensor, upper: float | Tensor) -> None:
        """Set the range and its moving average by hand; ValueError unless they are finite, single numbers in order."""
        low, high = self._end("lower", lower), self._end("upper", upper)
        _checks.ordered_range(low, high)
        self.range_state[0:4:2] = low
        self.range_state[1:4:2] = high
        self.range_state[4] = 0.0  # as after infinitely many equal batches
        self._widen()

    def _widen(self) -> None:
        if self.holds_zero:
            self.range_state[0:4:2].clamp_(max=0)
            self.range_state[1:4:2].clamp_(min=0)

    def _end(self, name: str, value: float | Tensor) -> Tensor:
        if isinstance(value, Tensor):
            _checks.tensor(name, value)
        else:
            check_number(name, value)
        number = torch.as_tensor(value, dtype=torch.float64).detach()
        if number.numel() != 1:
            raise ValueError(f"{name} has shape {tuple(number.shape)}; expected one number")
        return number.reshape(()).to(self.range_state.dtype)

    def state_for(self, x: Tensor) -> Tensor:
        """The range state in the dtype that ``x`` needs."""
        state = self.range_state
        if (x.dtype == torch.float64) != (state.dtype == torch.float64):
            state = state.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
            if self.observing:
                self.range_state = state
        return state

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``; the straight-through gradient passes, masked by the activation."""
        _checks.floating("x", x)
        if self.set_aside:
            return self._activated(x)
        state, observe = self.state_for(x), self.observing and not _computed_again()
        if observe and self.calls > 1:
            state, observe = self._joint(x, state), False
        y = quantize_activation(
            x.clone() if self.inplace else x,  # the backward pass reads what went in
            state,
            self.bits,
            activation=self.activation,
            observe=observe,
            ema=self.ema,
            beta=self.beta,
            ste=self.ste,
        )
        return x.copy_(y) if self.inplace else y

    def _activated(self, x: Tensor) -> Tensor:
        y = activate(x, self.activation)
        return x.copy_(y) if self.inplace else y

    @torch.no_grad()
    def _joint(self, x: Tensor, state: Tensor) -> Tensor:
        """The range after this call: one update by all calls of this forward pass so far."""
        ends = torch.stack(torch.aminmax(activate(x.to(state.dtype), self.activation)))
        if self._seen is None:
            before = state.clone()
        else:
            before, (low, high) = self._seen[0], self._seen[1].unbind()
            ends = torch.stack((torch.minimum(low, ends[0]), torch.maximum(high, ends[1])))
        state.copy_(before)
        update_range_(ends, state, None, self.beta, self.ema == "released")
        self._called = (self._called + 1) % self.calls
        self._seen = (before, ends) if self._called else None
        return state.clone()  # the next call changes it before the gradient of this one looks

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> FakeQuantActivation:
        exact = self.range_state
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call, unused-ignore]
        if self.range_state.dtype in (torch.float16, torch.bfloat16):
            # module.half() must not round the range: only its device follows
            self.range_state = exact.to(self.range_state.device)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Without what is known of the flag: a copy is another tensor, with versions of its own."""
        return {key: value for key, value in vars(self).items() if key not in ("_flag", "_compiled_call_impl")}

    def extra_repr(self) -> str:
        """Bits, fused activation and options that differ from the defaults."""
        parts = [f"bits={self.bits}"]
        if self.activation:
            parts.append(f"activation={self.activation}")
        if self.ema != "corrected" or self.ste != "identity":
            parts.append(f"ema={self.ema}, ste={self.ste}")
        if self.inplace:
            parts.append("inplace=True")
        if self.calls > 1:
            parts.append(f"calls={self.calls}")
        if self.holds_zero:
            parts.append("holds_zero=True")
        return ", ".join(parts)
