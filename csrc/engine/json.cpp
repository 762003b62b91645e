#include "engine/json.h"

#include <algorithm>
#include <limits>
#include <locale>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace hast::engine {
namespace {

constexpr int kDeepest = 64;  // levels: a text of brackets must not exhaust the stack

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// One code point of UTF-8 at text[at], which moves behind it; -1 where it is malformed: overlong,
// a surrogate, beyond U+10FFFF, cut.
int32_t next_code_point(std::string_view text, size_t& at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(at++);
  if (first < 0x80) return first;
  const int more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : 1;
  if (first < 0xC2 || first > 0xF4) return -1;
  int32_t code = first & (0x3F >> more);
  for (int i = 0; i < more; ++i, ++at) {
    if (at >= text.size() || (byte(at) & 0xC0) != 0x80) return -1;
    code = code << 6 | (byte(at) & 0x3F);
  }
  constexpr int32_t smallest[] = {0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
  return code < smallest[more] || code > 0x10FFFF || surrogate ? -1 : code;
}

void append_utf8(std::string& text, int32_t code) {
  const auto put = [&](int32_t byte) { text.push_back(static_cast<char>(byte)); };
  const auto put_more = [&](int shift) { put(0x80 | (code >> shift & 0x3F)); };
  if (code < 0x80) return put(code);
  if (code < 0x800) {
    put(0xC0 | code >> 6);
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put_more(6);
  } else {
    put(0xF0 | code >> 18);
    put_more(12);
    put_more(6);
  }
  put_more(0);
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Json document() {
    skip_space();
    Json found = value(0);
    skip_space();
    if (at_ != text_.size()) fail("something follows the value");
    return found;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw std::runtime_error("no valid JSON at byte " + std::to_string(at_) + ": " + what);
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  bool accept(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  void skip_space() {
    while (at_ < text_.size() &&
           std::string_view(" \t\r\n").find(text_[at_]) != std::string::npos) {
      ++at_;
    }
  }

  Json value(int depth) {
    if (depth > kDeepest) fail("more than " + std::to_string(kDeepest) + " levels");
    const size_t start = at_;
    Json found;
    const char c = peek();
    if (c == '{') {
      found.value = object(depth);
    } else if (c == '[') {
      found.value = array(depth);
    } else if (c == '"') {
      found.value = string();
    } else if (c == '-' || is_digit(c)) {
      number(found);
    } else if (word("true")) {
      found.value = true;
    } else if (word("false")) {
      found.value = false;
    } else if (!word("null")) {
      fail("a value is missing");
    }
    found.text = text_.substr(start, at_ - start);
    return found;
  }

  bool word(std::string_view expected) {
    if (text_.substr(at_, expected.size()) != expected) return false;
    at_ += expected.size();
    return true;
  }

  Json::Array array(int depth) {
    Json::Array items;
    ++at_;
    skip_space();
    if (accept(']')) return items;
    do {
      skip_space();
      items.push_back(value(depth + 1));
      skip_space();
    } while (accept(','));
    if (!accept(']')) fail("expected ',' or ']'");
    return items;
  }

  Json::Object object(int depth) {
    Json::Object members;
    ++at_;
    skip_space();
    if (accept('}')) return members;
    do {
      skip_space();
      if (peek() != '"') fail("expected a key in double quotes");
      std::string key = string();
      skip_space();
      if (!accept(':')) fail("expected ':'");
      skip_space();
      members.push_back({std::move(key), value(depth + 1)});
      skip_space();
    } while (accept(','));
    if (!accept('}')) fail("expected ',' or '}'");
    const auto before = [](const Member& a, const Member& b) { return a.key < b.key; };
    const auto equal = [](const Member& a, const Member& b) { return a.key == b.key; };
    std::sort(members.begin(), members.end(), before);
    const auto twice = std::adjacent_find(members.begin(), members.end(), equal);
    if (twice != members.end()) {
      fail("the object that ends here has the key " + ascii_json(twice->key.substr(0, 60)) +
           " twice");
    }
    return members;
  }

  std::string string() {
    std::string found;
    ++at_;
    for (;;) {
      if (at_ >= text_.size()) fail("a string does not end");
      const char c = text_[at_];
      if (c == '"') break;
      if (static_cast<uint8_t>(c) < 0x20) fail("a control character in a string");
      if (c == '\\') {
        escape(found);
        continue;
      }
      const size_t start = at_;
      if (next_code_point(text_, at_) < 0) {
        at_ = start;
        fail("no valid UTF-8");
      }
      found.append(text_.substr(start, at_ - start));
    }
    ++at_;
    return found;
  }

  void escape(std::string& found) {
    ++at_;
    const char c = peek();
    if (c == 'u') {
      int32_t code = hex_digits();
      if (code >= 0xD800 && code <= 0xDBFF) {
        const bool pair = text_.substr(at_, 2) == "\\u";
        const int32_t low = pair ? (++at_, hex_digits()) : 0;
        if (low < 0xDC00 || low > 0xDFFF) fail("half of a surrogate pair");
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      } else if (code >= 0xDC00 && code <= 0xDFFF) {
        fail("half of a surrogate pair");
      }
      append_utf8(found, code);
      return;
    }
    const size_t which = std::string_view("\"\\/bfnrt").find(c);
    if (at_ >= text_.size() || which == std::string::npos) fail("an unknown escape");
    found.push_back("\"\\/\b\f\n\r\t"[which]);
    ++at_;
  }

  // Of \uXXXX, from its u on.
  int32_t hex_digits() {
    ++at_;
    int32_t code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = peek();
      const int digit = is_digit(c)            ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) fail("\\u needs four hexadecimal digits");
      code = code << 4 | digit;
    }
    return code;
  }

  void digits() {
    if (!is_digit(peek())) fail("a number without digits");
    while (is_digit(peek())) ++at_;
  }

  void number(Json& found) {
    const size_t start = at_;
    accept('-');
    if (!accept('0')) digits();
    if (is_digit(peek())) fail("a number that begins with 0");
    bool whole = true;
    if (accept('.')) {
      whole = false;
      digits();
    }
    if (accept('e') || accept('E')) {
      whole = false;
      if (!accept('+')) accept('-');
      digits();
    }
    const std::string_view token = text_.substr(start, at_ - start);
    int64_t integer = 0;
    if (whole && to_integer(token, integer)) {
      found.value = integer;
      return;
    }
    // Not strtod: a program may have set a locale with commas.
    std::istringstream stream{std::string(token)};
    stream.imbue(std::locale::classic());
    double real = 0;
    if (!(stream >> real)) {
      at_ = start;
      fail("a number beyond double");
    }
    found.value = real;
  }

  static bool to_integer(std::string_view token, int64_t& integer) {
    constexpr int64_t lowest = std::numeric_limits<int64_t>::min();
    const bool negative = token[0] == '-';
    int64_t sum = 0;  // negative, as there is one more of these
    for (const char c : token.substr(negative ? 1 : 0)) {
      const int digit = c - '0';
      if (sum < (lowest + digit) / 10) return false;
      sum = sum * 10 - digit;
    }
    if (!negative && sum == lowest) return false;
    integer = negative ? sum : -sum;
    return true;
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

const Json* find(const Json::Object& object, std::string_view key) {
  const auto before = [](const Member& member, std::string_view wanted) {
    return member.key < wanted;
  };
  const auto at = std::lower_bound(object.begin(), object.end(), key, before);
  return at != object.end() && at->key == key ? &at->value : nullptr;
}

Json parse_json(std::string_view text) { return Parser(text).document(); }

std::string ascii_json(std::string_view text) {
  std::string found = "\"";
  const auto put_unit = [&](int32_t unit) {
    found += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) found += "0123456789abcdef"[unit >> shift & 15];
  };
  for (size_t at = 0; at < text.size();) {
    const int32_t code = next_code_point(text, at);
    const size_t named = std::string_view("\"\\\b\f\n\r\t").find(static_cast<char>(code));
    if (code >= 0 && code < 0x80 && named != std::string::npos) {
      found += '\\';
      found += "\"\\bfnrt"[named];
    } else if (code >= 0x20 && code < 0x7F) {
      found += static_cast<char>(code);
    } else if (code < 0x10000) {
      put_unit(code < 0 ? 0xFFFD : code);
    } else {
      put_unit(0xD800 + ((code - 0x10000) >> 10));
      put_unit(0xDC00 + ((code - 0x10000) & 0x3FF));
    }
  }
  return found + '"';
}

}  // namespace hast::engine
