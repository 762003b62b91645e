// A strict reader of JSON (RFC 8259) in UTF-8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace hast::engine {

struct Member;

struct Json {
  using Array = std::vector<Json>;
  using Object = std::vector<Member>;  // by key, in order of bytes

  // int64_t: a number without fraction and exponent that fits; every other number is a double.
  std::variant<std::nullptr_t, bool, int64_t, double, std::string, Array, Object> value;
  std::string_view text;  // where it stands; valid as long as the text that was parsed

  // Null where this is of another type.
  template <typename T>
  const T* as() const {
    return std::get_if<T>(&value);
  }
  bool is_null() const { return value.index() == 0; }
};

struct Member {
  std::string key;
  Json value;
};

// The member `key`; null where there is none.
const Json* find(const Json::Object& object, std::string_view key);

// Throws std::runtime_error with the byte at which `text` is no JSON. Refused beside: a key twice,
// more than 64 levels, numbers beyond double, surrogates without their other half. Memory and time
// are proportional to the text.
Json parse_json(std::string_view text);

// The text as a JSON string in ASCII, as json.dumps of Python writes it. `text` is UTF-8.
std::string ascii_json(std::string_view text);

}  // namespace hast::engine
