#include "operands.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <array>
#include <stdexcept>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fused_acts {
namespace {

using torch::headeronly::ScalarType;

// The name of a dtype in Python; ScalarType numbers are part of the stable ABI.
std::string dtype_name(const Tensor& t) {
  constexpr std::array<const char*, 16> kNames = {
      "uint8",     "int8",      "int16",      "int32", "int64", "float16", "float32", "float64",
      "complex32", "complex64", "complex128", "bool",  "qint8", "quint8",  "qint32",  "bfloat16"};
  const auto number = static_cast<size_t>(t.scalar_type());
  return number < kNames.size() ? kNames[number] : "dtype number " + std::to_string(number);
}

int32_t device_type(const Tensor& t) {
  int32_t type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(t.get(), &type));
  return type;
}

std::string device_name(const Tensor& t) {
  if (t.is_cpu()) return "cpu";
  const std::string type = t.is_cuda() ? "cuda" : "device type " + std::to_string(device_type(t));
  return type + ":" + std::to_string(t.get_device_index());
}

int32_t dtype_of(const Tensor& t) {
  int32_t dtype;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(t.get(), &dtype));
  return dtype;
}

Tensor empty_strided(const Tensor& like, int32_t dtype, int64_t rank, const int64_t* sizes,
                     const int64_t* strides) {
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(rank, sizes, strides, dtype, device_type(like),
                                                  like.get_device_index(), &handle));
  return Tensor(handle);
}

// The first touches of a large new tensor are page faults, and huge pages make them several times
// cheaper.
void ask_for_huge_pages(const Tensor& t) {
#if defined(__linux__)
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  const uintptr_t bytes = t.numel() * t.element_size();
  if (bytes < 2 * kHugePage || !t.is_cpu()) return;
  const auto begin = reinterpret_cast<uintptr_t>(t.data_ptr());
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t last = (begin + bytes) / kHugePage * kHugePage;
  madvise(reinterpret_cast<void*>(first), last - first,
          MADV_HUGEPAGE);  // advice: failure changes nothing
#endif
}

// Finds the distance between the rows of `t`, in elements; false if they are not dense and evenly
// spaced.
bool find_row_stride(const Tensor& t, int64_t* row_stride) {
  const auto sizes = t.sizes(), strides = t.strides();
  const int64_t last = t.dim() - 1;
  if (sizes[last] > 1 && strides[last] != 1) return false;
  *row_stride = sizes[last];
  int64_t rows = 1;
  for (int64_t i = last - 1; i >= 0; --i) {
    if (sizes[i] == 1) continue;
    if (rows == 1) *row_stride = strides[i];
    if (strides[i] != *row_stride * rows) return false;
    rows *= sizes[i];
  }
  return true;
}

}  // namespace

std::string shape_of(const Tensor& t) {
  std::ostringstream text;
  text << '[';
  for (int64_t i = 0; i < t.dim(); ++i) text << (i ? ", " : "") << t.size(i);
  text << ']';
  return text.str();
}

DType checked_dtype(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Double:
      return DType::kFloat64;
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Half:
      return DType::kFloat16;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    default:
      fail<TypeError>(name, ": expected dtype float64, float32, float16 or bfloat16, got ",
                      dtype_name(t));
  }
}

void check_device(const Tensor& t, const char* name) {
  if (t.is_cpu()) return;
  if (!t.is_cuda())
    fail<ValueError>(name, ": expected a CPU or CUDA tensor, got one on ", device_name(t));
#ifndef FUSED_ACTS_WITH_CUDA
  fail<std::runtime_error>(
      name, ": is on ", device_name(t),
      ", but fused-acts was built without CUDA. With a CUDA build of torch and the CUDA toolkit "
      "(nvcc) installed, reinstall from source: FUSED_ACTS_CUDA=1 pip install --force-reinstall "
      "--no-deps .");
#endif
}

