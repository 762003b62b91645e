"""The compiled core: raw pointers in, errors out. Private; call :mod:`hast_cuda.ops` instead.

Everything is passed by keyword. A pointer is 0 where an optional one is absent. A tensor is
described as contiguous ``[outer, channels, inner]``: NCHW is ``[N, C, H*W]``, channels_last is
``[N*H*W, C, 1]``, a whole tensor with one range is ``[1, 1, n]``.

``dtype`` codes the data: 0 float32, 1 float16, 2 bfloat16, 3 float64. Ranges, states, statistics,
BatchNorm parameters and energies ("fp" below) are float32, or float64 when ``dtype`` is 3.
``activation``: 0 none, 1 relu, 2 relu6. No op allocates device memory, synchronises or reads the
device; counters must be zero on entry and are zero again on exit (CUDA only; 0 on the CPU).
"""

from collections.abc import Sequence

from hast_cuda.ops.codes import Activation, Device, DType, Gate, Pointer, Reduction, Stream

def build_info() -> dict[str, str]: ...
def cuda_device_count() -> int: ...
def capture_number(*, device: Device, stream: Stream) -> int:
    """Which CUDA graph capture is under way on the stream, 0 for none. No number comes twice."""

def new_counters(*, count: int, device: Device) -> Pointer:
    """Address of zeroed uint32[count], from CUDA itself and never freed; also during a capture."""

def update_range_scratch(*, size: int, device: Device) -> int:
    """How many fp values ``update_range`` needs as scratch."""

def batch_norm_match_scratch(*, outer: int, channels: int, inner: int, device: Device) -> int:
    """How many float64 values ``batch_norm_match`` and ``batch_norm_backward`` need as scratch."""

def fake_quantize(
    *,
    x: Pointer,
    y: Pointer,
    lower: Pointer,
    upper: Pointer,
    dtype: DType,
    outer: int,
    channels: int,
    inner: int,
    bits: int,
    real_zero_point: bool,
    activation: Activation,
    device: Device,
    stream: Stream,
) -> None:
    """y = (q + z) / S, q = clamp(round(S*act(x) - z)); lower, upper: fp[channels]. Eq. 1-2."""

def fake_quantize_backward(
    *,
    x: Pointer,
    dy: Pointer,
    dx: Pointer,
    lower: Pointer,
    upper: Pointer,
    dtype: DType,
    outer: int,
    channels: int,
    inner: int,
    bits: int,
    real_zero_point: bool,
    activation: Activation,
    clipped: bool,
    device: Device,
    stream: Stream,
) -> None:
    """dx = dy where act passes gradient at x (and, if clipped, round(S*act(x) - z) is in range)."""

def update_range(
    *,
    x: Pointer,
    state: Pointer,
    scratch: Pointer,
    counters: Pointer,
    dtype: DType,
    size: int,
    activation: Activation,
    beta: float,
    released: bool,
    device: Device,
    stream: Stream,
) -> None:
    """Moving average of (min, max) of act(x); state: fp[5] lower, upper, m_lower, m_upper, beta^t.

    m = beta*m + (1 - beta)*(min, max), (lower, upper) = m / (1 - beta^t); released
    feeds the corrected values back: m = (lower, upper). scratch: fp[update_range_scratch].
    """

def fake_quantize_weights(
    *,
    weights: Sequence[Pointer],
    outputs: Sequence[Pointer],
    ranges: Sequence[Pointer],
    rows: Sequence[int],
    columns: Sequence[int],
    bits: Sequence[int],
    dtype: DType,
    real_zero_point: bool,
    device: Device,
    stream: Stream,
) -> None:
    """Every tensor [rows, columns] on its range fp[2, rows], lower then upper ends, or (0) on the
    minimum and maximum of each row.
    """

