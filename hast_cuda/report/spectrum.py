"""The curvature of several losses (Figure 6b)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hast_cuda.analysis import Spectrum
from hast_cuda.checks.typed import typed
from hast_cuda.report.canvas import closing, pyplot, require, save

SHOWN = 1e-6  # of the peak; what is lower is the tail of a Gaussian


@closing
@typed
def draw_spectrum(spectra: Mapping[str, Spectrum], path: Path) -> None:
    """Density of the Hessian's eigenvalues on a log scale, one panel per loss, as PNG.

    Args:
        spectra: by the name of their loss; each panel has its own range of eigenvalues, since the
            losses differ by orders of magnitude.
        path: of the PNG file.

    Raises:
        ValueError: no spectrum. ImportError: no matplotlib.
    """
    require("spectra", spectra)
    plt = pyplot()
    count = len(spectra)
    figure, axes = plt.subplots(
        1, count, figsize=(4.5 * count, 3.8), layout="constrained", squeeze=False
    )
    for axis, (name, spectrum) in zip(axes.flat, spectra.items(), strict=True):
        grid, density = spectrum.density()
        low = SHOWN * float(density.max())
        axis.semilogy(grid.numpy(), density.clamp(min=low).numpy())
        top = spectrum.largest()[0].value
        axis.axvline(top, color="gray", linestyle="--", label=f"largest: {top:.3g}")
        axis.set_ylim(bottom=low)
        axis.set_title(name)
        axis.set_xlabel("eigenvalue of the Hessian")
        axis.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0, 0].set_ylabel("density")
    save(figure, path)