void check_matches(const Tensor& t, const char* name, const Tensor& like, const char* like_name,
                   int64_t cols) {
  if (t.scalar_type() != like.scalar_type())
    fail<TypeError>(name, ": expected the dtype of ", like_name, ", ", dtype_name(like), ", got ",
                    dtype_name(t));
  if (device_type(t) != device_type(like) || t.get_device_index() != like.get_device_index())
    fail<ValueError>(name, ": expected the device of ", like_name, ", ", device_name(like),
                     ", got ", device_name(t));
  const auto sizes = t.sizes(), like_sizes = like.sizes();
  const int64_t rank = static_cast<int64_t>(like_sizes.size());
  bool same = static_cast<int64_t>(sizes.size()) == rank && sizes[rank - 1] == cols;
  for (int64_t i = 0; same && i + 1 < rank; ++i) same = sizes[i] == like_sizes[i];
  if (same) return;
  std::ostringstream expected;
  for (int64_t i = 0; i + 1 < rank; ++i) expected << like_sizes[i] << ", ";
  fail<ValueError>(name, ": expected shape [", expected.str(), cols, "] to go with ", like_name,
                   " of shape ", shape_of(like), ", got ", shape_of(t));
}

void check_rows_apart(const GluArgs& args, const Operand& out, const char* name) {
  if (args.rows > 1 && out.row_stride < args.cols)
    fail<ValueError>(name, ": expected rows of ", args.cols,
                     " elements apart from each other, got a row stride of ", out.row_stride);
}

bool overlap(const GluArgs& args, const Operand& a, int a_step, const Operand& b, int b_step) {
  const int64_t rows = args.rows, size = dtype_size(args.dtype);
  // bytes from the first to one past the last element, of a row and of all
  const auto row_extent = [&](int step) { return ((args.cols - 1) * step + 1) * size; };
  const auto extent = [&](const Operand& m, int step) {
    return (rows - 1) * m.row_stride * size + row_extent(step);
  };
  const int64_t distance = static_cast<const char*>(a.data) - static_cast<const char*>(b.data);
  if (distance >= extent(b, b_step) || -distance >= extent(a, a_step)) return false;
  const int64_t row = a.row_stride * size;
  if (rows > 1 && a.row_stride == b.row_stride && row > 0) {
    const int64_t phase = (distance % row + row) % row;  // rows of one may lie between the other's
    if (phase >= row_extent(b_step) && phase + row_extent(a_step) <= row) return false;
  }
  return true;
}

void check_no_partial_overlap(const GluArgs& args, const Operand& out, const Operand& input,
                              const char* name) {
  const bool same_rows = args.rows == 1 || out.row_stride == input.row_stride;
  if (out.data == input.data && same_rows && args.step == 1) return;
  if (overlap(args, out, 1, input, args.step))
    fail<ValueError>("out: expected the memory of ", name,
                     " exactly, or none of it, got a partial overlap");
}

void check_no_overlap(const GluArgs& args, const Operand& out, const Row& row, const char* name) {
  if (!row.data) return;
  const int64_t size = dtype_size(args.dtype), wide = args.dtype == DType::kFloat64 ? 8 : 4;
  const int64_t length = ((args.cols - 1) * row.step + 1) * (row.wide ? wide : size);
  const int64_t stride = out.row_stride * size, out_row = args.cols * size;
  const int64_t begin = static_cast<const char*>(row.data) - static_cast<const char*>(out.data);
  if (begin >= (args.rows - 1) * stride + out_row || begin + length <= 0) return;
  if (args.rows > 1) {
    const int64_t phase = (begin % stride + stride) % stride;
    if (phase >= out_row && phase + length <= stride) return;  // between two rows
  }
  fail<ValueError>(name, ": expected none of the memory that is written to");
}

bool is_matrix(const Tensor& t) {
  int64_t row_stride;
  return find_row_stride(t, &row_stride);
}

