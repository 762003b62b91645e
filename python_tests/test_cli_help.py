"""Help is read from the sources: it says what the parser takes, without torch."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import tyro

from hast_cuda.cli import CONFIGURED, VERBS, main, verb
from hast_cuda.cli import help as reader
from hast_cuda.cli.analyze import ANALYSES

CALLS: dict[str, tuple[str, Any]] = {
    **{name: (f"hast_cuda.cli.{VERBS[name][0]}", verb(name)) for name in VERBS if name != "analyze"},
    **{name: ("hast_cuda.cli.analyze", function) for name, function in ANALYSES.items()},
}


@pytest.mark.parametrize("name", CALLS)
def test_help_has_every_option_of_the_parser_and_no_other(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, function = CALLS[name]
    with pytest.raises(SystemExit):
        tyro.cli(function, args=["--help"])
    known = set(re.findall(r"^\W (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)) - {"--help"}
    options = reader.options_of(name.replace("-", "_"), module)
    assert {f"--{option.name.replace('_', '-')}" for option in options if not option.positional} == known
    assert all(option.says for option in options)


@pytest.mark.parametrize("name", CALLS)
def test_nothing_needs_to_be_guessed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["analyze", name] if name in ANALYSES else [name]
    with pytest.raises(SystemExit) as end:
        main([*call, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: hast-cuda {' '.join(call)} ")
    for noise in ("None", "default: )", "False", "REQUIRED", "<object"):
        assert noise not in text
    assert ("--config PATH" in text) == (name in CONFIGURED)
    assert max(map(len, text.splitlines())) <= 100


def test_the_defaults_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["quantize", "-h"])
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "usage: hast-cuda quantize --out PATH [options]",
        "--weight-bits INT 2 to 8. (default: 4)",
        "--act-bits INT|{none} 2 to 8; none leaves activations in full precision. (default: 4)",
        "--no-merge Let BatchNorm layers take along residual sum, activation and quantizer. (on, if it is not given)",
        "--channels-last Keep images",
        "the full-precision network: --model TEXT",
        "--num-images INT Synthetic images (5120 in full, 512 in small).",
        "--image-size INT|INT INT Height and width",
    ):
        assert words in text


def test_neither_torch_nor_tyro_is_imported() -> None:
    code = (
        "import sys; from hast_cuda.cli import main\n"
        "for call in (['quantize', '-h'], ['analyze', '--help'], ['analyze', 'hessian', '-h'], ['--version']):\n"
        "    try: main(call)\n"
        "    except SystemExit: pass\n"
        "print([name for name in ('torch', 'tyro') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
