#include "engine/hast_engine.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "engine/executor.h"
#include "engine/network.h"

// In the global namespace, as C sees it.
struct hast_engine {
  hast::engine::Executor executor;
};

namespace {

using hast::engine::Executor;
using hast::engine::Network;

// As much of `message` as fits, not cut within a character of UTF-8.
void report(const char* message, char* error, size_t error_size) {
  if (!error || error_size == 0) return;
  size_t kept = std::min(std::strlen(message), error_size - 1);
  while (kept > 0 && (static_cast<unsigned char>(message[kept]) & 0xC0) == 0x80) --kept;
  std::memcpy(error, message, kept);
  error[kept] = '\0';
}

const hast::engine::Value& logits_of(const Network& network) {
  return network.values[static_cast<size_t>(network.output)];
}

// Whether `count` images and their logits are within memory, counted as float32.
bool addressable(const Network& network, size_t count) {
  const uint64_t image = static_cast<uint64_t>(network.channels) *
                         static_cast<uint64_t>(network.height) *
                         static_cast<uint64_t>(network.width);
  const uint64_t larger = std::max(image, static_cast<uint64_t>(logits_of(network).channels));
  return count <= static_cast<uint64_t>(std::numeric_limits<ptrdiff_t>::max()) / 4 / larger;
}

// No exception may leave: C has none.
template <typename Run>
int guarded(const hast_engine* engine, const void* input, size_t count, const float* logits,
            int threads, const Run& run) {
  if (!engine || threads < 0) return HAST_ENGINE_BAD_ARGUMENT;
  if (count == 0) return HAST_ENGINE_OK;
  if (!input || !logits || !addressable(engine->executor.network(), count)) {
    return HAST_ENGINE_BAD_ARGUMENT;
  }
  try {
    run(engine->executor, static_cast<int64_t>(count));
    return HAST_ENGINE_OK;
  } catch (const std::bad_alloc&) {
    return HAST_ENGINE_OUT_OF_MEMORY;
  } catch (...) {
    return HAST_ENGINE_FAILED;
  }
}

}  // namespace

hast_engine* hast_engine_open(const void* data, size_t size, char* error, size_t error_size) {
  report("", error, error_size);
  try {
    if (!data) throw std::invalid_argument("data is a null pointer");
    Network network = hast::engine::parse(static_cast<const uint8_t*>(data), size);
    return new hast_engine{Executor(std::move(network), "")};
  } catch (const std::bad_alloc&) {
    report("there is not enough memory for the network", error, error_size);
  } catch (const std::exception& failure) {
    report(failure.what(), error, error_size);
  } catch (...) {
    report("an unknown error", error, error_size);
  }
  return nullptr;
}

void hast_engine_close(hast_engine* engine) { delete engine; }

void hast_engine_input_shape(const hast_engine* engine, size_t shape[3]) {
  const Network& network = engine->executor.network();
  shape[0] = static_cast<size_t>(network.channels);
  shape[1] = static_cast<size_t>(network.height);
  shape[2] = static_cast<size_t>(network.width);
}

size_t hast_engine_classes(const hast_engine* engine) {
  return static_cast<size_t>(logits_of(engine->executor.network()).channels);
}

const char* hast_engine_class_name(const hast_engine* engine, size_t index) {
  const Network& network = engine->executor.network();
  return index < network.classes.size() ? network.classes[index].c_str() : nullptr;
}

int hast_engine_run(const hast_engine* engine, const float* images, size_t count, float* logits,
                    int threads) {
  return guarded(engine, images, count, logits, threads,
                 [&](const Executor& e, int64_t n) { e.run(images, n, logits, threads); });
}

int hast_engine_run_pixels(const hast_engine* engine, const unsigned char* pixels, size_t count,
                           float* logits, int threads) {
  return guarded(engine, pixels, count, logits, threads,
                 [&](const Executor& e, int64_t n) { e.run_pixels(pixels, n, logits, threads); });
}
