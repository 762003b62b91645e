"""What the compiled core is told by number, as types that mypy keeps apart."""

from __future__ import annotations

from typing import NewType

import torch

Pointer = NewType("Pointer", int)  # Tensor.data_ptr(), 0 for an absent tensor
DType = NewType("DType", int)
Activation = NewType("Activation", int)
Gate = NewType("Gate", int)  # of batch_norm_backward
Reduction = NewType("Reduction", int)  # of match_loss
Device = NewType("Device", int)  # -1 for the CPU, else the CUDA device index
Stream = NewType("Stream", int)  # a cudaStream_t

DTYPES = {torch.float32: DType(0), torch.float16: DType(1), torch.bfloat16: DType(2), torch.float64: DType(3)}
