// Python bindings of fake_quant.h and channel_range.h.
#include "bindings.h"
#include "channel_range.h"
#include "fake_quant.h"

namespace hast::bindings {

using namespace pybind11::literals;

namespace {

void fake_quantize(Address x, Address y, Address lower, Address upper, int dtype, int64_t outer,
                   int64_t channels, int64_t inner, int bits, bool real_zero_point, int activation,
                   int device, Address stream) {
  const char* op = "fake_quantize";
  const Checks check(op);
  const FakeQuantizeArgs args{pointer(x),
                              pointer(y),
                              pointer(lower),
                              pointer(upper),
                              check.dtype(dtype),
                              outer,
                              channels,
                              inner,
                              check.bits(bits),
                              real_zero_point,
                              check.activation(activation),
                              device,
                              pointer(stream)};
  if (check.tensor(outer, channels, inner)) {
    check.required("x", x);
    check.required("y", y);
    check.required("lower", lower);
    check.required("upper", upper);
  }
  call(op, &Backend::fake_quantize, args);
}

void fake_quantize_backward(Address x, Address dy, Address dx, Address lower, Address upper,
                            int dtype, int64_t outer, int64_t channels, int64_t inner, int bits,
                            bool real_zero_point, int activation, bool clipped, int device,
                            Address stream) {
  const char* op = "fake_quantize_backward";
  const Checks check(op);
  const FakeQuantizeBackwardArgs args{pointer(x),      pointer(dy),
                                      pointer(dx),     pointer(lower),
                                      pointer(upper),  check.dtype(dtype),
                                      outer,           channels,
                                      inner,           check.bits(bits),
                                      real_zero_point, check.activation(activation),
                                      clipped,         device,
                                      pointer(stream)};
  if (check.tensor(outer, channels, inner)) {
    check.required("x", x);
    check.required("dy", dy);
    check.required("dx", dx);
    if (clipped) {
      check.required("lower", lower);
      check.required("upper", upper);
    }
  }
  call(op, &Backend::fake_quantize_backward, args);
}

void update_range(Address x, Address state, Address scratch, Address counters, int dtype,
                  int64_t size, int activation, double beta, bool released, int device,
                  Address stream) {
  const char* op = "update_range";
  const Checks check(op);
  const UpdateRangeArgs args{pointer(x),
                             pointer(state),
                             pointer(scratch),
                             pointer<uint32_t>(counters),
                             check.dtype(dtype),
                             size,
                             check.activation(activation),
                             beta,
                             released,
                             device,
                             pointer(stream)};
  if (check.tensor(1, 1, size)) {
    check.required("x", x);
    check.required("state", state);
    check.required("scratch", scratch);
    if (device >= 0) check.required("counters", counters);
  }
  call(op, &Backend::update_range, args);
}

void fake_quantize_weights(const Addresses& weights, const Addresses& outputs,
                           const Addresses& ranges, const Sizes& rows, const Sizes& columns,
                           const Sizes& bits, int dtype, bool real_zero_point, int device,
                           Address stream) {
  const char* op = "fake_quantize_weights";
  const Checks check(op);
  check.length("outputs", outputs.size(), weights.size());
  check.length("ranges", ranges.size(), weights.size());
  check.length("rows", rows.size(), weights.size());
  check.length("columns", columns.size(), weights.size());
  check.length("bits", bits.size(), weights.size());
  std::vector<WeightTensor> tensors;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (check.tensor(rows[i], columns[i], 1)) {
      check.required("weights", weights[i]);
      check.required("outputs", outputs[i]);
    }
    // 0 for a range is the null pointer: the row's own minimum and maximum
    tensors.push_back({pointer(weights[i]), pointer(outputs[i]), pointer(ranges[i]), rows[i],
                       columns[i], check.bits(bits[i])});
  }
  call(op, &Backend::fake_quantize_weights,
       FakeQuantizeWeightsArgs{tensors.data(), static_cast<int64_t>(tensors.size()),
                               check.dtype(dtype), real_zero_point, device, pointer(stream)});
}

int64_t range_scratch(int64_t size, int device) {
  const Checks check("range_scratch");
  check.tensor(1, 1, size);
  return backend_of("range_scratch", device).range_scratch(size);
}

}  // namespace

void define_quantization(pybind11::module_& module) {
  module.def("fake_quantize", &fake_quantize, "x"_a, "y"_a, "lower"_a, "upper"_a, "dtype"_a,
             "outer"_a, "channels"_a, "inner"_a, "bits"_a, "real_zero_point"_a, "activation"_a,
             "device"_a, "stream"_a);
  module.def("fake_quantize_backward", &fake_quantize_backward, "x"_a, "dy"_a, "dx"_a, "lower"_a,
             "upper"_a, "dtype"_a, "outer"_a, "channels"_a, "inner"_a, "bits"_a,
             "real_zero_point"_a, "activation"_a, "clipped"_a, "device"_a, "stream"_a);
  module.def("update_range", &update_range, "x"_a, "state"_a, "scratch"_a, "counters"_a, "dtype"_a,
             "size"_a, "activation"_a, "beta"_a, "released"_a, "device"_a, "stream"_a);
  module.def("fake_quantize_weights", &fake_quantize_weights, "weights"_a, "outputs"_a, "ranges"_a,
             "rows"_a, "columns"_a, "bits"_a, "dtype"_a, "real_zero_point"_a, "device"_a,
             "stream"_a);
  module.def("range_scratch", &range_scratch, "size"_a, "device"_a);
}

}  // namespace hast::bindings
