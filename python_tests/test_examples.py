from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn")

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


def execute(name: str, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """The example as a user calls it, away from the source tree: the installed package counts."""
    return subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *flags],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def printed(name: str, folder: Path) -> str:
    done = execute(name, folder, "--small")
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir())  # nothing was asked to be kept
    return done.stdout


def percent(text: str, label: str) -> float:
    (found,) = re.findall(rf"^{re.escape(label)} +([\d.]+) %$", text, re.MULTILINE)
    return float(found)


def test_fake_quant_training(tmp_path: Path) -> None:
    text = printed("fake_quant_training", tmp_path)
    full = percent(text, "full precision")
    rounded, trained = percent(text, "rounded afterwards"), percent(text, "trained quantized")
    assert full > 96
    assert 30 < rounded < full - 4  # 2 bits must cost something
    assert trained > 90
    assert trained > rounded + 2


def test_fused_ops(tmp_path: Path) -> None:
    text = printed("fused_ops", tmp_path)
    lines = re.findall(r"statistics ([\d.]+), labels ([\d.]+), as labelled (\d+) %", text)
    (match, label, _), (match_after, label_after, right) = [tuple(map(float, x)) for x in lines]
    assert match_after < match / 8
    assert label_after < label / 50
    assert right >= 95
    assert percent(text, "full precision") == 98.5
    assert 50 < percent(text, "3 bits, ranges of images") < 90
    assert percent(text, "3 bits, shrunk for images") > 87


def test_onnx_inference(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    text = printed("onnx_inference", tmp_path)
    quantized = percent(text, "quantized")
    assert percent(text, "full precision") == 98.5
    assert quantized > 93
    assert percent(text, "same class") == 100
    assert percent(text, "onnxruntime") == quantized
    assert "layers on integers  38" in text


def test_custom_network(tmp_path: Path) -> None:
    text = printed("custom_network", tmp_path)
    bits = dict(re.findall(r"^([\w.]+) +(?:Conv2d|Linear) +(\d bit +\d bit) ", text, re.MULTILINE))
    edges = {"stem.0", "output"}
    inner = {f"{name}.0" for name in ("left", "right", "expand", "project", "last")}
    assert bits.keys() == edges | inner
    assert {" ".join(bits[name].split()) for name in edges} == {"8 bit 8 bit"}
    assert {" ".join(bits[name].split()) for name in inner} == {"3 bit 3 bit"}
    full, rounded = percent(text, "full_precision"), percent(text, "rounded")
    assert full > 94
    assert 40 < rounded < full - 8
    assert percent(text, "quantized") > max(87, rounded + 5)


def test_torchvision_network(tmp_path: Path) -> None:
    text = printed("torchvision_network", tmp_path)
    rows = re.findall(r"^network\.([\w.]+) .*?(\d) bit +(\d) bit ", text, re.MULTILINE)
    assert len(rows) == 57
    assert [name for name, *bits in rows if bits == ["8", "8"]] == ["conv1.0", "fc"]
    assert {tuple(bits) for name, *bits in rows if name not in ("conv1.0", "fc")} == {("4", "4")}
    full, rounded = percent(text, "full_precision"), percent(text, "rounded")
    assert full > 75
    assert 35 < rounded < full - 4
    assert percent(text, "quantized") > max(55, rounded + 1)


def test_torchvision_network_needs_weights(tmp_path: Path) -> None:
    done = execute("torchvision_network", tmp_path)
    assert done.returncode == 2
    assert "give --weights FILE" in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_examples_say_what_they_are(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert f"python examples/{name}.py" in docstring
    assert "--small" in docstring
    assert len(text.splitlines()) < 130
    assert f"]({name}.py)" in (EXAMPLES / "README.md").read_text()
