"""Where there are labels: accuracy by class, and the images whose class the quantization changed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from hast_cuda.data import ImageSet
from hast_cuda.finetune.agreement import logits
from hast_cuda.report.document import Block, Section, Table, Text
from hast_cuda.report.facts import RunFacts
from hast_cuda.report.pictures import called, sheet
from hast_cuda.run import load_student

IMAGES = 2048  # at most; two passes over them
BATCH = 256
CLASSES = 20  # at most, those that lose most
FLIPPED = 20


def classes_section(
    facts: RunFacts, teacher: nn.Module | None, test: ImageSet | None, names: Sequence[str], folder: Path
) -> Section | None:
    """Accuracy by class and flipped images; None without a network, labels or a student."""
    if teacher is None or test is None or not (facts.path / "student.safetensors").exists():
        return None
    student = load_student(teacher, facts.path)
    read = list(islice(test.batches(BATCH), -(-IMAGES // BATCH)))
    labels = torch.cat([y for _, y in read])
    before, after = (torch.cat([logits(n, x).argmax(1) for x, _ in read]) for n in (teacher, student))
    blocks: list[Block] = [
        Text(f"{counted(before, after, labels)} Of {len(labels)} test images."),
        _table(before, after, labels, names),
    ]
    wrong = torch.nonzero((before == labels) & (after != labels)).flatten()[:FLIPPED]
    if len(wrong):
        images = torch.cat([x for x, _ in read])[wrong]
        captions = [f"{called(names, int(labels[i]))} → {called(names, int(after[i]))}" for i in wrong]
        blocks.append(Text(f"The first {len(wrong)} that were right and are wrong, with what they are taken for:"))
        blocks.append(sheet(images, captions, test.spec, folder / "flipped.png", "Images whose class changed"))
    return Section("Classes", blocks)


def counted(before: Tensor, after: Tensor, labels: Tensor) -> str:
    """How many images changed sides, in a sentence; predictions and labels int64 [N]."""
    right = before == labels, after == labels
    lost, won = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    other = int(((before != after) & ~right[0] & ~right[1]).sum())
    return (
        f"The quantized network gives another class than the original for {int((before != after).sum())} images: "
        f"{lost} were right and are wrong, {won} the other way round, {other} wrong in both."
    )


def _table(before: Tensor, after: Tensor, labels: Tensor, names: Sequence[str]) -> Table:
    """A row per class, the one that loses most at the top."""
    rows = []
    for label in labels.unique().tolist():
        own = labels == label
        first, then = (100 * float((p[own] == label).double().mean()) for p in (before, after))
        taken = after[own][after[own] != label]
        most = "-"
        if len(taken):
            counts = taken.bincount()
            most = f"{called(names, int(counts.argmax()))} ({int(counts.max())})"
        rows.append((then - first, (called(names, label), str(int(own.sum())), f"{first:.1f}", f"{then:.1f}", most)))
    rows.sort(key=lambda row: row[0])
    cells = [(name, count, a, b, f"{change:+.1f}", most) for change, (name, count, a, b, most) in rows[:CLASSES]]
    return Table(("class", "images", "full precision, %", "kept, %", "change", "most often taken for"), cells)
