"""Every family of classifiers of torchvision and timm that has BatchNorm: what becomes of its smallest member.

A network a process, in both placements, through the stages of :mod:`architecture_stages`; results are added to the
JSON file as they come, and those that are there are not made again. Random weights: values are no accuracies.

    python bench/architectures.py                   # all; --largest 200: with a run of each, hours
    python bench/architectures.py --only efficient  # names that contain it, anew
    python bench/architectures.py --table           # the JSON file as the table of docs/networks.md
    python bench/architectures.py --members         # the smallest member of every family, to keep FAMILIES up to date
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from architecture_stages import PLACEMENTS, lively, walk
from provenance import ROOT, provenance

from hast_cuda.teachers import build_network

RESULTS = ROOT / "bench" / "results" / "architectures-cpu.json"
DOCS, START, END = ROOT / "docs" / "networks.md", "<!-- families: start -->\n", "<!-- families: end -->\n"
LIBRARIES = ("torch", "torchvision", "timm")


@dataclass(frozen=True)
class Network:
    """The smallest member of a family."""

    family: str
    """The library and its module."""
    member: str
    side: int = 64
    """Of its images."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Of its constructor."""

    @property
    def name(self) -> str:
        """As ``load_teacher`` takes it."""
        return f"{self.family.partition(':')[0]}:{self.member}"

    def make(self) -> torch.nn.Module:
        """With random weights and statistics that fit them."""
        torch.manual_seed(0)
        return lively(build_network(self.name, model_args=self.arguments), (3, self.side, self.side))


def _network(line: str) -> Network:
    family, member, *rest = line.split()
    side = int(rest[0]) if rest else 64
    return Network(family, member, side, {"img_size": side} if "img_size" in rest else {})


FAMILIES = [_network(line) for line in """
timm:efficientnet test_efficientnet
timm:byobnet test_byobnet
timm:resnet test_resnet
timm:starnet starnet_s050
timm:maxxvit test_coatnet 64 img_size
timm:dla dla46x_c
timm:mobilevit mobilevit_xxs
torchvision:shufflenetv2 shufflenet_v2_x0_5
timm:mobilenetv3 mobilenetv3_small_050
timm:vovnet ese_vovnet19b_slim_dw
torchvision:mnasnet mnasnet0_5
timm:repghost repghostnet_050
timm:efficientvit_msra efficientvit_m0
torchvision:mobilenetv3 mobilenet_v3_small
timm:ghostnet ghostnet_050
timm:regnet regnetx_002
timm:cspnext cspnext_tiny
timm:iformer iformer_t
timm:xcit xcit_nano_12_p8_224 64 img_size
timm:cspnet cs3darknet_focus_s
timm:efficientvit_mit efficientvit_b0
timm:swiftformer swiftformer_xs
torchvision:mobilenetv2 mobilenet_v2
timm:fasternet fasternet_t0
timm:fastvit fastvit_t8
timm:lcnetv2 lcnetv2_small
timm:inception_next inception_next_atto
timm:rexnet rexnet_100
torchvision:regnet regnet_x_400mf
timm:hardcorenas hardcorenas_b
torchvision:efficientnet efficientnet_b0
timm:repvit repvit_m1
timm:hgnet hgnetv2_b0
timm:shvit shvit_s1
timm:cpubone cpubone_nano
timm:efficientvim efficientvim_m1
timm:levit levit_128s 224
torchvision:densenet densenet121
timm:densenet densenet121
timm:dpn dpn48b
timm:visformer visformer_tiny 64 img_size
timm:resnest resnest14d
timm:resnetv2 resnetv2_18
torchvision:resnet resnet18
timm:senet legacy_seresnet18
timm:sknet skresnet18
timm:tiny_vit tiny_vit_5m_224 224
torchvision:googlenet googlenet
timm:hrnet hrnet_w18_small
timm:lowformer lowformer_b0
timm:convmixer convmixer_768_32
timm:xception legacy_xception
timm:res2net res2next50
timm:volo volo_d1_224 64 img_size
timm:xception_aligned xception41p
timm:selecsls selecsls42
timm:tresnet tresnet_m
timm:nextvit nextvit_small
timm:efficientformer_v2 efficientformerv2_s0 224
timm:inception_v3 inception_v3 96
timm:vision_transformer_hybrid vit_small_resnet50d_s16_224 64 img_size
torchvision:inception inception_v3 96
timm:inception_v4 inception_v4 96
timm:inception_resnet_v2 inception_resnet_v2 96
timm:byoanet halonet_h1 256
torchvision:vgg vgg11_bn
timm:vgg vgg11_bn
timm:efficientformer efficientformer_l1 224
timm:pnasnet pnasnet5large 96
timm:nasnet nasnetalarge 96
torchvision:maxvit maxvit_t 224
""".strip().splitlines()]  # fmt: skip


