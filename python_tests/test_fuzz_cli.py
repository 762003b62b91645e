"""Every verb of the command line with hostile values: status 1 or 2, and a message to act on."""

from __future__ import annotations

import re
import warnings

import pytest
from fuzzing.calls import folder
from fuzzing.command_lines import LINES, hostile, line
from fuzzing.effort import effort
from fuzzing.judge import attempt
from hypothesis import given
from hypothesis import strategies as st

from hast_cuda.cli import VERBS, main
from hast_cuda.cli.analyze import ANALYSES

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
NAMES = [*(v for v in VERBS if v != "analyze"), *(f"analyze {name}" for name in ANALYSES)]


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative names lead to a folder that goes away, and nothing is found beside it."""
    monkeypatch.chdir(folder())
    monkeypatch.delenv("HAST_CUDA_DATA", raising=False)


def status(given: list[str]) -> int:
    """The exit status; errors that a user can mend come through."""
    try:
        return main(given)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else -1


def test_every_verb_is_fuzzed() -> None:
    assert set(NAMES) == LINES.keys()


@pytest.mark.parametrize("verb", NAMES)
@effort(3)
@given(data=st.data())
def test_verb(verb: str, capsys: pytest.CaptureFixture[str], data: st.DataObject) -> None:
    option, value = data.draw(st.sampled_from(hostile(verb)))
    given = line(verb, option, value)
    # What options become: --image-size a height, --full-precision overrides, --data a path.
    names = {"network", "run", "channels", "height", "overrides", "path", "batches", "data"}
    names |= {option.replace("-", "_"), option, value, value.strip("/"), *re.split(r"[.=]", value)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HAST_CUDA_DEBUG", "1")  # the errors themselves, to see who wrote them
            answered, found = attempt(lambda: status(given), names - {""})
        capsys.readouterr()
        if answered:
            assert found in (0, 2), given
            return
        assert status(given) == 1
    lines_of_error = capsys.readouterr().err.splitlines()
    assert not any("Traceback" in text for text in lines_of_error)
    said = [text for text in lines_of_error if text.startswith("hast-cuda: error: ")]
    assert len(said) == 1, lines_of_error
    assert len(said[0]) > len("hast-cuda: error: ") + 12
