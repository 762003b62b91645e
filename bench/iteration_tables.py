"""Tables of the benchmarks of whole iterations and whole runs, as lines of Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Document = dict[str, Any]


def line(cells: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["", line(head), line(["---"] * len(head)), *map(line, rows), ""]


def launches(document: Document) -> list[str]:
    """Launches and GB by variant, beside the model's; a table per loop and network."""
    head = ["variant", "launches", "model", "GB", "model"]
    groups: dict[tuple[str, str], list[list[str]]] = {}
    for row in document["rows"]:
        known = row["model_launches"] is not None
        cells = [row["variant"], f"{row['launches']:,}"]
        cells += [f"{row['model_launches']:,}" if known else "", f"{row['bytes'] / 1e9:.2f}"]
        cells += [f"{row['model_gb']:.2f}" if known else ""]
        groups.setdefault((row["loop"], row["case"]), []).append(cells)
    pooled = [
        f"{row['pooling_bytes'] / 1e9:.2f} GB of {row['loop']}, {row['case']}"
        for row in document["rows"]
        if row["variant"] == "hast_cuda" and row["pooling_bytes"]
    ]
    text = (
        "One iteration; bytes are those of each kernel's inputs and outputs. The model was drawn "
        f"up before the kernels. It leaves out max-pooling ({'; '.join(pooled)}), and of "
        "fine-tuning the crops and the clipping of gradients, which the counts have. Its eager "
        "fine-tuning quantizes the weights in both forward passes and has a backward pass for the "
        "image alone; the one counted does neither."
    )
    lines = [text, ""]
    for (loop, case), rows in groups.items():
        lines += [f"**{loop}**, {case}", *_table(head, rows)]
    return lines


def step(document: Document) -> list[str]:
    """Time by implementation; a table per loop and number of threads."""
    head = ["", "time", "spread", "of hast_cuda", "without convolutions", "of hast_cuda", "peak MB"]
    lines: list[str] = []
    for row in document["rows"]:
        cuda = row["clock"] == "cuda events"
        threads = f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}, "
        where = f"{'' if cuda else threads}{row['clock']}, {row['rounds']} rounds"
        rows, absent = [], []
        for name, found in row["results"].items():
            if "absent" in found:
                absent.append(f"{name}: {found['absent']}")
                continue
            ratio = row["derived"].get(name)
            cells = [name, f"{found['p50_ms']:.2f} ms"]
            cells += [f"{found['p20_ms']:.2f} to {found['p80_ms']:.2f}"]
            cells += _ratios(ratio) if ratio else ["", "", ""]
            cells += [f"{found['peak_bytes'] / 1e6:.0f}"]
            cells += [f"{found['loop_ms']:.2f}", str(found["launches"])] if cuda else []
            rows.append(cells)
        columns = [*head, *(["loop", "launches"] if cuda else [])]
        lines += [f"**{row['op']}**, {row['case']} ({where})", *_table(columns, rows)]
        lines += [f"Absent: {'; '.join(absent)}.", ""] if absent else []
    return lines


def _ratios(ratio: dict[str, float | None]) -> list[str]:
    rest = ratio["non_convolution_over_hast"]
    return [
        f"{ratio['over_hast']:.2f}x",
        f"{ratio['non_convolution_ms']:.2f} ms",
        "" if rest is None else f"{rest:.2f}x",
    ]


def run(document: Document) -> list[str]:
    """Seconds per phase and rates of a whole run."""
    budget, seconds, rates = document["budget"], document["seconds"], document["rates"]
    text = (
        f"{document['network']} ({document['weights']} weights), {budget['bits']} bits, preset "
        f"{budget['preset']}, {budget['images']} images of {budget['synthesis_iterations']} "
        f"iterations in batches of {budget['batch']}, {budget['finetune_iterations']} steps of "
        f"fine-tuning, {document['threads']} threads."
    )
    phases = [[name, f"{value:.1f}"] for name, value in seconds.items()]
    speeds = [[name.replace("_", " "), f"{value:.2f}"] for name, value in rates.items()]
    return [text, *_table(["phase", "seconds"], phases), *_table(["rate", ""], speeds)[1:]]


def memory(document: Document) -> list[str]:
    """Peak memory and time of a synthesis iteration by variant."""
    rows = [[row["variant"], f"{row['peak_bytes'] / 1e9:.2f}", f"{row['seconds']:.2f}"] for row in document["rows"]]
    return [
        f"Synthesis iteration, {document['case']}, {document['threads']} threads.",
        *_table(["variant", "peak GB", "seconds"], rows),
    ]


