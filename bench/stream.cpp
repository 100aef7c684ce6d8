// The machine's own memory bandwidth: copy (1 read, 1 write) and mix (2 reads, 1 write), with plain
// and with non-temporal stores. The work is split by torch's own thread pool, so that the limit is
// measured under the same conditions as the operators beside it.
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

extern "C" int32_t torch_parallel_for(int64_t begin, int64_t end, int64_t grain,
                                      void (*body)(int64_t, int64_t, void*), void* context);

namespace {

constexpr int64_t kLine = 64;  // bytes
constexpr int64_t kGrainLines = 512;

struct Buffers {
  const char* a;
  const char* b;
  char* out;
};

#if defined(__AVX512F__)
using Block = __m512i;
Block load(const char* p) { return _mm512_loadu_si512(p); }
Block mix(Block x, Block y) { return _mm512_xor_si512(x, y); }
template <bool kStream>
void store(char* p, Block x) {
  if constexpr (kStream)
    _mm512_stream_si512(reinterpret_cast<Block*>(p), x);
  else
    _mm512_storeu_si512(p, x);
}
#elif defined(__AVX2__)
using Block = __m256i;
Block load(const char* p) { return _mm256_loadu_si256(reinterpret_cast<const Block*>(p)); }
Block mix(Block x, Block y) { return _mm256_xor_si256(x, y); }
template <bool kStream>
void store(char* p, Block x) {
  if constexpr (kStream)
    _mm256_stream_si256(reinterpret_cast<Block*>(p), x);
  else
    _mm256_storeu_si256(reinterpret_cast<Block*>(p), x);
}
#else
// No non-temporal store here: both forms are the same, and the compiler vectorises them.
using Block = uint64_t;
Block load(const char* p) {
  Block x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
Block mix(Block x, Block y) { return x ^ y; }
template <bool kStream>
void store(char* p, Block x) {
  std::memcpy(p, &x, sizeof x);
}
#endif

void fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// kReads: 1 copies a, 2 mixes a and b. begin and end count 64-byte lines.
template <int kReads, bool kStream>
void sweep(int64_t begin, int64_t end, void* context) {
  const Buffers& buffers = *static_cast<const Buffers*>(context);
  for (int64_t i = begin * kLine; i < end * kLine; i += sizeof(Block)) {
    Block x = load(buffers.a + i);
    if constexpr (kReads == 2) x = mix(x, load(buffers.b + i));
    store<kStream>(buffers.out + i, x);
  }
  if constexpr (kStream) fence();
}

}  // namespace

// a, b and out: `bytes` each, a multiple of 64; out 64-byte aligned. b is not read when reads is 1.
extern "C" int32_t stream(const void* a, const void* b, void* out, int64_t bytes, int reads,
                          int nontemporal) {
  Buffers buffers{static_cast<const char*>(a), static_cast<const char*>(b),
                  static_cast<char*>(out)};
  auto body = reads == 1 ? (nontemporal ? sweep<1, true> : sweep<1, false>)
                         : (nontemporal ? sweep<2, true> : sweep<2, false>);
  return torch_parallel_for(0, bytes / kLine, kGrainLines, body, &buffers);
}
