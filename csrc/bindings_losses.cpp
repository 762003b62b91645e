// Python bindings of distillation_loss.h, hard_sample_loss.h and plateau.h.
#include "bindings.h"
#include "distillation_loss.h"
#include "hard_sample_loss.h"
#include "plateau.h"

namespace hast::bindings {

using namespace pybind11::literals;

namespace {

void check_rows(const Checks& check, int64_t rows, int64_t classes) {
  check.size("rows", rows, 1);
  check.size("classes", classes, 1);
  check.tensor(rows, classes, 1);
}

void distillation_loss(Address teacher, Address student, Address teacher_gradient,
                       Address student_gradient, Address loss, Address scratch, Address counters,
                       double temperature, int dtype, int64_t rows, int64_t classes, int device,
                       Address stream) {
  const char* op = "distillation_loss";
  const Checks check(op);
  check_rows(check, rows, classes);
  check.required("teacher", teacher);
  check.required("student", student);
  check.required("loss", loss);
  check.required("scratch", scratch);
  if (device >= 0) check.required("counters", counters);
  call(op, &Backend::distillation_loss,
       DistillationLossArgs{pointer(teacher), pointer(student), pointer(teacher_gradient),
                            pointer(student_gradient), pointer(loss), pointer<double>(scratch),
                            pointer<uint32_t>(counters), temperature, check.dtype(dtype), rows,
                            classes, device, pointer(stream)});
}

void hard_sample_loss(Address logits, Address labels, Address gradient, Address loss,
                      Address difficulty, Address scratch, Address counters, double exponent,
                      bool detach, int dtype, int64_t rows, int64_t classes, int device,
                      Address stream) {
  const char* op = "hard_sample_loss";
  const Checks check(op);
  check_rows(check, rows, classes);
  check.required("logits", logits);
  check.required("labels", labels);
  check.required("loss", loss);
  check.required("difficulty", difficulty);
  check.required("scratch", scratch);
  if (device >= 0) check.required("counters", counters);
  call(op, &Backend::hard_sample_loss,
       HardSampleLossArgs{pointer(logits), pointer<int64_t>(labels), pointer(gradient),
                          pointer(loss), pointer(difficulty), pointer<double>(scratch),
                          pointer<uint32_t>(counters), exponent, detach, check.dtype(dtype), rows,
                          classes, device, pointer(stream)});
}

void plateau_step(Address state, Address rate, Address loss, double patience, double factor,
                  double threshold, double minimum, int dtype, int device, Address stream) {
  const char* op = "plateau_step";
  const Checks check(op);
  check.required("state", state);
  check.required("rate", rate);
  check.required("loss", loss);
  call(op, &Backend::plateau_step,
       PlateauStepArgs{pointer<double>(state), pointer<float>(rate), pointer(loss), patience,
                       factor, threshold, minimum, check.dtype(dtype), device, pointer(stream)});
}

}  // namespace

void define_losses(pybind11::module_& module) {
  module.def("distillation_loss", &distillation_loss, "teacher"_a, "student"_a,
             "teacher_gradient"_a, "student_gradient"_a, "loss"_a, "scratch"_a, "counters"_a,
             "temperature"_a, "dtype"_a, "rows"_a, "classes"_a, "device"_a, "stream"_a);
  module.def("hard_sample_loss", &hard_sample_loss, "logits"_a, "labels"_a, "gradient"_a, "loss"_a,
             "difficulty"_a, "scratch"_a, "counters"_a, "exponent"_a, "detach"_a, "dtype"_a,
             "rows"_a, "classes"_a, "device"_a, "stream"_a);
  module.def("plateau_step", &plateau_step, "state"_a, "rate"_a, "loss"_a, "patience"_a, "factor"_a,
             "threshold"_a, "minimum"_a, "dtype"_a, "device"_a, "stream"_a);
}

}  // namespace hast::bindings