def batch_norm_match(
    *,
    x: Pointer,
    residual: Pointer,
    y: Pointer,
    mean: Pointer,
    var: Pointer,
    running_mean: Pointer,
    running_var: Pointer,
    weight: Pointer,
    bias: Pointer,
    eps: float,
    scratch: Pointer,
    counters: Pointer,
    dtype: DType,
    outer: int,
    channels: int,
    inner: int,
    activation: Activation,
    device: Device,
    stream: Stream,
) -> None:
    """y = act(u + residual), u = BN_eval(x), and mean and biased variance of x, in one read.

    y: 0 for the statistics alone; scratch: float64[batch_norm_match_scratch]; counters: [channels].
    """

def batch_norm_activation_scratch(
    *, images: int, channels: int, spatial: int, channels_last: bool, device: Device
) -> int:
    """How many float64 values ``batch_norm_activation`` needs as scratch for its energies."""

def batch_norm_activation(
    *,
    x: Pointer,
    residual: Pointer,
    target: Pointer,
    y: Pointer,
    energy: Pointer,
    map: Pointer,
    running_mean: Pointer,
    running_var: Pointer,
    weight: Pointer,
    bias: Pointer,
    eps: float,
    range: Pointer,
    bits: int,
    scratch: Pointer,
    counters: Pointer,
    dtype: DType,
    images: int,
    channels: int,
    spatial: int,
    channels_last: bool,
    activation: Activation,
    device: Device,
    stream: Stream,
) -> None:
    """y = Q(act(u + residual)), u = BN_eval(x); map = u; energy = sum over space of (u - target)^2.

    x, residual, target, y and map: [images, channels, spatial], or [images, spatial, channels] with
    channels_last; energy: fp[images, channels]; a target goes with energy, 0 for it is u^2. range:
    fp[2], 0 for no quantization. Energies of channels_last data take scratch
    float64[batch_norm_activation_scratch] and a counter per image and channel at most.
    """

def batch_norm_backward(
    *,
    x: Pointer,
    y: Pointer,
    residual: Pointer,
    target: Pointer,
    dy: Pointer,
    dy2: Pointer,
    dmean: Pointer,
    dvar: Pointer,
    denergy: Pointer,
    dmap: Pointer,
    mean: Pointer,
    running_mean: Pointer,
    running_var: Pointer,
    weight: Pointer,
    bias: Pointer,
    eps: float,
    range: Pointer,
    bits: int,
    dx: Pointer,
    dresidual: Pointer,
    dtarget: Pointer,
    dweight: Pointer,
    dbias: Pointer,
    scratch: Pointer,
    counters: Pointer,
    dtype: DType,
    outer: int,
    channels: int,
    inner: int,
    images: int,
    activation: Activation,
    gate: Gate,
    device: Device,
    stream: Stream,
) -> None:
    """dx = a*du + dmean/n + 2*dvar*(x - mean)/n, du = g + dmap + 2*denergy*(u - target).

    u = BN_eval(x), a = weight/std; g is dy + dy2 where they pass; gate: 0 everywhere, 1 by the
    output y, 2 by the value before the activation, recomputed from x and the residual (and, with a
    range, where its code is in range). dresidual = g; dtarget = -2*denergy*(u - target), with both;
    dweight = sum(du*(x - running_mean))/std and dbias = sum(du), both or neither; every gradient
    may be 0. outer is images, or images*spatial. scratch and counters as in ``batch_norm_match``,
    for dweight.
    """

def match_loss(
    *,
    means: Sequence[Pointer],
    variances: Sequence[Pointer],
    running_means: Sequence[Pointer],
    running_vars: Sequence[Pointer],
    channels: Sequence[int],
    loss: Pointer,
    gradient: Pointer,
    dtype: DType,
    reduction: Reduction,
    device: Device,
    stream: Stream,
) -> None:
    """Eq. 3 over all layers; loss: fp[1]; gradient: fp[2, sum(channels)]: means, variances.

    reduction: 0 mse, 1 norm, 2 relative.
    """

def channel_attention(
    *,
    maps: Sequence[Pointer],
    energies: Sequence[Pointer],
    batches: Sequence[int],
    channels: Sequence[int],
    spatial: Sequence[int],
    channels_last: Sequence[bool],
    dtype: DType,
    device: Device,
    stream: Stream,
) -> None:
    """Eq. 14 for every map: energy[n, c] = sum over space of x^2."""

