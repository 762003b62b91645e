#include "engine/fields.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <stdexcept>
#include <utility>

namespace hast::engine {
namespace {

bool is_control(char c) { return static_cast<uint8_t>(c) < 0x20 || c == 0x7F; }

const Json::Object& object_of(const Json& json, const std::string& where) {
  const Json::Object* found = json.as<Json::Object>();
  if (!found) refuse(where, "it is no JSON object");
  return *found;
}

}  // namespace

void refuse(const std::string& where, const std::string& what) {
  throw std::runtime_error(where + ": " + what);
}

std::string quoted(std::string_view text) {
  constexpr size_t longest = 100;
  size_t kept = std::min(text.size(), longest);
  // Not within a character: behind the cut come no bytes that continue one.
  while (kept < text.size() && kept > 0 && (static_cast<uint8_t>(text[kept]) & 0xC0) == 0x80)
    --kept;
  std::string found = "'";
  for (const char c : text.substr(0, kept)) found += is_control(c) ? '?' : c;
  return found + (kept < text.size() ? "...'" : "'");
}

void check_one_line(std::string_view text, const std::string& where) {
  if (std::any_of(text.begin(), text.end(), is_control)) {
    refuse(where, quoted(text) + " has control characters");
  }
}

int64_t integer_of(const Json& json, const std::string& where, int64_t lowest, int64_t highest) {
  const int64_t* found = json.as<int64_t>();
  if (!found) refuse(where, "is no integer");
  if (*found < lowest || *found > highest) {
    refuse(where, "is " + std::to_string(*found) + ", not from " + std::to_string(lowest) + " to " +
                      std::to_string(highest));
  }
  return *found;
}

double real_of(const Json& json, const std::string& where) {
  const int64_t* integer = json.as<int64_t>();
  const double* real = json.as<double>();
  if (!integer && !real) refuse(where, "is no number");
  const double found = integer ? static_cast<double>(*integer) : *real;
  if (!(std::fabs(found) <= FLT_MAX)) refuse(where, "is beyond float32");
  return found;
}

Fields::Fields(const Json& json, std::string where)
    : object_(object_of(json, where)), where_(std::move(where)) {}

const Json* Fields::find(std::string_view key) {
  asked_.push_back(key);
  return engine::find(object_, key);
}

const Json& Fields::any(std::string_view key) {
  const Json* found = find(key);
  if (!found) fail("the field " + quoted(key) + " is missing");
  return *found;
}

int64_t Fields::integer(std::string_view key, int64_t lowest, int64_t highest) {
  return integer_of(any(key), of(key), lowest, highest);
}

bool Fields::boolean(std::string_view key) {
  const bool* found = any(key).as<bool>();
  if (!found) refuse(of(key), "is neither true nor false");
  return *found;
}

const std::string& Fields::name(std::string_view key) {
  const std::string* found = any(key).as<std::string>();
  if (!found || found->empty()) refuse(of(key), "is no text, or an empty one");
  check_one_line(*found, of(key));
  return *found;
}

int Fields::choice(std::string_view key, const Named* all, size_t count) {
  const std::string& given = name(key);
  std::string known;
  for (size_t i = 0; i < count; ++i) {
    if (all[i].name == given) return all[i].which;
    known += (known.empty() ? "" : ", ") + std::string(all[i].name);
  }
  fail(quoted(key) + " is " + quoted(given) + ", none of " + known);
}

const Json::Array& Fields::array(std::string_view key) {
  const Json::Array* found = any(key).as<Json::Array>();
  if (!found) refuse(of(key), "is no JSON array");
  return *found;
}

std::vector<int64_t> Fields::integers(std::string_view key, int64_t lowest, int64_t highest) {
  const std::string where = of(key) + ": an element";
  std::vector<int64_t> found;
  for (const Json& item : array(key)) found.push_back(integer_of(item, where, lowest, highest));
  return found;
}

std::vector<float> Fields::reals(std::string_view key) {
  const std::string where = of(key) + ": an element";
  std::vector<float> found;
  for (const Json& item : array(key)) found.push_back(static_cast<float>(real_of(item, where)));
  return found;
}

void Fields::finish() const {
  for (const Member& member : object_) {
    if (std::find(asked_.begin(), asked_.end(), member.key) == asked_.end()) {
      fail("there is a field " + quoted(member.key) + ", which this version does not know");
    }
  }
}

}  // namespace hast::engine
