// SHA-256 (FIPS 180-4).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace hast::engine {

class Sha256 {
 public:
  void update(const void* data, size_t size);

  // The digest of all updates as 64 lower-case hexadecimal digits. Call it once, at the end.
  std::string hex();

 private:
  void take_block(const uint8_t* block);

  uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint8_t waiting_[64] = {};  // the last size_ % 64 bytes
  uint64_t size_ = 0;
};

}  // namespace hast::engine
