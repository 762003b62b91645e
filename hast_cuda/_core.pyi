"""The compiled core: raw pointers in, errors out. Private; call :mod:`hast_cuda.ops` instead.

Pointers are integers (``Tensor.data_ptr()``), 0 where an optional one is absent. ``device`` is -1
for the CPU, else the CUDA device index; ``stream`` is a ``cudaStream_t`` as an integer (ignored on
the CPU). A tensor is described as contiguous ``[outer, channels, inner]``: NCHW is
``[N, C, H*W]``, channels_last is ``[N*H*W, C, 1]``, a whole tensor with one range is ``[1, 1, n]``.

``dtype`` codes the data: 0 float32, 1 float16, 2 bfloat16, 3 float64. Ranges, states, statistics,
BatchNorm parameters and energies ("fp" below) are float32, or float64 when ``dtype`` is 3.
``activation``: 0 none, 1 relu, 2 relu6. Nothing here allocates device memory, synchronises or reads
the device; counters must be zero on entry and are zero again on exit (CUDA only; 0 on the CPU).
"""

from collections.abc import Sequence

def build_info() -> dict[str, str]: ...
def cuda_device_count() -> int: ...
def range_scratch(size: int, device: int) -> int:
    """How many fp values ``update_range`` needs as scratch."""

def batch_stats_scratch(outer: int, channels: int, inner: int, device: int) -> int:
    """How many float64 values ``batch_norm_match`` and its backward need as scratch."""

def fake_quantize(
    x: int,
    y: int,
    lower: int,
    upper: int,
    dtype: int,
    outer: int,
    channels: int,
    inner: int,
    bits: int,
    real_zero_point: bool,
    activation: int,
    device: int,
    stream: int,
) -> None:
    """y = (q + z) / S, q = clamp(round(S*act(x) - z)); lower, upper: fp[channels]. Eq. 1-2."""

def fake_quantize_backward(
    x: int,
    dy: int,
    dx: int,
    lower: int,
    upper: int,
    dtype: int,
    outer: int,
    channels: int,
    inner: int,
    bits: int,
    real_zero_point: bool,
    activation: int,
    clipped: bool,
    device: int,
    stream: int,
) -> None:
    """dx = dy where act passes gradient at x (and, if clipped, round(S*act(x) - z) is in range)."""

def update_range(
    x: int,
    state: int,
    scratch: int,
    counters: int,
    dtype: int,
    size: int,
    activation: int,
    beta: float,
    released: bool,
    device: int,
    stream: int,
) -> None:
    """Moving average of (min, max) of act(x); state: fp[5] (see reference.py)."""

def fake_quantize_weights(
    weights: Sequence[int],
    outputs: Sequence[int],
    ranges: Sequence[int],
    rows: Sequence[int],
    columns: Sequence[int],
    bits: Sequence[int],
    dtype: int,
    real_zero_point: bool,
    device: int,
    stream: int,
) -> None:
    """Every tensor [rows, columns] on its grid [2, rows], or by the min and max per row (0)."""

def batch_norm_match(
    x: int,
    residual: int,
    y: int,
    mean: int,
    var: int,
    running_mean: int,
    running_var: int,
    weight: int,
    bias: int,
    eps: float,
    scratch: int,
    counters: int,
    dtype: int,
    outer: int,
    channels: int,
    inner: int,
    activation: int,
    device: int,
    stream: int,
) -> None:
    """y = act(BN_eval(x) + residual), batch mean and biased variance of x from one read of x."""

def batch_norm_activation_scratch(
    images: int, channels: int, spatial: int, channels_last: bool, device: int
) -> int:
    """How many float64 values ``batch_norm_activation`` needs as scratch for its energies."""

def batch_norm_activation(
    x: int,
    residual: int,
    target: int,
    y: int,
    energy: int,
    map: int,
    running_mean: int,
    running_var: int,
    weight: int,
    bias: int,
    eps: float,
    range: int,
    bits: int,
    scratch: int,
    counters: int,
    dtype: int,
    images: int,
    channels: int,
    spatial: int,
    channels_last: bool,
    activation: int,
    device: int,
    stream: int,
) -> None:
    """y = Q(act(u + residual)), u = BN_eval(x); energy: fp[images, channels] = sum of u^2.

    range: fp[2], 0 for no quantization.
    """

