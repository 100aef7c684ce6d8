// Metadata, checks and allocation of tensors, through the C shim of libtorch.
#include "ops/tensors.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>
#include <array>

// Of torch 2.13 and later, not of the oldest, which this is compiled for.
extern "C" __attribute__((weak)) const char* torch_exception_get_what_without_backtrace();

namespace fused_acts {
namespace {

const int32_t kCpu = aoti_torch_device_type_cpu(), kCuda = aoti_torch_device_type_cuda();
const int32_t kFloat64 = aoti_torch_dtype_float64(), kFloat32 = aoti_torch_dtype_float32();
const int32_t kFloat16 = aoti_torch_dtype_float16(), kBFloat16 = aoti_torch_dtype_bfloat16();
const int32_t kUint8 = aoti_torch_dtype_uint8(), kInt32 = aoti_torch_dtype_int32();
const int32_t kInt8 = aoti_torch_dtype_int8(), kE4m3 = aoti_torch_dtype_float8_e4m3fn();
constexpr int32_t kE8m0 = 44;  // libtorch has a function for it from torch 2.12 on

std::string list_of(const int64_t* values, int64_t count) {
  std::ostringstream text;
  text << '[';
  for (int64_t i = 0; i < count; ++i) text << (i ? ", " : "") << values[i];
  text << ']';
  return text.str();
}

// Finds the distance between the rows of `t`, in elements; false if they are not dense, evenly
// spaced and aligned.
bool find_row_stride(const View& t, int64_t* row_stride) {
  if (!t.aligned) return false;
  const int64_t last = t.rank - 1;
  if (t.sizes[last] > 1 && t.strides[last] != 1) return false;
  *row_stride = t.sizes[last];
  int64_t rows = 1;
  for (int64_t i = last - 1; i >= 0; --i) {
    if (t.sizes[i] == 1) continue;
    if (rows == 1) *row_stride = t.strides[i];
    if (t.strides[i] != *row_stride * rows) return false;
    rows *= t.sizes[i];
  }
  return true;
}

}  // namespace

// The name of a dtype in Python; these numbers are part of the stable ABI.
std::string dtype_name(const View& t) {
  constexpr std::array<const char*, 16> kNames = {
      "uint8",     "int8",      "int16",      "int32", "int64", "float16", "float32", "float64",
      "complex32", "complex64", "complex128", "bool",  "qint8", "quint8",  "qint32",  "bfloat16"};
  constexpr std::array<const char*, 7> kLaterNames = {
      "float8_e5m2", "float8_e4m3fn", "float8_e5m2fnuz", "float8_e4m3fnuz",
      "uint16",      "uint32",        "uint64"};
  constexpr size_t kLater = 23;
  const auto number = static_cast<size_t>(t.dtype);
  if (number < kNames.size()) return kNames[number];
  if (number >= kLater && number < kLater + kLaterNames.size()) return kLaterNames[number - kLater];
  if (t.dtype == kE8m0) return "float8_e8m0fnu";
  return "dtype number " + std::to_string(number);
}

const char* message_of_libtorch() {
  const auto message = torch_exception_get_what_without_backtrace;
  return message ? message() : nullptr;
}

void check(int32_t code) {
  if (code == TORCH_SUCCESS) return;
  const char* message = message_of_libtorch();
  fail<std::runtime_error>(message ? message : "a call of libtorch failed");
}

void copy_values(const Tensor& to, const Tensor& from) {
  check(aoti_torch_copy_(to.get(), from.get(), 0));
}

void set_to_zero(const Tensor& t) { check(aoti_torch_zero_(t.get())); }

std::string device_name(const View& t) {
  if (t.is_cpu()) return "cpu";
  const std::string type = t.is_cuda() ? "cuda" : "device type " + std::to_string(t.device_type);
  return type + ":" + std::to_string(t.device_index);
}

uintptr_t element_size(int32_t dtype) {
  if (dtype == kFloat64) return sizeof(double);
  if (dtype == kFloat32 || dtype == kInt32) return sizeof(float);
  return dtype == kFloat16 || dtype == kBFloat16 ? sizeof(uint16_t) : 1;
}

View::View(const Tensor& t, const char* name) : tensor(&t), device_index(-1), numel(1) {
  const AtenTensorHandle handle = t.get();
  check(aoti_torch_get_dtype(handle, &dtype));
  check(aoti_torch_get_device_type(handle, &device_type));
  if (!is_cpu()) check(aoti_torch_get_device_index(handle, &device_index));
  check(aoti_torch_get_data_ptr(handle, &data));
  check(aoti_torch_get_dim(handle, &rank));
  int64_t *its_sizes, *its_strides;
  check(aoti_torch_get_sizes(handle, &its_sizes));
  check(aoti_torch_get_strides(handle, &its_strides));
  sizes = its_sizes;
  strides = its_strides;
  for (int64_t i = 0; i < rank; ++i) numel *= sizes[i];
  // As torch has it where its own kernels ask for the address.
  if (!data && numel > 0)
    fail<std::runtime_error>(
        name, ": expected a tensor with memory, got one of shape ", shape_of(*this),
        " whose data is not allocated: its storage was freed, as by resize_(0), or never filled");
  const uintptr_t size = element_size(dtype);
  aligned = (reinterpret_cast<uintptr_t>(data) & (size - 1)) == 0;
  if (!aligned && !is_cpu())
    fail(name, ": expected an address that is a multiple of the ", size, " bytes of an element of ",
         dtype_name(*this), ", as GPUs need it, got ", data);
}

bool View::is_cpu() const { return device_type == kCpu; }
bool View::is_cuda() const { return device_type == kCuda; }

int32_t uint8_dtype() { return kUint8; }
int32_t int8_dtype() { return kInt8; }
int32_t int32_dtype() { return kInt32; }
int32_t e4m3_dtype() { return kE4m3; }
int32_t e8m0_dtype() { return kE8m0; }
int32_t dtype_number(DType dtype) {
  return dtype == DType::kFloat64   ? kFloat64
         : dtype == DType::kFloat32 ? kFloat32
         : dtype == DType::kFloat16 ? kFloat16
                                    : kBFloat16;
}
int32_t real_dtype(const View& t) { return t.dtype == kFloat64 ? kFloat64 : kFloat32; }

std::string shape_of(const View& t) { return list_of(t.sizes, t.rank); }
std::string strides_of(const View& t) { return list_of(t.strides, t.rank); }

DType checked_dtype(const View& t, const char* name) {
  if (t.dtype == kBFloat16) return DType::kBFloat16;
  if (t.dtype == kFloat32) return DType::kFloat32;
  if (t.dtype == kFloat16) return DType::kFloat16;
  if (t.dtype == kFloat64) return DType::kFloat64;
  fail(name, ": expected dtype float64, float32, float16 or bfloat16, got ", dtype_name(t));
}

void check_device(const View& t, const char* name) {
  if (t.is_cpu()) return;
  if (!t.is_cuda()) fail(name, ": expected a CPU or CUDA tensor, got one on ", device_name(t));
#ifndef USE_CUDA
  fail<std::runtime_error>(
      name, ": is on ", device_name(t),
      ", but fused-acts was built without CUDA. With a CUDA build of torch and the CUDA toolkit "
      "(nvcc) installed, reinstall from source: FUSED_ACTS_CUDA=1 pip install --force-reinstall "
      "--no-deps .");
#endif
}

bool same_device(const View& a, const View& b) {
  return a.device_type == b.device_type && a.device_index == b.device_index;
}

bool same_sizes(const View& t, int64_t rank, const int64_t* sizes) {
  return t.rank == rank && std::equal(sizes, sizes + rank, t.sizes);
}

void check_matches(const View& t, const char* name, const View& like, const char* like_name,
                   int64_t cols) {
  if (t.dtype != like.dtype)
    fail(name, ": expected the dtype of ", like_name, ", ", dtype_name(like), ", got ",
         dtype_name(t));
  if (!same_device(t, like))
    fail(name, ": expected the device of ", like_name, ", ", device_name(like), ", got ",
         device_name(t));
  if (t.rank == like.rank && t.last_size() == cols &&
      std::equal(like.sizes, like.sizes + like.rank - 1, t.sizes))
    return;
  std::ostringstream expected;
  for (int64_t i = 0; i + 1 < like.rank; ++i) expected << like.sizes[i] << ", ";
  fail(name, ": expected shape [", expected.str(), cols, "] to go with ", like_name, " of shape ",
       shape_of(like), ", got ", shape_of(t));
}

bool is_matrix(const View& t) {
  int64_t row_stride;
  return find_row_stride(t, &row_stride);
}

Matrix matrix_of(const View& t) {
  Matrix matrix{t.data};
  find_row_stride(t, &matrix.row_stride);
  return matrix;
}

bool is_dense(const View& t) {
  // From the innermost dimension outwards: there is one that begins where those before end.
  int64_t extent = 1;
  for (int64_t found = 0; found < t.rank; ++found) {
    int64_t next = 0;
    while (next < t.rank && (t.sizes[next] == 1 || t.strides[next] != extent)) ++next;
    if (next == t.rank) break;
    extent *= t.sizes[next];
  }
  return extent == t.numel;
}

bool same_strides(const View& a, const View& b) {
  for (int64_t i = 0; i < a.rank; ++i)
    if (a.sizes[i] != 1 && a.strides[i] != b.strides[i]) return false;
  return true;
}

ReadMatrix::ReadMatrix(const View& t, const View& like) : matrix{t.data, t.last_size()} {
  if (t.aligned && same_strides(t, like)) return;
  copy = new_strided(t, t.dtype, t.rank, t.sizes, like.strides);
  copy_values(*copy, *t.tensor);
  matrix.data = data_of(*copy);
}

ReadMatrix::ReadMatrix(const View& t) : matrix{t.data} {
  if (t.numel == 0 || find_row_stride(t, &matrix.row_stride)) return;
  copy = copy_of(t);
  matrix = {data_of(*copy), t.last_size()};
}

namespace {

void check_beside(const View& t, const char* name, const View& gate) {
  if (t.dtype != gate.dtype && t.dtype != real_dtype(gate))
    fail(name, ": expected the dtype of gate, ", dtype_name(gate), ", or float32, got ",
         dtype_name(t));
  if (!same_device(t, gate))
    fail(name, ": expected the device of gate, ", device_name(gate), ", got ", device_name(t));
}

}  // namespace

RowVector row_vector_of(const View& t, const char* name, const View& gate, int64_t cols,
                        bool may_be_one, bool may_be_of_experts, OptionalTensor* copy) {
  check_beside(t, name, gate);
  const bool is_one = may_be_one && t.numel == 1 && t.rank <= 1;
  const bool of_experts = may_be_of_experts && t.rank == 2;
  if (!is_one && ((t.rank != 1 && !of_experts) || t.last_size() != cols))
    fail(name, ": expected shape [", cols, "]", may_be_of_experts ? " or that for each expert" : "",
         may_be_one ? " or a single value" : "", ", got ", shape_of(t));
  const bool in_real = t.dtype != gate.dtype;
  const bool in_place = t.aligned || t.numel == 0;
  RowVector row{t.data, is_one ? 0 : in_place ? t.strides[t.rank - 1] : 1, in_real};
  if (of_experts) row.expert_stride = in_place ? t.strides[0] : cols;
  if (in_place) return row;
  *copy = copy_of(t);
  row.data = data_of(**copy);
  return row;
}

ColumnVector column_vector_of(const View& t, const char* name, const View& gate,
                              OptionalTensor* copy) {
  check_beside(t, name, gate);
  if (t.rank != gate.rank - 1 || !std::equal(t.sizes, t.sizes + t.rank, gate.sizes))
    fail(name, ": expected a number or a value for each row, to go with shape ", shape_of(gate),
         ", got ", shape_of(t));
  const bool in_real = t.dtype != gate.dtype;
  if (t.numel == 0 || (t.aligned && is_contiguous(t))) return {t.data, in_real};
  *copy = copy_of(t);
  return {data_of(**copy), in_real};
}

void check_indices_beside(const View& t, const char* name, const View& gate) {
  if (t.dtype != kInt32) fail(name, ": expected dtype int32, got ", dtype_name(t));
  if (!same_device(t, gate))
    fail(name, ": expected the device of gate, ", device_name(gate), ", got ", device_name(t));
  if (!is_contiguous(t)) fail(name, ": expected a contiguous tensor");
}

void* data_of(const Tensor& t) {
  void* data;
  check(aoti_torch_get_data_ptr(t.get(), &data));
  return data;
}

bool is_contiguous(const View& t) {
  int64_t stride = 1;
  for (int64_t i = t.rank - 1; i >= 0; --i) {
    if (t.sizes[i] != 1 && t.strides[i] != stride) return false;
    stride *= t.sizes[i];
  }
  return true;
}

}  // namespace fused_acts