def channel_attention_backward(
    *,
    maps: Sequence[Pointer],
    coefficients: Sequence[Pointer],
    gradients: Sequence[Pointer],
    batches: Sequence[int],
    channels: Sequence[int],
    spatial: Sequence[int],
    channels_last: Sequence[bool],
    scale: Pointer,
    dtype: DType,
    device: Device,
    stream: Stream,
) -> None:
    """dx = 2 * scale * coefficient[n, c] * x for every map; scale: fp[1] on the device, 0 for 1."""

def attention_loss(
    *,
    teacher: Sequence[Pointer],
    student: Sequence[Pointer],
    teacher_gradient: Sequence[Pointer],
    student_gradient: Sequence[Pointer],
    channels: Sequence[int],
    spatial: Sequence[int],
    batch: int,
    loss: Pointer,
    scratch: Pointer,
    counters: Pointer,
    dtype: DType,
    normalized: bool,
    device: Device,
    stream: Stream,
) -> None:
    """Eq. 13 between energies fp[batch, channels]; loss: fp[1]; gradients like them or 0.

    scratch: fp[layers*batch]; counters: one.
    """

def distillation_loss(
    *,
    teacher: Pointer,
    student: Pointer,
    teacher_gradient: Pointer,
    student_gradient: Pointer,
    loss: Pointer,
    scratch: Pointer,
    counters: Pointer,
    temperature: float,
    dtype: DType,
    rows: int,
    classes: int,
    device: Device,
    stream: Stream,
) -> None:
    """Eq. 6 of logits [rows, classes]; gradients: fp or 0; loss: fp[1]; scratch: float64[rows]."""

def hard_sample_loss(
    *,
    logits: Pointer,
    labels: Pointer,
    gradient: Pointer,
    loss: Pointer,
    difficulty: Pointer,
    scratch: Pointer,
    counters: Pointer,
    exponent: float,
    detach: bool,
    dtype: DType,
    rows: int,
    classes: int,
    device: Device,
    stream: Stream,
) -> None:
    """Eq. 8; labels: int64[rows]; loss, difficulty: fp[1]; scratch: float64[rows, 2]."""

def plateau_step(
    *,
    state: Pointer,
    rate: Pointer,
    loss: Pointer,
    patience: float,
    factor: float,
    threshold: float,
    minimum: float,
    dtype: DType,
    device: Device,
    stream: Stream,
) -> None:
    """ReduceLROnPlateau; state: float64[3] rate, best, bad; rate: float32[1]; dtype: of loss."""

def soft_round_weights(
    *,
    bases: Sequence[Pointer],
    roundings: Sequence[Pointer],
    steps: Sequence[Pointer],
    lows: Sequence[Pointer],
    weights: Sequence[Pointer],
    rows: Sequence[int],
    columns: Sequence[int],
    bits: Sequence[int],
    beta: Pointer,
    regulariser: Pointer,
    scratch: Pointer,
    counters: Pointer,
    dtype: DType,
    device: Device,
    stream: Stream,
) -> None:
    """Every weight [rows, columns] = clamp(base + h(V), low, low + 2^bits - 1) * step; all fp.

    h(V) = clamp(1.2 sigmoid(V) - 0.1, 0, 1); steps, lows: fp[rows]. With beta, fp[1]: regulariser,
    fp[1], = sum over all elements of 1 - |2h - 1|^beta; scratch: float64[sum(rows)]; counters: one.
    """

def soft_round_weights_backward(
    *,
    gradients: Sequence[Pointer],
    bases: Sequence[Pointer],
    roundings: Sequence[Pointer],
    steps: Sequence[Pointer],
    lows: Sequence[Pointer],
    rounding_gradients: Sequence[Pointer],
    step_gradients: Sequence[Pointer],
    rows: Sequence[int],
    columns: Sequence[int],
    bits: Sequence[int],
    regulariser_gradient: Pointer,
    beta: Pointer,
    dtype: DType,
    device: Device,
    stream: Stream,
) -> None:
    """Gradients of V and, fp[rows], of the steps; a gradient of 0 counts as zeros."""
