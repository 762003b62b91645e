// run_file STUDENT.hast ISA THREADS COUNT < images (float32): logits to the standard output.
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <vector>

#include "engine/executor.h"

int main(int count, char** arguments) {
  if (count != 5) return 2;
  std::FILE* file = std::fopen(arguments[1], "rb");
  if (!file) return 2;
  std::vector<uint8_t> data;
  for (int c; (c = std::fgetc(file)) != EOF;) data.push_back(static_cast<uint8_t>(c));
  std::fclose(file);
  try {
    const hast::engine::Executor executor(hast::engine::parse(data.data(), data.size()),
                                          arguments[2]);
    const auto& n = executor.network();
    const size_t images = static_cast<size_t>(std::atoi(arguments[4]));
    std::vector<float> input(images * static_cast<size_t>(n.channels * n.height * n.width));
    if (std::fread(input.data(), 4, input.size(), stdin) != input.size()) return 2;
    const auto& output = n.values[static_cast<size_t>(n.output)];
    std::vector<float> logits(images * static_cast<size_t>(output.channels));
    executor.run(input.data(), static_cast<int64_t>(images), logits.data(),
                 std::atoi(arguments[3]));
    executor.trace(input.data());
    std::fwrite(logits.data(), 4, logits.size(), stdout);
  } catch (const std::runtime_error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
