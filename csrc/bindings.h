// What the binding files share: the binding of an Args struct, whose members are named once here
// and passed by keyword; argument checks (sizes, codes, list lengths and required pointers, before
// any kernel sees them; violations raise ValueError, shapes and devices were checked in Python);
// and the call of a backend without the GIL.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <stdint.h>

#include <functional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "backend.h"
#include "common/activation.h"
#include "common/dtype.h"

namespace hast::bindings {

class Checks {
 public:
  explicit Checks(const char* op) : op_(op) {}

  [[noreturn]] void fail(const std::string& message) const {
    throw std::invalid_argument("hast_cuda." + std::string(op_) + ": " + message);
  }

  [[noreturn]] void mistyped(const std::string& message) const {
    throw pybind11::type_error("hast_cuda." + std::string(op_) + ": " + message);
  }

  void code(const char* name, int code, int count) const {
    if (code >= 0 && code < count) return;
    fail("unknown " + std::string(name) + " code " + std::to_string(code) + ", expected 0.." +
         std::to_string(count - 1));
  }

  void bits(int bits) const {
    if (bits < 2 || bits > 8) fail("bits must be in 2..8, got " + std::to_string(bits));
  }

  void size(const char* name, int64_t size, int64_t least = 0) const {
    if (size >= least) return;
    fail(std::string(name) + " must be at least " + std::to_string(least) + ", got " +
         std::to_string(size));
  }

  // Whether there is anything to do; the product of the sizes must be a valid number of elements.
  bool tensor(int64_t outer, int64_t channels, int64_t inner) const {
    size("outer", outer);
    size("channels", channels);
    size("inner", inner);
    int64_t elements = 0;
    if (__builtin_mul_overflow(outer, channels, &elements) ||
        __builtin_mul_overflow(elements, inner, &elements) || elements > INT64_MAX / 8) {
      fail("the tensor has too many elements");
    }
    return elements > 0;
  }

  void required(const char* name, const void* address) const {
    if (!address) fail(std::string(name) + " is a null pointer");
  }

  // Counters are CUDA's alone.
  template <typename Args>
  void counters(const Args& args) const {
    if (args.device >= 0) required("counters", args.counters);
  }

  void length(const char* name, size_t length, size_t expected) const {
    if (length == expected) return;
    fail(std::string(name) + " has " + std::to_string(length) + " entries, expected " +
         std::to_string(expected));
  }

 private:
  const char* op_;
};

inline const Backend& backend_of(const char* op, int device) {
  if (device == -1) return cpu_backend();
  if (device < -1)
    Checks(op).fail("device must be -1 or a CUDA index, got " + std::to_string(device));
  if (const Backend* backend = cuda_backend()) return *backend;
  throw std::runtime_error("hast_cuda." + std::string(op) +
                           ": built without CUDA, see hast_cuda.build_info()");
}

// What Python passes for a member: addresses and codes are integers.
template <typename Member>
using Wire = std::conditional_t<std::is_pointer_v<Member>, uintptr_t,
                                std::conditional_t<std::is_enum_v<Member>, int, Member>>;

template <typename Code>
constexpr int kCodes = 0;  // how many there are
template <>
inline constexpr int kCodes<DType> = 4;
template <>
inline constexpr int kCodes<Activation> = 3;

// A member of an Args struct under its name in Python.
template <typename Args, typename Member>
struct Field {
  const char* name;
  Member Args::* member;
  PyObject* key;  // the name, interned and kept as long as the module

  Field(const char* text, Member Args::* place)
      : name(text), member(place), key(PyUnicode_InternFromString(text)) {}

  // The argument of this name, as a Value.
  template <typename Value = Wire<Member>>
  Value of(const Checks& check, PyObject* given) const {
    PyObject* value = PyDict_GetItemWithError(given, key);
    if (!value) check.mistyped(std::string(name) + " is missing");
    pybind11::detail::make_caster<Value> caster;
    if (!caster.load(value, true)) check.mistyped(std::string(name) + " has another type");
    return pybind11::detail::cast_op<Value>(std::move(caster));
  }

  void set(const Checks& check, Args& args, Wire<Member> value) const {
    if constexpr (std::is_pointer_v<Member>) {
      args.*member = reinterpret_cast<Member>(value);
    } else if constexpr (std::is_enum_v<Member>) {
      static_assert(kCodes<Member> > 0, "every enum that is passed has its number of codes");
      check.code(name, value, kCodes<Member>);
      args.*member = static_cast<Member>(value);
    } else {
      args.*member = value;
    }
  }

  void take(const Checks& check, Args& args, PyObject* given) const {
    set(check, args, of(check, given));
  }

