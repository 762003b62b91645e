"""``hast-cuda calibration-set``: images for the quantizers of other programs."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Annotated, Literal

from hast_cuda.calibration import calibration_set as write_set
from hast_cuda.checks.values import as_device
from hast_cuda.cli.network import ANY_NETWORK, Network, opened
from hast_cuda.cli.options import Flat
from hast_cuda.loops.execution import Execution
from hast_cuda.networks.shape import infer_shape
from hast_cuda.run import read_images


def calibration_set(
    out: Path,
    network: Annotated[Network, Flat] = ANY_NETWORK,
    to: Literal["png", "npy", "npz", "tfrecord", "hailo", "tensorrt", "openvino", "onnxruntime"] = "png",
    num_images: int = 256,
    iterations: int | None = None,
    batch_size: int | None = None,
    run: Path | None = None,
    displayable: bool = True,
    seed: int = 0,
    device: str = "auto",
    execution: Annotated[Execution, Flat] = Execution(),
) -> None:
    """Make images from a pretrained network for the quantizers of onnxruntime, OpenVINO and others.

    Args:
        out: a folder that does not exist yet.
        network: the full-precision network; by default that of the run.
        to: "png" (a folder per class), "npy", "npz" or "tfrecord" (uint8 [N, H, W, C] and labels), or what the
            quantizer of a program takes: bytes for "hailo", normalised float32 [N, C, H, W] for the others.
        num_images: of all classes alike.
        iterations: per batch of images; default 200.
        batch_size: images whose joint statistics are matched; default 128.
        run: take the images of this run directory instead of making some.
        displayable: keep pixels in what bytes can hold during the synthesis, not at its end alone.
        seed: of everything random.
        device: "cpu", "cuda", "cuda:1"; "auto" takes the GPU if there is one.
        execution: how to compute.
    """
    if run is None and network.model is None:
        raise ValueError("no network: give --model, or --run with a run directory that has images")
    images, where = None if run is None else read_images(run), as_device(device, auto=True)
    full, teacher, spec = (network, network.load(), network.spec()) if run is None else opened(run, network)
    infer_shape(teacher, spec.size)
    done = write_set(
        teacher,
        spec,
        out,
        to=to,
        num_images=num_images,
        iterations=iterations,
        batch_size=batch_size,
        normalization=full.normalization,
        displayable=displayable,
        images=images,
        seed=seed,
        device=where,
        execution=execution,
        describe={"model": full.model, "made_on": str(where)},
    )
    for name, gaps in done.manifest["statistic_gaps"].items():
        mean, variance = (fmean(gap[kind] for gap in gaps.values()) for kind in ("mean", "variance"))
        print(f"statistics, {name}: means off by {mean:.3f} deviations, variances by {100 * variance:.1f} %")
    print(f"{num_images} images in {out}")
