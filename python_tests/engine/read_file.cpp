// Reads files and prints a line for each: "ok", or why it was refused. For the tests.
//
//   read_file MODE FILE...
//
// file: a student.hast. dump: the same, then one line per fact of the network. json: a JSON text.
// sha256: the digest of the file instead of "ok".
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/json.h"
#include "engine/network.h"
#include "engine/sha256.h"

namespace {

using namespace hast::engine;

template <typename T>
void print_all(const char* name, const T& numbers) {
  std::printf(" %s", name);
  for (const auto number : numbers) std::printf(",%.9g", static_cast<double>(number));
}

void dump(const Network& network) {
  std::printf("input %" PRId64 " %" PRId64 " %" PRId64, network.channels, network.height,
              network.width);
  print_all("mean", network.mean);
  print_all("std", network.deviation);
  std::printf("\ndescribe %s\noutput %d\n", network.describe.c_str(), network.output);
  for (const std::string& name : network.classes) std::printf("class %s\n", name.c_str());
  for (const Value& value : network.values) {
    std::printf("value %s %" PRId64 " %" PRId64 " %" PRId64 " %d %.9g %d\n", value.name.c_str(),
                value.channels, value.height, value.width, value.grid.bits,
                static_cast<double>(value.grid.step), value.grid.zero_point);
  }
  for (const Step& step : network.steps) {
    std::printf("step %s %d %d %d %d %.9g %.9g", step.name.c_str(), static_cast<int>(step.op),
                step.residual, step.output, static_cast<int>(step.activation),
                static_cast<double>(step.a), static_cast<double>(step.b));
    print_all("inputs", step.inputs);
    print_all("kernel", step.kernel);
    print_all("stride", step.stride);
    print_all("dilation", step.dilation);
    print_all("padding", step.padding);
    std::printf(" groups %" PRId64 " count %d", step.groups, static_cast<int>(step.count_padding));
    print_all("weights", step.weights);
    print_all("float", step.float_weights);
    print_all("scale", step.scale);
    print_all("bias", step.bias);
    print_all("channels", step.channels);
    std::printf("\n");
  }
}

void read(const std::string& mode, const char* path) {
  std::ifstream stream(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(stream)),
                         std::istreambuf_iterator<char>());
  // Exactly as large as the file, so that a byte too far is found.
  const std::unique_ptr<uint8_t[]> data(new uint8_t[text.size()]);
  if (!text.empty()) std::memcpy(data.get(), text.data(), text.size());
  if (mode == "json") {
    parse_json({reinterpret_cast<const char*>(data.get()), text.size()});
  } else if (mode == "sha256") {
    Sha256 sha;  // in pieces of other sizes than its blocks
    for (size_t at = 0, piece = 1; at < text.size(); at += piece, piece = piece * 3 % 197 + 1) {
      piece = piece < text.size() - at ? piece : text.size() - at;
      sha.update(data.get() + at, piece);
    }
    std::printf("%s\n", sha.hex().c_str());
    return;
  } else {
    const Network network = parse(data.get(), text.size());
    if (mode == "dump") dump(network);
  }
  std::printf("ok\n");
}

}  // namespace

int main(int count, char** arguments) {
  for (int i = 2; i < count; ++i) {
    try {
      read(arguments[1], arguments[i]);
    } catch (const std::runtime_error& error) {
      std::printf("%s\n", error.what());
    }
    std::fflush(stdout);
  }
  return 0;
}
