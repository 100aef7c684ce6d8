// Stores that bypass the caches, for outputs too large to be found there again.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__unix__)
#include <unistd.h>
#endif

namespace fused_acts::cpu {

// Whether operands of so many bytes exceed the last-level cache.
inline bool exceeds_cache(int64_t bytes) {
#if defined(__x86_64__) && defined(_SC_LEVEL3_CACHE_SIZE)
  static const int64_t cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
  return bytes > (cache > 0 ? cache : int64_t{32} << 20);
#else
  static_cast<void>(bytes);
  return false;
#endif
}

// memcpy with such stores where target is aligned to them.
inline void stream_copy(void* target, const void* source, int64_t bytes) {
#if defined(__x86_64__)
  auto* to = static_cast<char*>(target);
  const auto* from = static_cast<const char*>(source);
  constexpr int64_t kWidth = sizeof(__m128i);
  const int64_t head = -reinterpret_cast<intptr_t>(to) & (kWidth - 1);
  if (head < bytes) {
    std::memcpy(to, from, head);
    int64_t i = head;
    for (; i + kWidth <= bytes; i += kWidth)
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + i), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
    std::memcpy(to + i, from + i, bytes - i);
    return;
  }
#endif
  std::memcpy(target, source, bytes);
}

// Orders streamed stores before whatever tells other threads that they are done.
inline void finish_streaming() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace fused_acts::cpu