def batch_norm_backward(
    x: int,
    y: int,
    residual: int,
    target: int,
    dy: int,
    dy2: int,
    dmean: int,
    dvar: int,
    denergy: int,
    dmap: int,
    mean: int,
    running_mean: int,
    running_var: int,
    weight: int,
    bias: int,
    eps: float,
    range: int,
    bits: int,
    dx: int,
    dresidual: int,
    dtarget: int,
    dweight: int,
    dbias: int,
    scratch: int,
    counters: int,
    dtype: int,
    outer: int,
    channels: int,
    inner: int,
    images: int,
    activation: int,
    gate: int,
    device: int,
    stream: int,
) -> None:
    """dx = a*du + dmean/n + 2*dvar*(x - mean)/n, du = g + 2*denergy*u, a = weight/std.

    g is dy + dy2 where they pass; gate: 0 everywhere, 1 by the output y, 2 by the value before the
    activation, recomputed from x and the residual (and, with a range, where its code is in range).
    outer is images, or images*spatial.
    """

def match_loss(
    means: Sequence[int],
    variances: Sequence[int],
    running_means: Sequence[int],
    running_vars: Sequence[int],
    channels: Sequence[int],
    loss: int,
    gradient: int,
    dtype: int,
    reduction: int,
    device: int,
    stream: int,
) -> None:
    """Eq. 3 over all layers; loss: fp[1]; gradient: fp[2, sum(channels)]: means, variances.

    reduction: 0 mse, 1 norm, 2 relative.
    """

def channel_attention(
    maps: Sequence[int],
    energies: Sequence[int],
    batches: Sequence[int],
    channels: Sequence[int],
    spatial: Sequence[int],
    channels_last: Sequence[bool],
    dtype: int,
    device: int,
    stream: int,
) -> None:
    """Eq. 14 for every map: energy[n, c] = sum over space of x^2."""

def channel_attention_backward(
    maps: Sequence[int],
    coefficients: Sequence[int],
    gradients: Sequence[int],
    batches: Sequence[int],
    channels: Sequence[int],
    spatial: Sequence[int],
    channels_last: Sequence[bool],
    scale: int,
    dtype: int,
    device: int,
    stream: int,
) -> None:
    """dx = 2 * scale * coefficient[n, c] * x for every map; scale: fp[1] on the device, 0 for 1."""

def attention_pair_loss(
    teacher: Sequence[int],
    student: Sequence[int],
    teacher_gradient: Sequence[int],
    student_gradient: Sequence[int],
    channels: Sequence[int],
    spatial: Sequence[int],
    batch: int,
    loss: int,
    scratch: int,
    counters: int,
    dtype: int,
    normalized: bool,
    device: int,
    stream: int,
) -> None:
    """Eq. 13 between energies fp[batch, C]; loss: fp[1]; scratch: fp[layers*batch]."""

def distillation_loss(
    teacher: int,
    student: int,
    teacher_gradient: int,
    student_gradient: int,
    loss: int,
    scratch: int,
    counters: int,
    temperature: float,
    dtype: int,
    rows: int,
    classes: int,
    device: int,
    stream: int,
) -> None:
    """Eq. 6 of logits [rows, classes]; gradients: fp or 0; loss: fp[1]; scratch: float64[rows]."""

def hard_sample_loss(
    logits: int,
    labels: int,
    gradient: int,
    loss: int,
    difficulty: int,
    scratch: int,
    counters: int,
    exponent: float,
    detach: bool,
    dtype: int,
    rows: int,
    classes: int,
    device: int,
    stream: int,
) -> None:
    """Eq. 8; labels: int64[rows]; loss, difficulty: fp[1]; scratch: float64[rows, 2]."""

def plateau_step(
    state: int,
    rate: int,
    loss: int,
    patience: float,
    factor: float,
    threshold: float,
    minimum: float,
    dtype: int,
    device: int,
    stream: int,
) -> None:
    """ReduceLROnPlateau; state: float64[3] rate, best, bad; rate: float32[1]; dtype: of loss."""
