// New tensors, through the C shim of libtorch.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <iomanip>
#include <sstream>
#include <vector>

#include "ops/tensors.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fused_acts {
namespace {

// The first touches of a large new tensor are page faults, and huge pages make them several times
// cheaper.
void ask_for_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] uintptr_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  if (bytes < 2 * kHugePage) return;
  const auto begin = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (begin + bytes) / kHugePage * kHugePage;
  // advice: failure changes nothing
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

// In torch's words, where these do not get through its C interface: callers look for them.
[[noreturn]] void out_of_memory(const View& like, int32_t dtype, int64_t rank,
                                const int64_t* sizes) {
  double bytes = static_cast<double>(element_size(dtype));
  for (int64_t i = 0; i < rank; ++i) bytes *= static_cast<double>(sizes[i]);
  std::ostringstream text;
  text << std::fixed << std::setprecision(0) << bytes << " bytes";
  if (const char* message = message_of_libtorch()) fail<std::runtime_error>(message);
  if (like.is_cpu())
    fail<std::runtime_error>("DefaultCPUAllocator: can't allocate memory: you tried to allocate ",
                             text.str());
  fail<std::runtime_error>("CUDA out of memory. Tried to allocate ", text.str(), " on ",
                           device_name(like));
}

// The sizes of `like` with another last one, without an allocation where there are few.
class SizesLike {
 public:
  SizesLike(const View& like, int64_t last) {
    if (like.rank > kUsual) unusual_.resize(like.rank);
    sizes_ = like.rank > kUsual ? unusual_.data() : usual_;
    for (int64_t i = 0; i + 1 < like.rank; ++i) sizes_[i] = like.sizes[i];
    sizes_[like.rank - 1] = last;
  }
  SizesLike(const SizesLike&) = delete;
  const int64_t* get() const { return sizes_; }

 private:
  static constexpr int64_t kUsual = 8;
  int64_t usual_[kUsual];
  std::vector<int64_t> unusual_;
  int64_t* sizes_;
};

}  // namespace

Tensor new_strided(const View& like, int32_t dtype, int64_t rank, const int64_t* sizes,
                   const int64_t* strides) {
  AtenTensorHandle handle;
  if (aoti_torch_empty_strided(rank, sizes, strides, dtype, like.device_type, like.device_index,
                               &handle) != TORCH_SUCCESS)
    out_of_memory(like, dtype, rank, sizes);
  return Tensor(handle);
}

Tensor copy_of(const View& t) {
  Tensor copy = new_tensor(t, t.dtype, t.rank, t.sizes);
  copy_values(copy, *t.tensor);
  return copy;
}

Tensor new_tensor(const View& like, int32_t dtype, int64_t rank, const int64_t* sizes) {
  constexpr int64_t kUsual = 8;
  int64_t usual[kUsual];
  std::vector<int64_t> unusual(rank > kUsual ? rank : 0);
  int64_t* strides = rank > kUsual ? unusual.data() : usual;
  int64_t stride = 1;
  for (int64_t i = rank - 1; i >= 0; --i) {
    strides[i] = stride;
    if (sizes[i] > 1) stride *= sizes[i];
  }
  return new_strided(like, dtype, rank, sizes, strides);
}

Tensor new_empty(const View& like) {
  const int64_t size = 0;
  return new_tensor(like, like.dtype, 1, &size);
}

NewMatrix::NewMatrix(const View& like, int64_t cols)
    : tensor(new_tensor(like, like.dtype, like.rank, SizesLike(like, cols).get())),
      matrix{data_of(tensor), cols} {
  const int64_t last = like.last_size(), rows = last == 0 ? 0 : like.numel / last;
  if (like.is_cpu())
    ask_for_huge_pages(matrix.data, rows * cols * dtype_size(checked_dtype(like, "")));
}

NewMatrix::NewMatrix(const View& like)
    : tensor(new_strided(like, like.dtype, like.rank, like.sizes, like.strides)),
      matrix{data_of(tensor), like.last_size()} {
  if (like.is_cpu())
    ask_for_huge_pages(matrix.data, like.numel * dtype_size(checked_dtype(like, "")));
}

Tensor result(std::optional<NewMatrix>& matrix, const View& like) {
  return matrix ? std::move(matrix->tensor) : new_empty(like);
}

}  // namespace fused_acts
