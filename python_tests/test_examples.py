"""Every example as a user calls it; one in a process of its own, the others without its imports."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


Printed = Callable[..., str]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty working directory, in which nothing may be kept that was not asked for."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Printed:
    """What an example prints."""

    def run(name: str, *flags: str) -> str:
        path = str(EXAMPLES / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [path, *flags])
        runpy.run_path(path, run_name="__main__")
        return capsys.readouterr().out

    return run


def percent(text: str, label: str) -> float:
    (found,) = re.findall(rf"^{re.escape(label)} +([\d.]+) %$", text, re.MULTILINE)
    return float(found)


def test_fake_quant_training() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "fake_quant_training.py"), "--small"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout
    full = percent(text, "full precision")
    rounded, trained = percent(text, "rounded afterwards"), percent(text, "trained quantized")
    assert full > 96
    assert 30 < rounded < full - 4  # 2 bits must cost something
    assert trained > 90
    assert trained > rounded + 2


def test_fused_ops(printed: Printed) -> None:
    text = printed("fused_ops", "--small")
    lines = re.findall(r"statistics ([\d.]+), labels ([\d.]+), as labelled (\d+) %", text)
    (match, label, _), (match_after, label_after, right) = [tuple(map(float, x)) for x in lines]
    assert match_after < match / 8
    assert label_after < label / 50
    assert right >= 95
    assert percent(text, "full precision") == 98.5
    assert 50 < percent(text, "3 bits, ranges of images") < 90
    assert percent(text, "3 bits, shrunk for images") > 87


def test_onnx_inference(printed: Printed) -> None:
    pytest.importorskip("onnxruntime")
    text = printed("onnx_inference", "--small")
    quantized = percent(text, "quantized")
    assert percent(text, "full precision") == 98.5
    assert quantized > 93
    assert percent(text, "same class") == 100
    assert percent(text, "onnxruntime") == quantized
    assert "layers on integers  38" in text


def test_custom_network(printed: Printed) -> None:
    text = printed("custom_network", "--small")
    bits = dict(re.findall(r"^([\w.]+) +(?:Conv2d|Linear) +(\d bit +\d bit) ", text, re.MULTILINE))
    edges = {"stem.0", "output"}
    inner = {f"{name}.0" for name in ("left", "right", "expand", "project")}
    assert bits.keys() == edges | inner | {"last.0"}
    assert {" ".join(bits[name].split()) for name in edges} == {"8 bit 8 bit"}
    assert bits["last.0"].split() == ["3", "bit", "8", "bit"]  # it reads a linear bottleneck
    assert {" ".join(bits[name].split()) for name in inner} == {"3 bit 3 bit"}
    full, rounded = percent(text, "full_precision"), percent(text, "rounded")
    assert full > 94
    assert 40 < rounded < full - 8
    assert percent(text, "quantized") > max(87, rounded + 5)


def test_detector(printed: Printed) -> None:
    text = printed("detector", "--small")
    noise = {}
    for bits, name, share in re.findall(r"^W(\d)A8 noise in (\w+) +([\d.]+) %$", text, re.MULTILINE):
        noise[int(bits), name] = float(share)
    names = ("cls_logits", "bbox_regression", "bbox_ctrness")
    assert noise.keys() == {(bits, name) for bits in (8, 4) for name in names}
    assert all(noise[8, name] < min(20, noise[4, name] / 2) for name in names)
    assert len(re.findall(r"^keep (?:backbone|head)\S+ at 8 bits", text, re.MULTILINE)) == 3


@pytest.mark.slow  # it trains for ten seconds
def test_torchvision_network(printed: Printed) -> None:
    text = printed("torchvision_network", "--small")
    rows = re.findall(r"^network\.([\w.]+) .*?(\d) bit +(\d) bit ", text, re.MULTILINE)
    assert len(rows) == 57
    assert [name for name, *bits in rows if bits == ["8", "8"]] == ["conv1.0", "fc"]
    # in front of the last convolution of a branch there is a depthwise one without an activation
    linear = {name for name, *bits in rows if bits == ["4", "8"]}
    assert linear == {name for name, *_ in rows if name.endswith(("branch1.2", "branch2.5"))}
    assert {tuple(bits) for name, *bits in rows if name not in (*linear, "conv1.0", "fc")} == {("4", "4")}
    full, rounded = percent(text, "full_precision"), percent(text, "rounded")
    assert full > 75
    assert 35 < rounded < full - 4
    assert percent(text, "quantized") > max(55, rounded + 1)


def test_torchvision_network_needs_weights(printed: Printed, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        printed("torchvision_network")
    assert "give --weights FILE" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_examples_say_what_they_are(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert f"python examples/{name}.py" in docstring
    assert "--small" in docstring
    assert len(text.splitlines()) < 130
    assert f"]({name}.py)" in (EXAMPLES / "README.md").read_text()
