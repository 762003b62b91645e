"""Pretrained networks: by name, import path or weights file."""

from __future__ import annotations

from hast_cuda.teachers.weights import load_weights
from hast_cuda.teachers.zoo import build_network, input_spec, load_teacher, model_names

__all__ = ["build_network", "input_spec", "load_teacher", "load_weights", "model_names"]
