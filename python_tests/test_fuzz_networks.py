"""Networks drawn at random, through all stages: each holds, or the network is refused by name before work begins."""

from __future__ import annotations

import re

import pytest
import torch
from architecture_stages import PLACEMENTS, lively, walk
from fuzzing.effort import effort
from fuzzing.programs import SIZE, Program, programs
from hypothesis import assume, given, note

# What placement "integer" cannot do; the module or value is named.
REFUSALS = re.compile(r"quantized: (value|module|layer|the outputs of|.* is joined to others).*'")


@pytest.mark.parametrize("placement", PLACEMENTS)
@effort(10)
@given(network=programs())
def test_random_networks(placement: str, network: Program) -> None:
    torch.manual_seed(0)
    note(network.steps)
    found = walk(lively(network, SIZE), SIZE, placement, light=True)
    assume(not found.refused.startswith("read: Gone"))  # a map of zeros, or a sum that overflows
    assert not found.refused or (placement == "integer" and REFUSALS.match(found.refused)), found.refused