  // A list for this member of every row of a table, whose first column says how many there are.
  void take_column(const Checks& check, std::vector<Args>& table, PyObject* given,
                   bool first) const {
    const auto values = of<std::vector<Wire<Member>>>(check, given);
    if (first) table.resize(values.size(), Args{});
    check.length(name, values.size(), table.size());
    for (size_t i = 0; i < values.size(); ++i) set(check, table[i], values[i]);
  }
};

// The member of `Args`, which the binding file says with a `using` before.
#define HAST_FIELD(member) \
  ::hast::bindings::Field { #member, &Args::member }

template <typename... Names>
std::string joined(const char* first, Names... names) {
  return (std::string(first) + ... + (std::string(", ") + names));
}

// Members of one row of a table; Python passes a list for each.
template <typename Row, typename... Cells>
struct Columns {
  std::tuple<Field<Row, Cells>...> fields;

  explicit Columns(Field<Row, Cells>... columns) : fields(columns...) {}

  std::vector<Row> rows(const Checks& check, PyObject* given) const {
    std::vector<Row> table;
    bool first = true;
    std::apply(
        [&](const auto&... column) {
          ((column.take_column(check, table, given, first), first = false), ...);
        },
        fields);
    return table;
  }

  std::string names() const {
    return std::apply([](const auto&... column) { return joined(column.name...); }, fields);
  }
};

inline void raise(const char* op, const char* error) {
  if (error) throw std::runtime_error("hast_cuda." + std::string(op) + ": " + error);
}

template <typename Args>
void run(const char* op, const char* (*Backend::*function)(const Args&), const Args& args) {
  const Backend& backend = backend_of(op, args.device);
  const char* error = nullptr;
  {
    const pybind11::gil_scoped_release release;
    error = (backend.*function)(args);
  }
  raise(op, error);
}

template <typename Args>
using Check = void (*)(const Checks&, const Args&);
template <typename Args>
using Operation = const char* (*Backend::*)(const Args&);

// An op as a function of the module; kept as long as the module.
struct Entry {
  const char* op;
  std::string names;  // of its arguments, in order: the docstring
  Py_ssize_t count;
  std::function<void(const Checks&, PyObject*)> call;
  PyMethodDef method;
};

inline PyObject* enter(PyObject* self, PyObject* positional, PyObject* given) {
  const auto& entry = *static_cast<const Entry*>(PyCapsule_GetPointer(self, nullptr));
  const Checks check(entry.op);
  try {
    if (PyTuple_GET_SIZE(positional) > 0 || !given || PyDict_GET_SIZE(given) > entry.count) {
      check.mistyped("expected, by keyword: " + entry.names);
    }
    entry.call(check, given);
    Py_RETURN_NONE;
  } catch (...) {
    pybind11::detail::try_translate_exceptions();
    return nullptr;
  }
}

// Python's own calling convention with a dict of keywords. pybind11's named arguments cost several
// times as much: it searches all names of a call for each, and there are thirty.
template <typename Call>
void define_keywords(pybind11::module_& module, const char* op, size_t count,
                     const std::string& names, Call call) {
  auto* entry = new Entry{op, names, static_cast<Py_ssize_t>(count), call, {}};
  const auto function = reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(enter));
  entry->method = {op, function, METH_VARARGS | METH_KEYWORDS, entry->names.c_str()};
  const pybind11::capsule self(entry);
  module.attr(op) =
      pybind11::reinterpret_steal<pybind11::object>(PyCFunction_New(&entry->method, self.ptr()));
}

// An op on the members of Args.
template <typename Args, typename... Members>
void define(pybind11::module_& module, const char* op, Operation<Args> operation,
            Check<Args> validate, Field<Args, Members>... fields) {
  define_keywords(module, op, sizeof...(fields), joined(fields.name...),
                  [=](const Checks& check, PyObject* given) {
                    Args args = {};
                    (fields.take(check, args, given), ...);
                    validate(check, args);
                    run(op, operation, args);
                  });
}

// An op on a table of rows and the other members of Args.
template <typename Args, typename Row, typename... Cells, typename... Members>
void define(pybind11::module_& module, const char* op, Operation<Args> operation,
            Check<Args> validate, const Row* Args::* table, Columns<Row, Cells...> columns,
            Field<Args, Members>... fields) {
  define_keywords(module, op, sizeof...(Cells) + sizeof...(fields),
                  columns.names() + ", " + joined(fields.name...),
                  [=](const Checks& check, PyObject* given) {
                    const std::vector<Row> rows = columns.rows(check, given);
                    Args args = {};
                    args.*table = rows.data();
                    args.count = static_cast<int64_t>(rows.size());
                    (fields.take(check, args, given), ...);
                    validate(check, args);
                    run(op, operation, args);
                  });
}

void define_quantization(pybind11::module_& module);
void define_batch_norm(pybind11::module_& module);
void define_losses(pybind11::module_& module);

}  // namespace hast::bindings
