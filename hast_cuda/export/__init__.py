"""Quantized networks in forms that other programs read."""

from __future__ import annotations
