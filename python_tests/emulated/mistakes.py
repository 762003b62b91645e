"""Mistakes for mutate.py to plant: file, what stands there, what is put there, description."""

from __future__ import annotations

from typing import NamedTuple


class Mistake(NamedTuple):
    """One change of one file in csrc/, the first time that ``old`` stands there."""

    file: str
    old: str
    new: str
    description: str
    sanitized: bool = False  # only an access outside of memory: needs the sanitized build


PLANE = "unit * kWarps + threadIdx.x / kWarp"
INDEX = "(gridDim.y == blocks ? blockIdx.y : blockIdx.x)"
LAST = "atomicInc(counter, blocks - 1) == blocks - 1"
COUNT = "is_last_block(args.counters, gridDim.x)"
WRITE = """  if (threadIdx.x == 0) {
    volatile F* own = partial + 2 * static_cast<int64_t>(blockIdx.x);
    own[0] = extremes.minimum();
    own[1] = extremes.maximum();
  }
"""
MISTAKES = [
    # CUDA
    Mistake("fake_quantize.cu", "rest < length; rest", "rest + 1 < length; rest", "tail one short"),
    Mistake("fake_quantize.cu", "rest < length; rest", "rest <= length; rest", "tail one long", True),
    Mistake("fake_quantize.cu", "plane % channels)", "plane / channels)", "wrong channel of a plane"),
    Mistake(
        "fake_quantize.cu", "aligned(args.x, 16) && aligned(args.y, 16)", "true", "vectors at unaligned pointers", True
    ),
    Mistake(
        "common/cuda_extremes.h", "__ballot_sync(kFullMask, value.nan)", "value.nan", "NaN of other lanes forgotten"
    ),
    Mistake(
        "common/cuda_extremes.h",
        "i < blockDim.x / kWarp; ++i",
        "i < kWarp; ++i",
        "shared memory read that nobody wrote",
    ),
    Mistake(
        "fake_quantize_weights.cu",
        "range[table.rows_of(entry) + row]",
        "range[row]",
        "upper ends of given ranges mistaken for the lower ones",
    ),
    Mistake(
        "fake_quantize_weights.cu",
        "entry + 1 < count ? entries[entry + 1].first_row : rows",
        "rows",
        "given ranges of the next layer",
    ),
    Mistake("batch_norm_match.cu", "+= difference * difference", "+= difference", "no square in the variance"),
    Mistake("batch_norm_backward.cu", "passes_gradient(y[i], top) ? g[i] : F(0)", "g[i]", "activation not gated"),
    Mistake("batch_norm_backward.cu", "F(2) * denergy[c]", "denergy[c]", "factor 2 of the energy"),
    Mistake("batch_norm_backward.cu", "du[i] = -du[i];", "", "target's gradient of the wrong sign"),
    Mistake("batch_norm_backward.cu", "g[i] += dmap[i];", "g[i] = dmap[i];", "map's gradient replaces the output's"),
    Mistake("batch_norm_backward.cu", "+ residual[i];", ";", "residual left out of the gate"),
    Mistake("batch_norm_backward.h", "args.gate = Gate::kNone;", "return args;", "a gate without an activation"),
    Mistake("batch_norm_backward.cu", "&& !args.dtarget ", "", "target's gradient alone left out"),
    Mistake("batch_norm_backward.h", "? dmean[channel]", "? dvar[channel]", "swapped statistic gradients"),
    Mistake(
        "batch_norm_activation.cu",
        "plane % body.args.channels",
        "plane / body.args.channels",
        "wrong channel of a plane",
    ),
    Mistake("batch_norm_activation.cu", "values[i] - apart[i]", "values[i] + apart[i]", "distance of the wrong sign"),
    Mistake(
        "batch_norm_activation.cu",
        "for (unsigned bit = lanes / 2; bit > 0;",
        "for (unsigned bit = lanes / 2; bit > 1;",
        "last step of the warp's sum left out",
    ),
    Mistake(
        "common/cuda_channel_sums.h", "at / sizes.per_image", "row / sizes.outer", "energy of the first image for all"
    ),
    Mistake("common/cuda_channel_sums.h", "split < splits;", "split + 1 < splits;", "last split left out"),
    Mistake(
        "common/cuda_channel_sums.h", "if (c < sizes.channels) {", "if (true) {", "channels past the last one", True
    ),
    Mistake("common/cuda_reduce.h", "= value;\n  __syncthreads();", "= value;", "barrier dropped in the block sum"),
    Mistake(
        "common/cuda_reduce.h",
        "atomicInc(counter, blocks - 1)",
        "atomicInc(counter, blocks)",
        "counter not back at zero",
    ),
    Mistake(
        "common/cuda_reduce.h", LAST, f"{INDEX} + 1 == blocks", "block of the highest index taken for the last one"
    ),
    Mistake("common/cuda_reduce.h", LAST, f"{INDEX} == 0", "first block taken for the last one"),
    Mistake(
        "common/cuda_reduce.h",
        "bool last;\n  __syncthreads();",
        "bool last;",
        "block counted before all of its threads have written",
    ),
    Mistake(
        "update_range.cu",
        f"{WRITE}  if (!{COUNT}) return;",
        f"  const bool last = {COUNT};\n{WRITE}  if (!last) return;",
        "block counted before its extremes are written",
    ),
    Mistake("match_loss.cu", "__syncthreads();", ";", "barrier dropped"),
    Mistake("channel_attention.cu", PLANE, f"{PLANE} + 1", "plane index one too high"),
    Mistake(
        "channel_attention.cu", "first += kTogether *", "first += (kTogether + 1) *", "one vector of five left out"
    ),
    Mistake("channel_attention.cu", "if (at < count) packed", "packed", "vectors loaded past the last one", True),
    Mistake("batch_norm_backward.cu", "kInner && args.denergy", "!kInner && args.denergy", "energies of no plane"),
    Mistake("attention_loss.cu", "= -factor * difference", "= factor * difference", "sign of the teacher's gradient"),
    Mistake("common/cuda_rows.h", "warp < kWarps;", "warp + 1 < kWarps;", "last warp of a row left out"),
    Mistake("distillation_loss.cu", "exp_t * (a - b)", "exp_s * (a - b)", "gap under the wrong softmax"),
    Mistake("distillation_loss.h", "(gap - mean_gap)", "gap", "mean gap left out"),
    Mistake("hard_sample_loss.h", "label >= 0 && ", "", "label not checked from below", True),
    Mistake("hard_sample_loss.h", "!clamped && ", "", "gradient past the clamp"),
    Mistake(
        "hard_sample_loss.cu",
        "partial[2 * row + 1] = result.difficulty",
        "partial[2 * row + 1] = 0",
        "difficulty left out",
    ),
    Mistake("soft_round_weights.h", "stretched_ >= F(1) ? F(0) : slope", "slope", "gradient where h is cut at 1"),
    Mistake("soft_round_weights.cu", "first_row = rows", "first_row = 0", "parts of all weights in one place"),
    Mistake("soft_round_weights.cu", "row < entry.weight.rows", "true", "rows past the last one", True),
    Mistake("plateau.h", "stalled ? 0.0 : bad", "bad", "bad steps not reset"),
    # CPU
    Mistake(
        "fake_quantize.cpp",
        "source(plane % args.channels)",
        "source(plane / args.channels)",
        "wrong channel of a plane",
    ),
    Mistake(
        "fake_quantize.cpp",
        "smaller(kTile, channels - channel)",
        "smaller(kTile, channels)",
        "last tile too wide",
        True,
    ),
    Mistake("update_range.cpp", "begin, end - begin)", "begin, end - begin - 1)", "last element of a run unseen"),
    Mistake(
        "fake_quantize_weights.cpp",
        "range[tensor.rows + row]",
        "range[row]",
        "upper ends of given ranges mistaken for the lower ones",
    ),
    Mistake("soft_round_weights.cpp", "rows += own.rows;", "", "parts of all weights in one place"),
    Mistake(
        "batch_norm_match.cpp",
        "tile.squares[i] += difference * difference",
        "tile.squares[i] += difference",
        "no square in the variance",
    ),
    Mistake(
        "common/lane_sums.h",
        "second += factor * centered",
        "second += factor * factor",
        "operand of the products swapped",
    ),
    Mistake(
        "batch_norm_backward.cpp",
        "to_compute(x[i]) - gradient.center(i)",
        "to_compute(x[i]) - gradient.shift(i)",
        "operands swapped",
    ),
    Mistake(
        "batch_norm_backward.cpp", "from_compute<T>(-du)", "from_compute<T>(du)", "target's gradient of the wrong sign"
    ),
    Mistake(
        "batch_norm_activation.cpp",
        "if (part.target) sum =",
        "if (part.map) sum =",
        "distance only where the map is wanted",
    ),
    Mistake(
        "batch_norm_activation.cpp",
        "smaller(args.spatial, block + kTileRows)",
        "smaller(args.spatial - 1, block + kTileRows)",
        "last row of an image left out",
    ),
    Mistake("distillation_loss.cpp", "exp_t * (a - b)", "exp_t * (b - a)", "operands swapped"),
    Mistake("hard_sample_loss.cpp", "gradient[label] = ", "gradient[0] = ", "wrong index"),
    Mistake("common/slabs.h", "slab < count;", "slab + 1 < count;", "last slab dropped"),
    Mistake("match_loss.cpp", "gradient + total,", "gradient,", "gradients on top of each other"),
    Mistake("match_loss.cpp", "scale * scale", "scale", "variances in the unit of the means"),
    Mistake(
        "channel_attention.cpp",
        "begin < map.spatial; begin += kTile",
        "begin + kTile < map.spatial; begin += kTile",
        "last rows of a tile left out",
    ),
    Mistake(
        "attention_loss.cpp",
        "teacher[c] - student[c]",
        "student[c] - teacher[c]",
        "operands swapped in the teacher's gradient",
    ),
    Mistake(
        "backend_table.cpp",
        "      channel_attention,\n      channel_attention_backward,",
        "      channel_attention_backward,\n      channel_attention,",
        "entries swapped",
    ),
]
