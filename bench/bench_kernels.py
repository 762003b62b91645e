"""Single kernels of both loops where a GPU's memory should be the limit and reading the code says it is not.

Last blocks that add up many splits alone, maps whose rows are no multiple of a vector, maps so small
that a thread has one vector, and large ones beside them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from cuda_timing import Candidate
from harness import HAST, Case, CaseMaker, Options, run
from shapes import Shape, label

import hast_cuda as hc
from hast_cuda.ops import reference

EPS = 1e-5
KINDS: dict[str, list[tuple[Shape, torch.dtype, bool]]] = {
    "match": [
        ((256, 128, 28, 28), torch.float32, True),
        ((256, 64, 8, 8), torch.float32, False),
        ((256, 256, 14, 14), torch.bfloat16, False),
        ((256, 64, 56, 56), torch.float32, False),
    ],
    "activation": [
        ((256, 512, 7, 7), torch.float32, False),
        ((256, 256, 14, 14), torch.bfloat16, False),
        ((256, 16, 32, 32), torch.float32, False),
        ((256, 64, 56, 56), torch.float32, False),
    ],
}
RAGGED: Shape = (7, 33, 13, 5)


def kernel(kind: str, shape: Shape, dtype: torch.dtype, channels_last: bool, options: Options) -> Case:
    """Forward of one layer: output and statistics, or output with activation and quantizer."""
    device, channels = options.device, shape[1]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(shape, device=device).to(dtype).contiguous(memory_format=layout)
    mean, bias = (torch.randn(channels, device=device) for _ in range(2))
    var, weight = (torch.rand(channels, device=device) + 0.5 for _ in range(2))
    state = torch.tensor([0.0, 4.0, 0, 0, 0], device=device)
    parameters = (x, mean, var, weight, bias, EPS)
    own: Candidate
    if kind == "match":
        eager = partial(reference.batch_norm_match, *parameters)
        own = partial(hc.batch_norm_match, *parameters)
    else:
        eager = partial(reference.batch_norm_activation, *parameters, activation="relu", bounds=state[:2])
        own = partial(hc.ops.batch_norm_activation, *parameters, activation="relu", state=state)
    return Case(kind, f"{name_of(shape, dtype, channels_last)}", {"eager": eager, HAST: own}, 2 * x.nbytes)


def name_of(shape: Shape, dtype: torch.dtype, channels_last: bool) -> str:
    """As the tables write it."""
    return f"{label(shape)} {str(dtype).removeprefix('torch.')}{' channels_last' if channels_last else ''}"


def cases(options: Options) -> Iterable[tuple[str, CaseMaker]]:
    """The telling ones of both kinds first: a run that is cut off keeps those."""
    ragged = [(kind, (RAGGED, torch.float32, last)) for kind in KINDS for last in (False, True)]
    large = [
        (kind, given) for rank in zip(*KINDS.values(), strict=True) for kind, given in zip(KINDS, rank, strict=True)
    ]
    for kind, (shape, dtype, last) in [*(large if options.large else []), *ragged]:
        yield f"{kind} {name_of(shape, dtype, last)}", partial(kernel, kind, shape, dtype, last, options)


if __name__ == "__main__":
    run("kernels", __doc__, cases)
