// The engine as a module of its own: numpy arrays in, numpy arrays out, no torch.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "engine/executor.h"
#include "engine/kernels.h"

namespace py = pybind11;

namespace {

using hast::engine::Executor;
using hast::engine::Network;
using hast::engine::Value;
using Floats = py::array_t<float, py::array::c_style>;
using Pixels = py::array_t<uint8_t, py::array::c_style>;

std::unique_ptr<Executor> open(const py::bytes& data, const std::string& isa) {
  const std::string_view bytes = data;
  try {
    return std::make_unique<Executor>(
        hast::engine::parse(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()), isa);
  } catch (const std::runtime_error& error) {
    throw py::value_error(error.what());
  }
}

std::string shape_of(const py::array& array) {
  std::string text = "(";
  for (py::ssize_t i = 0; i < array.ndim(); ++i)
    text += (i ? ", " : "") + std::to_string(array.shape(i));
  return text + ")";
}

void check(const py::array& images, const std::vector<int64_t>& one, const char* what) {
  bool fits = images.ndim() == 4;
  for (int i = 0; fits && i < 3; ++i) fits = images.shape(i + 1) == one[static_cast<size_t>(i)];
  if (fits) return;
  throw py::value_error(std::string(what) + " have shape " + shape_of(images) + "; expected [N, " +
                        std::to_string(one[0]) + ", " + std::to_string(one[1]) + ", " +
                        std::to_string(one[2]) + "]");
}

const Value& output(const Executor& e) {
  return e.network().values[static_cast<size_t>(e.network().output)];
}

// `work` is one of the executor's two ways to run.
template <typename T>
Floats logits_of(const Executor& e, const py::array_t<T, py::array::c_style>& images, int threads,
                 void (Executor::*work)(const T*, int64_t, float*, int) const) {
  Floats logits({images.shape(0), static_cast<py::ssize_t>(output(e).channels)});
  const T* from = images.data();
  float* to = logits.mutable_data();
  const int64_t count = images.shape(0);
  const py::gil_scoped_release released;
  (e.*work)(from, count, to, threads);
  return logits;
}

Floats run(const Executor& e, const Floats& images, int threads) {
  const Network& n = e.network();
  check(images, {n.channels, n.height, n.width}, "float images");
  return logits_of(e, images, threads, &Executor::run);
}

Floats run_pixels(const Executor& e, const Pixels& pixels, int threads) {
  const Network& n = e.network();
  check(pixels, {n.height, n.width, n.channels}, "pixels");
  return logits_of(e, pixels, threads, &Executor::run_pixels);
}

void check_one(const Network& n, const Floats& image) {
  const int64_t expected[3] = {n.channels, n.height, n.width};
  bool fits = image.ndim() == 3;
  for (int i = 0; fits && i < 3; ++i) fits = image.shape(i) == expected[i];
  if (!fits)
    throw py::value_error("an image has shape " + shape_of(image) + "; expected the network's");
}

std::vector<double> step_seconds(const Executor& e, const Floats& image) {
  check_one(e.network(), image);
  return e.step_seconds(image.data());
}

py::dict trace(const Executor& e, const Floats& image) {
  const Network& n = e.network();
  check_one(n, image);
  const auto values = e.trace(image.data());
  py::dict found;
  for (size_t i = 0; i < values.size(); ++i) {
    const Value& value = n.values[i];
    Floats array({value.channels, value.height, value.width});
    std::copy(values[i].begin(), values[i].end(), array.mutable_data());
    found[py::str(value.name)] = array;
  }
  return found;
}

}  // namespace

PYBIND11_MODULE(_engine, m, py::mod_gil_not_used()) {
  m.doc() = "Quantized networks on the CPU; see hast_cuda/deploy.";
  m.def("instruction_sets", [] {
    int count = 0;
    const hast::engine::Kernels* const* sets = hast::engine::instruction_sets(&count);
    std::vector<std::string> names;
    for (int i = 0; i < count; ++i) names.emplace_back(sets[i]->name);
    return names;
  });
  py::class_<Executor>(m, "Engine")
      .def(py::init(&open), py::arg("data"), py::arg("isa") = "")
      .def("run", &run, py::arg("images").noconvert(), py::arg("threads") = 0)
      .def("run", &run_pixels, py::arg("images").noconvert(), py::arg("threads") = 0)
      .def("trace", &trace, py::arg("image").noconvert())
      .def("step_seconds", &step_seconds, py::arg("image").noconvert())
      .def_property_readonly("input_shape",
                             [](const Executor& e) {
                               const Network& n = e.network();
                               return py::make_tuple(n.channels, n.height, n.width);
                             })
      .def_property_readonly("classes", [](const Executor& e) { return e.network().classes; })
      .def_property_readonly("describe", [](const Executor& e) { return e.network().describe; })
      .def_property_readonly("isa", &Executor::isa)
      .def_property_readonly("weight_bytes", &Executor::weight_bytes)
      .def_property_readonly("workspace_bytes", &Executor::workspace_bytes)
      .def_property_readonly("steps", [](const Executor& e) {
        std::vector<std::string> names;
        for (const auto& step : e.network().steps) names.push_back(step.name);
        return names;
      });
}
