// Python bindings of channel_attention.h and attention_loss.h.
#include "attention_loss.h"
#include "bindings.h"
#include "channel_attention.h"

namespace hast::bindings {

using namespace pybind11::literals;

namespace {

void check_maps(const Checks& check, size_t count, const Sizes& batches, const Sizes& channels,
                const Sizes& spatial, const std::vector<bool>& channels_last) {
  check.length("batches", batches.size(), count);
  check.length("channels", channels.size(), count);
  check.length("spatial", spatial.size(), count);
  check.length("channels_last", channels_last.size(), count);
}

void channel_attention(const Addresses& maps, const Addresses& energies, const Sizes& batches,
                       const Sizes& channels, const Sizes& spatial,
                       const std::vector<bool>& channels_last, int dtype, int device,
                       Address stream) {
  const char* op = "channel_attention";
  const Checks check(op);
  check_maps(check, maps.size(), batches, channels, spatial, channels_last);
  check.length("energies", energies.size(), maps.size());
  std::vector<AttentionMap> table;
  for (size_t i = 0; i < maps.size(); ++i) {
    if (check.tensor(batches[i], channels[i], spatial[i])) check.required("maps", maps[i]);
    if (batches[i] * channels[i] > 0) check.required("energies", energies[i]);
    table.push_back({pointer(maps[i]), pointer(energies[i]), nullptr, nullptr, batches[i],
                     channels[i], spatial[i], channels_last[i]});
  }
  call(op, &Backend::channel_attention,
       ChannelAttentionArgs{table.data(), static_cast<int64_t>(table.size()), nullptr,
                            check.dtype(dtype), device, pointer(stream)});
}

void channel_attention_backward(const Addresses& maps, const Addresses& coefficients,
                                const Addresses& gradients, const Sizes& batches,
                                const Sizes& channels, const Sizes& spatial,
                                const std::vector<bool>& channels_last, Address scale, int dtype,
                                int device, Address stream) {
  const char* op = "channel_attention_backward";
  const Checks check(op);
  check_maps(check, maps.size(), batches, channels, spatial, channels_last);
  check.length("coefficients", coefficients.size(), maps.size());
  check.length("gradients", gradients.size(), maps.size());
  std::vector<AttentionMap> table;
  for (size_t i = 0; i < maps.size(); ++i) {
    if (check.tensor(batches[i], channels[i], spatial[i])) {
      check.required("maps", maps[i]);
      check.required("coefficients", coefficients[i]);
      check.required("gradients", gradients[i]);
    }
    table.push_back({pointer(maps[i]), nullptr, pointer(coefficients[i]), pointer(gradients[i]),
                     batches[i], channels[i], spatial[i], channels_last[i]});
  }
  call(op, &Backend::channel_attention_backward,
       ChannelAttentionArgs{table.data(), static_cast<int64_t>(table.size()), pointer(scale),
                            check.dtype(dtype), device, pointer(stream)});
}

void attention_pair_loss(const Addresses& teacher, const Addresses& student,
                         const Addresses& teacher_gradient, const Addresses& student_gradient,
                         const Sizes& channels, const Sizes& spatial, int64_t batch, Address loss,
                         Address scratch, Address counters, int dtype, bool normalized, int device,
                         Address stream) {
  const char* op = "attention_pair_loss";
  const Checks check(op);
  const size_t layers = teacher.size();
  check.size("the number of layers", static_cast<int64_t>(layers), 1);
  check.size("batch", batch, 1);
  check.length("student", student.size(), layers);
  check.length("teacher_gradient", teacher_gradient.size(), layers);
  check.length("student_gradient", student_gradient.size(), layers);
  check.length("channels", channels.size(), layers);
  check.length("spatial", spatial.size(), layers);
  check.required("loss", loss);
  check.required("scratch", scratch);
  if (device >= 0) check.required("counters", counters);
  std::vector<AttentionPair> pairs;
  for (size_t i = 0; i < layers; ++i) {
    check.size("channels", channels[i], 1);
    check.size("spatial", spatial[i], 1);
    check.required("teacher", teacher[i]);
    check.required("student", student[i]);
    pairs.push_back({pointer(teacher[i]), pointer(student[i]), pointer(teacher_gradient[i]),
                     pointer(student_gradient[i]), channels[i], spatial[i]});
  }
  call(op, &Backend::attention_pair_loss,
       AttentionPairLossArgs{pairs.data(), static_cast<int64_t>(pairs.size()), batch, pointer(loss),
                             pointer(scratch), pointer<uint32_t>(counters), check.dtype(dtype),
                             normalized, device, pointer(stream)});
}

}  // namespace

void define_attention(pybind11::module_& module) {
  module.def("channel_attention", &channel_attention, "maps"_a, "energies"_a, "batches"_a,
             "channels"_a, "spatial"_a, "channels_last"_a, "dtype"_a, "device"_a, "stream"_a);
  module.def("channel_attention_backward", &channel_attention_backward, "maps"_a, "coefficients"_a,
             "gradients"_a, "batches"_a, "channels"_a, "spatial"_a, "channels_last"_a, "scale"_a,
             "dtype"_a, "device"_a, "stream"_a);
  module.def("attention_pair_loss", &attention_pair_loss, "teacher"_a, "student"_a,
             "teacher_gradient"_a, "student_gradient"_a, "channels"_a, "spatial"_a, "batch"_a,
             "loss"_a, "scratch"_a, "counters"_a, "dtype"_a, "normalized"_a, "device"_a,
             "stream"_a);
}

}  // namespace hast::bindings
