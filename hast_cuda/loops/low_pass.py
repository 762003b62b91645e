"""A low-pass filter of images: what is finer than the network ever saw is noise of synthesis."""

from __future__ import annotations

import torch
from torch import Tensor

AT_ONCE = 64  # images that are transformed together: float64 spectra are large


@torch.no_grad()
def low_pass(images: Tensor, cutoff: float) -> Tensor:
    """Every channel's spectrum times ``H = exp(-f^2 / (2 cutoff^2))`` (SynQ's Gaussian filter).

    SynQ counts distances D and D0 from the zero frequency in samples of the spectrum. On a square
    image of N pixels a side ``f = D / N`` and ``cutoff = D0 / N``, so one cutoff blurs by the same
    width, ``1 / (2 pi cutoff)`` pixels, whatever the size.

    Args:
        images: [N, C, H, W] floating point; each channel's mean stays.
        cutoff: in cycles per pixel, where ``H`` is 0.61 (0.5 is the finest pattern along an axis);
            0 filters nothing.

    Returns:
        Images of the same shape and dtype, each filtered by itself in float64.

    Example:
        >>> stripes = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 1, 8, 8)  # f = 0.5
        >>> round(float(low_pass(stripes, 0.5).max()), 2)
        0.61
    """
    if not cutoff:
        return images
    height, width = images.shape[2:]
    exact = {"dtype": torch.float64, "device": images.device}
    rows, columns = torch.fft.fftfreq(height, **exact)[:, None], torch.fft.rfftfreq(width, **exact)
    # divided before they are squared: the square of a tiny cutoff is 0
    response = torch.exp(-((rows / cutoff).square() + (columns / cutoff).square()) / 2)
    filtered = torch.empty_like(images)
    for part, place in zip(images.split(AT_ONCE), filtered.split(AT_ONCE), strict=True):
        place.copy_(torch.fft.irfft2(torch.fft.rfft2(part.double()) * response, s=(height, width)))
    return filtered
