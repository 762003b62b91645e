// JSON objects read field by field, strictly: every mistake becomes a message that names the place.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/json.h"

namespace hast::engine {

// "a: b" as a std::runtime_error.
[[noreturn]] void refuse(const std::string& where, const std::string& what);

// 'text' for a message: on one line, and not longer than a hundred bytes.
std::string quoted(std::string_view text);

// The number, of which `where` says what it is. A real is finite as a float32 too.
int64_t integer_of(const Json& json, const std::string& where, int64_t lowest, int64_t highest);
double real_of(const Json& json, const std::string& where);

struct Named {
  std::string_view name;
  int which;
};

class Fields {
 public:
  // `json` outlives this; `where` begins every message.
  Fields(const Json& json, std::string where);

  const std::string& where() const { return where_; }
  void rename(std::string where) { where_ = std::move(where); }

  // The field, which must be there, as what it must be.
  const Json& any(std::string_view key);
  const Json* find(std::string_view key);  // null where it is not there
  int64_t integer(std::string_view key, int64_t lowest, int64_t highest);
  bool boolean(std::string_view key);
  const std::string& name(std::string_view key);  // a text of one line that is not empty
  const Json::Array& array(std::string_view key);
  std::vector<int64_t> integers(std::string_view key, int64_t lowest, int64_t highest);
  std::vector<float> reals(std::string_view key);
  // Which of `all` the text names.
  template <size_t n>
  int choice(std::string_view key, const Named (&all)[n]) {
    return choice(key, all, n);
  }
  // As many integers as `target` has.
  template <size_t n>
  void fill(std::string_view key, int64_t (&target)[n], int64_t lowest, int64_t highest) {
    const std::vector<int64_t> found = integers(key, lowest, highest);
    if (found.size() != n) {
      fail(quoted(key) + " has " + std::to_string(found.size()) + " numbers instead of " +
           std::to_string(n));
    }
    for (size_t i = 0; i < n; ++i) target[i] = found[i];
  }

  // Refuses fields that nobody asked for.
  void finish() const;

  [[noreturn]] void fail(const std::string& what) const { refuse(where_, what); }

 private:
  int choice(std::string_view key, const Named* all, size_t count);
  std::string of(std::string_view key) const { return where_ + ": " + quoted(key); }

  const Json::Object& object_;
  std::string where_;
  std::vector<std::string_view> asked_;
};

// Throws where `text` has control characters.
void check_one_line(std::string_view text, const std::string& where);

}  // namespace hast::engine
