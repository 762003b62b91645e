"""SQuant (Guo et al., ICLR 2022): rounding that balances the errors of kernels and channels."""

from __future__ import annotations

from hast_cuda.methods import common
from hast_cuda.methods.recipe import Recipe, method


@method
def recipe(preset: str = "default", dataset: str = "cifar10") -> Recipe:  # noqa: ARG001
    """Flipped rounding of the weights; activation ranges from BatchNorm parameters; no images.

    "default" balances the channels of activations before and corrects biases behind it: a single
    layer of MobileNet whose outputs moved ruins the network. Ranges are 3, 4 and 6 standard
    deviations wide at 3, 4 and 8 bits; "released" has the 12 of its code, which measures them on
    random images where BatchNorm stands in here.
    """
    if preset == "released":
        return common.training_free(rounding="squant", range_width=12.0)
    more = dict.fromkeys(("equalize_activations", "correct_biases"), preset == "default")
    return common.training_free(rounding="squant", narrow_ranges=True, **more)
