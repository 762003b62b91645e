// A quantized network as the engine runs it: values, and the steps that make one from others.
//
// Everything that a kernel may rely on was checked by parse(), which says what a file must hold.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace hast::engine {

// real = step * (code - zero_point), codes from 0 to 2^bits - 1; zero_point may lie outside.
struct Grid {
  int bits = 0;  // 0: float32
  double step = 1.0;
  int zero_point = 0;

  bool quantized() const { return bits > 0; }
  int largest() const { return (1 << bits) - 1; }
  bool contains_zero() const { return zero_point >= 0 && zero_point <= largest(); }
};

struct Value {
  std::string name;
  int64_t channels = 0, height = 0, width = 0;  // of one image
  Grid grid;
};

enum class Activation {
  kNone,
  kClip,         // to [a, b]
  kLeakyRelu,    // x < 0: a * x
  kHardSwish,    // x * clip(x / 6 + 1/2, 0, 1)
  kHardSigmoid,  // clip(a * x + b, 0, 1)
  kSigmoid,
  kSilu,  // x * sigmoid(x)
  kTanh,
};

enum class Op {
  kConvolution,  // activation(scale[o] * sum(w * x) + bias[o] + residual), sums over real x
  kConvert,      // activation(x): between grids and float32
  kAdd,          // activation(a + b); b may be [C, 1, 1]
  kMultiply,     // activation(a * b); b may be [C, 1, 1]
  kMaxPool,      // padding never wins
  kAveragePool,
  kConcatenate,  // of channels
  kGather,       // output channel c is channel channels[c] of the input (-1: zeros) at every
                 // stride-th row and column
};

struct Step {
  Op op = Op::kConvert;
  std::string name;  // of the layer, for messages
  std::vector<int> inputs;
  int residual = -1;  // of a convolution: a value of the output's shape; -1: none
  int output = 0;
  Activation activation = Activation::kNone;
  float a = 0.0f, b = 0.0f;  // of the activation

  // Windows: convolution and pools. (rows, columns); padding is top, left, bottom, right.
  int64_t kernel[2] = {1, 1}, stride[2] = {1, 1}, dilation[2] = {1, 1}, padding[4] = {0, 0, 0, 0};

  // Convolution. Integer weights are code - zero_point, |w| <= 255; exactly one of both is filled.
  int64_t groups = 1;
  std::vector<int16_t> weights;      // [out, in / groups, rows, columns]
  std::vector<float> float_weights;  // the same
  std::vector<double> scale, bias;   // [out]

  bool count_padding = false;     // average pool: padding counts as zeros
  std::vector<int32_t> channels;  // gather
};

struct Network {
  int64_t channels = 0, height = 0, width = 0;  // of an image; value 0
  std::vector<float> mean, deviation;           // [channels]: (pixel / 255 - mean) / deviation
  std::vector<std::string> classes;             // names, or empty
  std::string describe;                         // JSON, as the writer gave it
  std::vector<Value> values;                    // 0: the images, float32
  std::vector<Step> steps;                      // in order; every value but 0 is made once
  int output = 0;                               // float32 logits [classes, 1, 1]
};

// The network of a file in memory. Throws std::runtime_error saying what is wrong: a checksum, a
// shape, a number out of bounds; nothing is read outside of [data, data + size).
Network parse(const uint8_t* data, size_t size);

}  // namespace hast::engine