def examine(network: Network, placements: list[str], largest: float) -> dict[str, Any]:
    """Its line: what every placement came to; of more than ``largest`` million parameters without a run and files."""
    size, made = (3, network.side, network.side), network.make()
    millions = sum(p.numel() for p in made.parameters()) / 1e6
    light = millions > largest
    walks = {p: asdict(walk(copy.deepcopy(made), size, p, light=light)) for p in placements}
    return {**asdict(network), "millions": round(millions, 2), "light": light, "placements": walks}


def members() -> Iterator[str]:
    """Family and smallest member of those that are installed, with the number of parameters."""
    import timm  # noqa: PLC0415 - an optional package
    from torchvision import models  # noqa: PLC0415

    families: dict[str, list[str]] = {}
    for name in models.list_models(module=models):
        module = models.get_model_builder(name).__module__.rpartition(".")[2]
        families.setdefault(f"torchvision:{module}", []).append(name)
    for module in timm.list_modules():
        families[f"timm:{module}"] = timm.list_models(module=module)
    for family, names in families.items():
        found = []
        for name in names:
            with torch.device("meta"):
                network = build_network(f"{family.partition(':')[0]}:{name}")
            if any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules()):
                found.append((sum(p.numel() for p in network.parameters()), name))
        if found:
            yield f"{family} {min(found)[1]} {min(found)[0]}"


def table(document: dict[str, Any]) -> str:
    """Of docs/networks.md: a line for every family."""
    versions = ", ".join(f"{name} {version}" for name, version in document["libraries"].items())
    lines = [
        f"{document['device']}, {versions}, commit {document['commit']}, {document['date']}; seed 0.",
        "",
        '| family | smallest member | images | `"auto"` is | `placement="auto"` | `placement="integer"` |',
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(document["rows"], key=lambda row: str(row["family"])):
        found = row["placements"]
        cells = [row["family"], row["member"], str(row["side"]), found["auto"]["placement"] or "-"]
        lines.append(f"| {' | '.join([*cells, *(_came_to(found[p], light=row['light']) for p in PLACEMENTS)])} |")
    known = {row["family"] for row in document["rows"]}
    missing = sorted(f"{n.family} ({n.member})" for n in FAMILIES if n.family not in known)
    lines += ["", f"Not tried yet: {', '.join(missing)}."] if missing else []
    return "\n".join(lines) + "\n"


def _came_to(found: dict[str, Any], *, light: bool) -> str:
    """A cell: how far, how much was left, and why not farther."""
    if found["refused"]:
        stage, _, why = found["refused"].partition(": ")
        short = why.replace("|", "/").partition(", and it is no module's")[0].partition('; placement="all"')[0]
        return f"{stage}: {short}"
    text = "to the 8-bit student" if light else "all"
    return f"{text}; {len(found['left'])} layers stay in full precision" if found["left"] else text


def main() -> None:
    """Examine all that is missing, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--placements", nargs="+", default=list(PLACEMENTS))
    parser.add_argument("--largest", type=float, default=3, help="million parameters, above which no run is tried")
    parser.add_argument("--members", action="store_true")
    parser.add_argument("--table", action="store_true", help="write docs/networks.md's from the JSON file, and stop")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.members:
        for line in members():
            print(line, flush=True)
        return
    if options.table:
        text = DOCS.read_text(encoding="utf-8")
        before, (_, after) = text.partition(START)[0], text.partition(START)[2].split(END)
        DOCS.write_text(before + START + table(json.loads(options.json.read_text())) + END + after, encoding="utf-8")
        return
    if options.one is not None:
        torch.set_num_threads(1)
        print(json.dumps(examine(FAMILIES[options.one], options.placements, options.largest)))
        return
    known = json.loads(options.json.read_text()) if options.json.exists() else {"rows": []}
    rows = {row["family"]: row for row in known["rows"]}
    for index, network in enumerate(FAMILIES):
        if (options.only not in f"{network.family} {network.member}") if options.only else network.family in rows:
            continue
        command = [sys.executable, __file__, "--one", str(index), "--largest", str(options.largest)]
        command += ["--placements", *options.placements]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(network.family, done.stderr[-2000:], flush=True)
            continue
        rows[network.family] = row = json.loads(done.stdout.splitlines()[-1])
        versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
        ordered = [rows[n.family] for n in FAMILIES if n.family in rows]
        document = provenance(torch.device("cpu")) | {"libraries": versions, "stem": "architectures", "rows": ordered}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
        for placement, found in row["placements"].items():
            print(network.family, placement, found["placement"], found["refused"] or "all", flush=True)


if __name__ == "__main__":
    main()
