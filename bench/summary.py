"""The short tables of docs/benchmarks.md and docs/which-method.md, from bench/results/*.json."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from iteration_tables import line

from hast_cuda.run.summary import standard_error

Row = dict[str, Any]
Documents = Mapping[str, dict[str, Any]]
NAMES = {
    "resnet20_cifar10": "ResNet-20, CIFAR-10",
    "resnet20_cifar100": "ResNet-20, CIFAR-100",
    "resnet20_option_a_cifar10": "ResNet-20, other shortcuts, CIFAR-10",
    "mobilenetv2_half_cifar10": "MobileNetV2 x0.5, CIFAR-10",
    "mobilenetv2b_w1": "MobileNetV2, ImageNet",
    "mobilenet_w1_relu6_imagenet": "MobileNetV1, ImageNet",
    "mobilenet_wd4_leaky_imagenet": "MobileNetV1 x0.25, LeakyReLU, ImageNet",
    "resnet18": "ResNet-18, ImageNet",
}
WITHOUT_IMAGES = ("rtn", "dfq", "squant")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of Markdown."""
    return [line(head), line(["---"] * len(head)), *map(line, rows)]


def by_network(documents: Documents) -> dict[tuple[str, int], dict[str, Row]]:
    """Rows of seed 0 of networks-cpu.json by (network, bits), then by method."""
    found: dict[tuple[str, int], dict[str, Row]] = {}
    for row in documents["networks"]["rows"]:
        if row["seed"] == 0:
            found.setdefault((row["network"]["name"], row["bits"]), {})[row["method"]] = row
    return found


def minutes(row: Row) -> dict[str, float]:
    """What a run took, without the evaluations of a benchmark."""
    return {phase: seconds / 60 for phase, seconds in row["seconds"].items() if phase != "evaluation"}


def methods(documents: Documents) -> list[str]:
    """Top-1 of every method and network, and what the run of HAST took."""
    head = ("network", "bits", "full precision", *WITHOUT_IMAGES, "hast", "points lost", "minutes of hast")
    rows = []
    for (name, bits), found in by_network(documents).items():
        ours = found["hast"]
        taken = minutes(ours)
        spent = f"{sum(taken.values()):.0f}" + ("" if taken["synthesis"] else ", images given")
        full, top1 = ours["full_precision"], ours["quantized"]
        rows.append(
            (
                *(NAMES[name], f"W{bits}A{bits}", f"{full:.1f}"),
                *(f"{found[method]['quantized']:.1f}" for method in WITHOUT_IMAGES),
                *(f"{top1:.1f} ± {standard_error(top1, ours['num_test_images']):.1f}", f"{full - top1:.1f}"),
                spent,
            )
        )
    return table(head, rows)


def summary(documents: Documents) -> list[str]:
    """Twelve lines: how good, how fast, how large, on what."""
    rows = [*_accuracies(documents), *_times(documents), *_iterations(documents)]
    return table(("", "figure", "beside", "from"), rows)


def _accuracies(documents: Documents) -> list[tuple[str, str, str, str]]:
    found = by_network(documents)
    cases = (("resnet20_cifar10", 4), ("resnet20_cifar10", 3), ("mobilenetv2_half_cifar10", 4), ("mobilenetv2b_w1", 4))
    rows = []
    for name, bits in cases:
        ours = found[name, bits]["hast"]
        beside = ", ".join(f"{m} {found[name, bits][m]['quantized']:.1f}" for m in WITHOUT_IMAGES)
        points = f"{ours['full_precision']:.1f} → {ours['quantized']:.1f} %"
        spread = f"± {standard_error(ours['quantized'], ours['num_test_images']):.1f}"
        rows.append((f"top-1, {NAMES[name]}, W{bits}A{bits}", f"{points} {spread}", beside, "networks-cpu"))
    for bits in (4, 3):
        stem = f"table1-cifar10-w{bits}-small"
        means = {
            method: statistics.fmean(r["quantized"] for r in documents[f"{stem}-{name}"]["rows"][method])
            for method, name in (
                ("hast", "hast-3-seeds"), ("real_data", "real-3-seeds"), ("intraq", "holdout-3-seeds"),
            )
        }  # fmt: skip
        beside = f"real images {means['real_data']:.1f}, IntraQ {means['intraq']:.1f}"
        text = f"earlier preset, ResNet-20, W{bits}A{bits}, 3 seeds"
        rows.append((text, f"{means['hast']:.1f} %", beside, f"{stem}-*"))
    return rows


def _times(documents: Documents) -> list[tuple[str, str, str, str]]:
    rows = []
    for name in ("resnet20_cifar10", "resnet18", "mobilenetv2b_w1"):
        found = times(documents["deploy"], name)
        peers = ("onnxruntime float", "onnxruntime int8", "openvino int8", "litert int8")
        beside = ", ".join(f"{peer} {found[peer]:.3g}" for peer in peers)
        label = f"engine, W4A4 integer, {NAMES[name].split(',')[0]}"
        rows.append((label, f"{found['engine W4A4, integer']:.3g} ms an image", beside, "deploy-cpu"))
    return rows


def times(document: dict[str, Any], network: str) -> dict[str, float]:
    """Milliseconds by runtime, of one image on one thread."""
    alone = (r for r in document["rows"] if (r["network"], r["batch"], r["threads"]) == (network, 1, 1))
    return {row["runtime"]: row["milliseconds"] for row in alone}


def _iterations(documents: Documents) -> list[tuple[str, str, str, str]]:
    rows = []
    for row in documents["step"]["rows"]:
        ours, eager, compiled = (row["results"][name] for name in ("hast_cuda", "eager", "compile"))
        where = f"{row['op']}, {row['case']}, {row['threads']} threads"
        beside = f"eager {eager['p50_ms']:.0f}, torch.compile {compiled['p50_ms']:.0f}"
        rows.append((where, f"{ours['p50_ms']:.0f} ms", beside, "step-cpu"))
    last = documents["step"]["rows"][-1]["results"]
    gigabytes = [f"{last[name]['peak_bytes'] / 1e9:.2f}" for name in ("hast_cuda", "eager", "compile")]
    beside = f"eager {gigabytes[1]}, torch.compile {gigabytes[2]}"
    return [*rows, ("peak memory of the same fine-tuning", f"{gigabytes[0]} GB", beside, "step-cpu")]
