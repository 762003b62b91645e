// Vector load and store with conversion to and from the type of the arithmetic.
#pragma once

#include "common/cuda_compat.h"
#include "common/dtype.h"

namespace hast {
inline namespace HAST_BACKEND {

template <typename T, int kSize>
struct alignas(sizeof(T) * kSize) Packed {
  T values[kSize];
};

template <int kSize, typename T>
__device__ __forceinline__ Packed<T, kSize> load_packed(const T* source) {
  return *reinterpret_cast<const Packed<T, kSize>*>(source);
}

template <int kSize, typename T>
__device__ __forceinline__ void store_packed(T* target, const Packed<T, kSize>& packed) {
  *reinterpret_cast<Packed<T, kSize>*>(target) = packed;
}

// Sends for what a thread will load first, before it makes the constants that it needs for that:
// they take as long as the trip to memory. Does nothing for null.
template <typename T>
__device__ __forceinline__ void prefetch([[maybe_unused]] const T* base,
                                         [[maybe_unused]] int64_t offset) {
#ifdef __CUDA_ARCH__
  if (base) asm volatile("prefetch.global.L2 [%0];" ::"l"(base + offset));
#endif
}

template <int kSize, typename T>
__device__ __forceinline__ void unpack(const Packed<T, kSize>& packed,
                                       Compute<T> (&values)[kSize]) {
#pragma unroll
  for (int i = 0; i < kSize; ++i) values[i] = to_compute(packed.values[i]);
}

// Two at a time: one conversion instruction instead of two where the device has it.
template <typename T>
__device__ __forceinline__ void convert_pair(float first, float second, T* target) {
  target[0] = from_compute<T>(first);
  target[1] = from_compute<T>(second);
}

#ifdef __CUDA_ARCH__
__device__ __forceinline__ void convert_pair(float first, float second, Half* target) {
  const __half2 pair = __floats2half2_rn(first, second);
  target[0].bits = __half_as_ushort(__low2half(pair));
  target[1].bits = __half_as_ushort(__high2half(pair));
}

__device__ __forceinline__ void convert_pair(float first, float second, BFloat16* target) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  target[0].bits = __bfloat16_as_ushort(__low2bfloat16(pair));
  target[1].bits = __bfloat16_as_ushort(__high2bfloat16(pair));
}
#endif

template <typename T, int kSize>
__device__ __forceinline__ Packed<T, kSize> pack(const Compute<T> (&values)[kSize]) {
  Packed<T, kSize> packed;
  if constexpr (sizeof(T) == 2 && kSize % 2 == 0) {
#pragma unroll
    for (int i = 0; i < kSize; i += 2) {
      convert_pair(values[i], values[i + 1], packed.values + i);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kSize; ++i) packed.values[i] = from_compute<T>(values[i]);
  }
  return packed;
}

template <int kSize, typename T>
__device__ __forceinline__ void load_vector(const T* source, Compute<T> (&values)[kSize]) {
  unpack(load_packed<kSize>(source), values);
}

template <int kSize, typename T>
__device__ __forceinline__ void store_vector(T* target, const Compute<T> (&values)[kSize]) {
  store_packed<kSize>(target, pack<T, kSize>(values));
}

#ifdef __CUDA_ARCH__
template <int kBytes>
struct Word;
template <>
struct Word<2> {
  using Type = unsigned short;
};
template <>
struct Word<4> {
  using Type = unsigned;
};
template <>
struct Word<8> {
  using Type = uint2;
};
template <>
struct Word<16> {
  using Type = uint4;
};
#endif

// As one instruction. For kernels in which the compiler takes store_vector() apart, element by
// element; it moves no load across this one, so a loop that batches loads wants the other.
template <int kSize, typename T>
__device__ __forceinline__ void store_vector_whole(T* target, const Compute<T> (&values)[kSize]) {
#ifdef __CUDA_ARCH__
  const Packed<T, kSize> packed = pack<T, kSize>(values);
  typename Word<static_cast<int>(sizeof packed)>::Type word;
  memcpy(&word, &packed, sizeof word);
  __stwb(reinterpret_cast<decltype(word)*>(target), word);
#else
  store_vector<kSize>(target, values);
#endif
}

}  // namespace HAST_BACKEND
}  // namespace hast