def export(document: Document) -> list[str]:
    """Size, agreement and time of exported networks; a table per network."""
    head = ["form", "bytes", "of float32", "bits per weight", "same class", "cosine", "layers"]
    latencies: list[dict[str, Any]] = next(row["latency"] for row in document["rows"] if row["latency"])
    head += [f"{_shape(found)}, ms" for found in latencies]
    text = (
        "Quantized by SQuant, compared with the PyTorch network on all test images of the network; "
        f"onnxruntime {document['onnxruntime']}. Layers: that multiply integers, of all. Times are "
        "medians, in brackets that of the full-precision network exported without quantizers."
    )
    lines = [text, ""]
    groups: dict[str, list[list[str]]] = {}
    for row in document["rows"]:
        checks, bits = row["checks"], row["weight_bits"]
        integer = row["integer_layers"]
        layers = "" if integer is None else f"{integer} of {row['layers']}"
        cells = [row["kind"], f"{row['bytes']:,}"]
        cells += [f"{100 * row['bytes'] / row['float_bytes']:.0f} %"]
        cells += ["32" if bits is None else f"{bits:.2f}", f"{checks['top1_agreement']:.2f} %"]
        cells += [f"{checks['cosine']:.6f}", layers]
        found = row["latency"] or []
        cells += [f"{t['milliseconds']:.2f} ({t['float_milliseconds']:.2f})" for t in found]
        cells += [""] * (len(latencies) - len(found))
        images = f"{checks['images']:,} images"
        groups.setdefault(f"**{row['network']}, W{row['bits']}A{row['bits']}**, {images}", []).append(cells)
    for title, rows in groups.items():
        lines += [title, *_table(head, rows)]
    return lines


def deploy(document: Document) -> list[str]:
    """Runtimes beside each other; a table per network."""
    text = (
        f"Weights are random: times alone. Milliseconds are medians of {document['rounds']} interleaved rounds, one "
        "thread in processor time, several in wall time; in brackets the median ratio to onnxruntime's float in the "
        "same round. GMAC/s: multiplications a second of the first column. "
        + ", ".join(f"{name} {found}" for name, found in document["peers"].items() if found)
        + "."
    )
    lines = [text, ""]
    for network in dict.fromkeys(row["network"] for row in document["rows"]):
        own = [row for row in document["rows"] if row["network"] == network]
        cases = list(dict.fromkeys((row["threads"], row["batch"]) for row in own))
        found = {(row["runtime"], row["threads"], row["batch"]): row for row in own}
        names = [f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}" for threads, batch in cases]
        rows = []
        for runtime in dict.fromkeys(row["runtime"] for row in own):
            shown = [found.get((runtime, *where)) for where in cases]
            cells = ["" if row is None else f"{row['milliseconds']:.2f} ({row['ratio']:.2f})" for row in shown]
            first = shown[0]
            rate = "" if first is None else f"{first['gmac_per_second']:.0f}"
            grown = document["memory_mib"].get(network, {}).get(runtime)
            rows.append([runtime, *cells, rate, "" if grown is None else f"{grown:.0f}"])
        lines += [f"**{network}**", *_table(["runtime", *names, "GMAC/s", "MiB"], rows)]
    return lines


def _shape(latency: dict[str, Any]) -> str:
    threads = latency["threads"]
    return f"batch {latency['batch']}, {threads} thread{'s' if threads > 1 else ''}"


def ranks(document: Document) -> list[str]:
    """Rates over several processes, beside those predicted from one."""
    budget = document["budget"]
    megabytes = document["bytes_summed"] / 1e6
    text = (
        f"{budget['network']} (random weights), {budget['batches']} batches of {budget['batch']} "
        f"images and steps on {budget['batch']}, median of {budget['rounds']} rounds of "
        f"{budget['iterations']} iterations; {document['threads']} thread per process. Images per "
        f"second are those of {document['iterations']} iterations each; a sum is of "
        f"{megabytes:.1f} MB. {document['load']:.1f} other processes wanted the "
        f"{document['cores']} cores when it began: the more, the less the wall clock says, and "
        "the processor time of rank 0 shows how the work divides."
    )
    head = [
        "processes",
        "images/s",
        "predicted",
        "steps/s",
        "predicted",
        "processor ms per step",
        "per iteration of synthesis",
        "ms per sum",
    ]
    rows, absent = [], []
    for row in document["rows"]:
        if "absent" in row:
            absent.append(f"{row['ranks']} processes: {row['absent']}")
            continue
        seconds = row["seconds"]
        rates = [row[key] for name in ("images_per_second", "steps_per_second") for key in (name, f"predicted_{name}")]
        rows.append(
            [
                str(row["ranks"]),
                *(f"{rate:.2f}" for rate in rates),
                f"{1e3 * seconds['finetune_step'][1]:.0f}",
                f"{1e3 * seconds['synthesis_iteration'][1]:.0f}",
                f"{1e3 * seconds['sum'][0]:.1f}" if row["ranks"] > 1 else "",
            ]
        )
    return [text, *_table(head, rows), *([f"Absent: {'; '.join(absent)}.", ""] if absent else [])]


TABLES: dict[str, Callable[[Document], list[str]]] = {
    "launches": launches,
    "step": step,
    "run": run,
    "ranks": ranks,
    "memory": memory,
    "export": export,
    "deploy": deploy,
}
