"""The table of layers on the page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from hast_cuda.files.tensors import DamagedFileError, load_tensors
from hast_cuda.posttraining import prepare
from hast_cuda.report.document import Block, Section, Table, Text, Warn
from hast_cuda.report.facts import RunFacts
from hast_cuda.report.layers import LayerRow, layer_rows, tensor_rows
from hast_cuda.report.words import number
from hast_cuda.run import load_student


def layer_section(facts: RunFacts, teacher: nn.Module | None, problem: str) -> Section | None:
    """Name, type, bits, range and error of every layer; None for a run without a student.

    ``problem``: why there is no teacher. ValueError: ``student.safetensors`` is corrupt, or of another network.
    """
    if facts.recipe is None:
        return None
    path = facts.path / "student.safetensors"
    if not path.exists():
        return Section("Layers", [Text("No student.safetensors yet: the run is not finished.")])
    if teacher is None:
        rows = tensor_rows(_tensors(path), facts.config["bits"])
        why = (
            f"The full-precision network could not be loaded ({problem}). So there is no column of "
            "weight errors, types are read from the tensors, and bits are those that were asked "
            "for: a layer that could not be quantized is not told from one that was. Give the "
            "network with --model and --weights."
        )
        return Section("Layers", [Text(why), _table(rows, with_error=False)])
    config = facts.recipe.posttraining
    rows = layer_rows(load_student(teacher, facts.path), prepare(teacher, config))
    weights = sum(row.weight_bits is not None for row in rows)
    activations = sum(row.act_bits is not None for row in rows)
    against = "the full-precision network"
    changes = ["its BatchNorm layers were folded"] if config.fold else []
    changes += ["its channels equalized"] if config.equalize or config.equalize_activations else []
    against += f" after {' and '.join(changes)}" if changes else ""
    blocks: list[Block] = [
        Text(f"{weights} weights and {activations} activations are quantized; biases and BatchNorm are not."),
        Text(
            f"Weight error: ||Q(w) - w|| / ||w||, where w are the weights of {against} and Q(w) "
            "those that the quantized network computes with, fine-tuning included."
        ),
        *_left_out(rows, facts.config["bits"]),
        _table(rows, with_error=True, ratios=(facts.result or {}).get("signal_to_noise") or {}),
    ]
    return Section("Layers", blocks)


def _left_out(rows: Sequence[LayerRow], bits: Mapping[str, Any]) -> list[Block]:
    """What is in full precision, and why."""
    blocks: list[Block] = []
    if bits.get("activations") and not any(row.act_bits for row in rows):
        blocks.append(
            Warn(
                "No activation is quantized: the network has no ReLU or ReLU6 modules, and calls "
                'of functions cannot be seen. placement="all" quantizes the inputs of layers.'
            )
        )
    why = defaultdict(list)
    for row in rows:
        if row.weight_bits is None and row.act_bits is None:
            why[row.note].append(row.name or "(root)")
    return blocks + [Text(f"{', '.join(names)}: {note}.") for note, names in why.items()]


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_tensors(path)[0]
    except DamagedFileError as error:
        raise ValueError(f"{path} is corrupt ({error}); delete it and run again to make it anew") from error


def _table(rows: Sequence[LayerRow], *, with_error: bool, ratios: Mapping[str, Any] = MappingProxyType({})) -> Table:
    header = ["layer", "type", "weight bits", "activation bits", "activation range"]
    cells = [
        [
            row.name or "(root)",
            row.kind,
            _bits(row.weight_bits),
            _bits(row.act_bits),
            "-" if row.act_range is None else "{:.3g} to {:.3g}".format(*row.act_range),
        ]
        for row in rows
    ]
    if not with_error:
        return Table(header, cells, numbers=2)
    for cell, row in zip(cells, rows, strict=True):
        cell.append("-" if row.error is None else f"{100 * row.error:.2f} %")
    errors = [row.error for row in rows]
    largest = max((e for e in errors if e is not None), default=0.0) or 1.0
    shares = [None if e is None else e / largest for e in errors]
    orders = {"largest weight error first": [-(e or 0.0) for e in errors]}
    header.append("weight error")
    if ratios:
        header.append("signal to noise")
        found = [ratios.get(row.name) for row in rows]
        for cell, ratio in zip(cells, found, strict=True):
            cell.append(number(ratio, ".1f", " dB"))
        orders["lowest signal to noise first"] = [float("inf") if r is None else r for r in found]
    return Table(header, cells, numbers=2, shares={5: shares}, orders=orders)


def _bits(bits: int | None) -> str:
    return "-" if bits is None else str(bits)
