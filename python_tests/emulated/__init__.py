"""CUDA sources run on the CPU, so that ordinary test runs execute them."""

from __future__ import annotations