Operand operand_of(const Tensor& t) {
  Operand operand;
  operand.data = t.data_ptr();
  find_row_stride(t, &operand.row_stride);
  return operand;
}

Tensor with_row_stride(const Tensor& t) {
  return t.numel() == 0 || is_matrix(t) ? t : torch::stable::contiguous(t);
}

Tensor empty_like(const Tensor& like, int64_t cols) {
  const auto like_sizes = like.sizes();
  const int64_t rank = static_cast<int64_t>(like_sizes.size());
  constexpr int64_t kUsualRank = 8;
  std::array<int64_t, 2 * kUsualRank> usual;
  std::vector<int64_t> unusual(rank > kUsualRank ? 2 * rank : 0);
  int64_t* sizes = rank > kUsualRank ? unusual.data() : usual.data();
  int64_t* strides = sizes + rank;
  int64_t stride = 1;
  for (int64_t i = rank - 1; i >= 0; --i) {
    sizes[i] = i == rank - 1 ? cols : like_sizes[i];
    strides[i] = stride;
    if (sizes[i] > 1) stride *= sizes[i];
  }
  Tensor result = empty_strided(like, dtype_of(like), rank, sizes, strides);
  ask_for_huge_pages(result);
  return result;
}

Tensor empty(const Tensor& like) {
  const int64_t size = 0, stride = 1;
  return empty_strided(like, dtype_of(like), 1, &size, &stride);
}

Tensor empty_real(const Tensor& like, int64_t n, int64_t m, int64_t cols) {
  const int64_t sizes[] = {n, m, cols}, strides[] = {m * cols, cols, 1};
  const bool is_double = like.scalar_type() == ScalarType::Double;
  return empty_strided(like, is_double ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32(), 3,
                       sizes, strides);
}

Row row_of(const Tensor& t, const char* name, const Tensor& gate, int64_t cols, bool may_be_one) {
  const ScalarType dtype = t.scalar_type(), matrices = gate.scalar_type();
  const ScalarType real = matrices == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  if (dtype != matrices && dtype != real)
    fail<TypeError>(name, ": expected the dtype of gate, ", dtype_name(gate), ", or float32, got ",
                    dtype_name(t));
  if (device_type(t) != device_type(gate) || t.get_device_index() != gate.get_device_index())
    fail<ValueError>(name, ": expected the device of gate, ", device_name(gate), ", got ",
                     device_name(t));
  const bool is_one = may_be_one && t.numel() == 1 && t.dim() <= 1;
  if (!is_one && (t.dim() != 1 || t.size(0) != cols))
    fail<ValueError>(name, ": expected shape [", cols, "]", may_be_one ? " or a single value" : "",
                     ", got ", shape_of(t));
  return {t.data_ptr(), is_one ? 0 : t.stride(0), dtype != matrices};
}

void flatten_if_dense(GluArgs& args) {
  const auto dense = [&](const Operand& m, int64_t width) {
    return m.data == nullptr || m.row_stride == width;
  };
  const int64_t cols = args.cols, packed = args.cols * args.step;
  if (args.rows == 1 ||
      (dense(args.gate, packed) && dense(args.up, packed) && dense(args.out, cols) &&
       dense(args.grad_out, cols) && dense(args.grad_gate, packed) && dense(args.grad_up, packed) &&
       dense(args.gate_tangent, packed) && dense(args.up_tangent, packed))) {
    args.cols *= args.rows;
    args.rows = 1;
  }
}

void check_cuda([[maybe_unused]] int error) {
#ifdef FUSED_ACTS_WITH_CUDA
  char* message = nullptr;
  TORCH_ERROR_CODE_CHECK(torch_c10_cuda_check_msg(error, __FILE__, __func__,
                                                  static_cast<uint32_t>(__LINE__), true, &message));
  if (message == nullptr) return;
  const std::string text(message);
  torch_c10_cuda_free_error_msg(message);
  throw std::runtime_error(text);
#endif
}

}  // namespace fused_acts
