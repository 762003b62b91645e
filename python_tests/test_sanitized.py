"""The emulated CUDA kernels and their CPU twins under AddressSanitizer and its companion for UB.

Tensors get red zones, so a kernel that reads or writes outside of one ends the process, with the
line of its source in the report. The slow tests run every op test, with every check that gcc has.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import OP_TESTS
from emulated import sanitizer
from emulated.broken import build_broken
from emulated.build import AVX2_FLAGS, compile_module, compiler
from emulated.op_tests import run_op_tests
from gates import cannot_run

pytestmark = pytest.mark.gate

MISTAKES = [
    ("read_past_the_end", "heap-buffer-overflow"),
    ("write_past_the_end", "heap-buffer-overflow"),
    ("read_past_the_end_late", "heap-buffer-overflow"),
    ("write_past_shared_memory", "index 64 out of bounds"),
    ("misaligned_load", "misaligned address"),
    ("misaligned_store", "misaligned address"),
    ("no_value_of_its_type", "not a valid value for type 'bool'"),
]
ONLY_WHOLE = [
    ("number_too_large", "outside the range of representable values"),
    ("division_by_zero", "division by zero"),
    ("null_pointer", "load of null pointer"),
    ("pointer_beyond_memory", "pointer index expression with base .* overflowed to"),
    ("no_bits_to_count", "not a valid argument"),
]


@pytest.fixture(scope="module", autouse=True)
def _needs_sanitizer() -> None:
    if compiler() is None or sanitizer.preloaded() is None:
        cannot_run("there is no C++ compiler with AddressSanitizer (libasan)")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels with planted mistakes as a sanitized program."""
    target = tmp_path_factory.mktemp("sanitized") / "broken"
    return build_broken(target, [*sanitizer.FLAGS, "-DHAST_BROKEN_PROGRAM"])


@pytest.fixture(scope="module")
def whole_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with every check of the slow tests."""
    target = tmp_path_factory.mktemp("whole") / "broken"
    return build_broken(target, [*sanitizer.WHOLE, "-DHAST_BROKEN_PROGRAM"])


@pytest.mark.parametrize(("kernel", "message"), MISTAKES)
def test_planted_mistakes_are_found(program: Path, kernel: str, message: str) -> None:
    find(program, kernel, message)


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "message"), MISTAKES + ONLY_WHOLE)
def test_the_whole_sanitizer_finds_more(whole_program: Path, kernel: str, message: str) -> None:
    find(whole_program, kernel, message)


def find(program: Path, kernel: str, message: str) -> None:
    """The program dies of the mistake, and its report has the line."""
    done = subprocess.run(
        [program, kernel], capture_output=True, text=True, check=False, env={"UBSAN_OPTIONS": "print_stacktrace=1"}
    )
    assert done.returncode != 0
    assert re.search(message, done.stderr), done.stderr
    assert re.search(rf"#\d .* in {kernel} \S*broken\.cu:\d+", done.stderr), done.stderr


def test_a_good_kernel_passes(program: Path) -> None:
    done = subprocess.run([program, "with_barrier"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_tensors_have_red_zones(tmp_path: Path) -> None:
    library = build_broken(tmp_path / "broken.so", [*sanitizer.FLAGS, "-shared"])
    code = (
        "import ctypes, sys, torch; x, y = torch.zeros(64), torch.zeros(64);"
        "library = ctypes.CDLL(sys.argv[1]);"
        "pointers = [ctypes.c_void_p(t.data_ptr()) for t in (x, y)];"
        "library.run(b'with_barrier', *pointers); print('survived', flush=True);"
        "library.run(b'read_past_the_end', *pointers)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, library],
        cwd=tmp_path,
        env=sanitizer.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "survived\n", done.stderr
    assert done.returncode != 0
    assert sanitizer.finding(done.stderr) == "heap-buffer-overflow"
    assert "broken.cu:" in done.stderr


@pytest.mark.usefixtures("emulated_path")  # compiles what both modules have
def test_ops_stay_inside_their_tensors(tmp_path: Path, objects: Path) -> None:
    module = compile_module(tmp_path, sanitizer.FLAGS, objects=objects)
    check_ops(module, sanitizer.SELECTED)


@pytest.mark.slow
@pytest.mark.usefixtures("emulated_path")
@pytest.mark.parametrize(
    ("devices", "twin_flags"),
    [("emulated or baseline", []), ("baseline", AVX2_FLAGS)],
    ids=["emulated and baseline", "AVX2"],
)
def test_every_op_test_under_every_check(tmp_path: Path, objects: Path, devices: str, twin_flags: list[str]) -> None:
    module = compile_module(tmp_path, sanitizer.WHOLE, objects=objects, twin_flags=twin_flags)
    check_ops(module, f"({devices}) and {sanitizer.UNVECTORISED}", "-m", "slow or not slow")


def check_ops(module: Path, selected: str, *options: str) -> None:
    """No op test may fail or be found wrong."""
    names = sorted(OP_TESTS - {"test_emulated"})
    done = run_op_tests(module, selected, names, *options, sanitized=True)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[:6000]}"
    assert sanitizer.finding(done.stderr) is None, done.stderr
