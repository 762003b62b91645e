// What the executor asks of an instruction set: one table of functions, all over a share of rows.
//
// Maps lie as [row][pixel][channel], channels in blocks of 16 that are always written whole.
#pragma once

#include <cstdint>

#include "engine/network.h"

namespace hast::engine {

constexpr int64_t kBlock = 16;  // channels that are computed together

// A map of one image, from its first pixel inside the border. One of both pointers is set.
struct Plane {
  uint8_t* codes = nullptr;
  float* floats = nullptr;
  int64_t pixel = 0, row = 0;  // elements from one pixel, one row, to the next
};

// What becomes of the sums of a block: y = scale * sum + bias + residual_scale * residual, then
// either clip(y, low, high), or activation(y) * inverse_step + zero, clipped. Codes are rounded to
// nearest even. Where the activation only clips, grid and clip are in scale, bias, low and high.
struct Finish {
  const float* scale = nullptr;  // [blocks * 16]
  const float* bias = nullptr;
  Plane residual;
  float residual_scale = 0.0f;
  Activation activation = Activation::kNone;  // kClip never
  float a = 0.0f, b = 0.0f;
  float inverse_step = 1.0f, zero = 0.0f;
  float low = 0.0f, high = 0.0f;
  Plane out;
  // Set where whole sums and a residual end as codes: few numbers meet there, over and over, and
  // one that lies next to a tie would fall on the wrong side in every image if float32 rounded it.
  const double* exact_scale = nullptr;
  const double* exact_bias = nullptr;
  double exact_residual = 0.0;
};

// Inputs that lie one behind the other, a weight of 16 outputs for each.
struct Run {
  int64_t offset;  // elements from the window's first
  int64_t steps;   // of 4 codes (dot, pairs), 2 codes (wide) or one float
};

struct Share {  // of the output
  int64_t row_begin, row_end, block_begin, block_end;
};

// A convolution whose outputs all see all inputs.
struct Dense {
  const void* weights = nullptr;  // [block][step][16][4] int8, [16][2] int16 or [16] float
  int64_t block = 0;              // elements of weights for a block of outputs
  const Run* runs = nullptr;
  int64_t run_count = 0;
  int64_t flush = 0;  // pairs: steps after which 16-bit sums are widened; 0: never
  int64_t stride_y = 1, stride_x = 1;
  int64_t width = 0;  // of the output
  Plane in;           // at the first window's first input
  Finish finish;
};

// A convolution of every channel by itself.
struct Depthwise {
  // codes: [unit of 32 channels][column][quad of rows][4][8][4] int8, or null: then `plain`
  const int8_t* quads = nullptr;
  const float* plain = nullptr;  // [row][column][blocks * 16]
  int64_t channels = 0;          // padded to blocks
  int64_t kernel_y = 1, kernel_x = 1, dilation_y = 1, dilation_x = 1;
  int64_t stride_y = 1, stride_x = 1;
  int64_t width = 0;
  Plane in;
  Finish finish;
};

struct Pool {
  bool average = false, count_padding = false;
  int64_t kernel_y = 1, kernel_x = 1, dilation_y = 1, dilation_x = 1;
  int64_t stride_y = 1, stride_x = 1, top = 0, left = 0;
  int64_t in_height = 1, in_width = 1, width = 1;
  float zero = 0.0f;  // zero point of codes that are averaged
  Plane in;
  Finish finish;
};

// One or two maps, element by element; strides of 0 repeat.
struct Elementwise {
  bool multiply = false;
  int64_t width = 0;
  Plane in, other;  // other: no pointer, one input
  float in_step = 1.0f, in_zero = 0.0f, other_step = 1.0f, other_zero = 0.0f;
  Finish finish;
};

// A normalised image [channels, height, width] that becomes codes; of `finish`, what clips.
struct Image {
  const float* planes = nullptr;
  int64_t channels = 0, height = 0, width = 0;
  Finish finish;
};

// How codes and integer weights are multiplied.
enum class Product {
  kDot,    // 4 products summed in 32 bits by one instruction; weights of 8 bits
  kPairs,  // 2 products summed in 16 bits; weights that cannot overflow them
  kWide,   // 16 by 16 bits: anything
};

struct Kernels {
  const char* name;
  bool has_dot, has_pairs;
  int largest_dot_code;  // above it, codes do not fit kDot
  void (*dense_codes)(Product, const Dense&, const Share&);
  void (*dense_floats)(const Dense&, const Share&);
  bool (*has_quads)(int64_t kernel_y, int64_t kernel_x, int64_t stride_x);
  void (*depthwise)(const Depthwise&, const Share&);
  void (*image)(const Image&, int64_t row_begin, int64_t row_end);
  void (*pool)(const Pool&, const Share&);
  void (*elementwise)(const Elementwise&, const Share&);
};

// Those that this machine can run, fastest first; never empty.
const Kernels* const* instruction_sets(int* count);

}  // namespace hast::engine
