// Tensors as matrices: their metadata, argument checks and allocation. Stable ABI only.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

#include "kernels/glu.h"

namespace fused_acts {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Python makes a ValueError of it, a TypeError where the message is about a dtype.
template <class Error = std::invalid_argument, class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw Error(message.str());
}

// What libtorch said of the last call of its C interface that failed in this thread; null before
// torch 2.13, where that does not get through.
const char* message_of_libtorch();

// Throws what libtorch said if a call of its C interface did not succeed.
void check(int32_t code);

// The metadata of a tensor that outlives it, read once: each reading is a call into libtorch.
// Throws, with the name that the tensor has in messages, where its elements are at no address that
// kernels could read: with its storage freed, or between elements on a GPU.
struct View {
  const Tensor* tensor;
  int32_t dtype, device_type, device_index;
  void* data;
  int64_t rank, numel;
  const int64_t *sizes, *strides;

  bool aligned;  // whether it begins at a multiple of the size of its elements

  View(const Tensor& t, const char* name);
  View(Tensor&&, const char*) = delete;

  bool is_cpu() const;
  bool is_cuda() const;
  int64_t last_size() const { return sizes[rank - 1]; }
};

// dtypes as libtorch numbers them.
int32_t uint8_dtype();
int32_t int8_dtype();
int32_t int32_dtype();
int32_t e4m3_dtype();
int32_t e8m0_dtype();
int32_t dtype_number(DType dtype);
int32_t real_dtype(const View& t);      // what `t` is computed in
uintptr_t element_size(int32_t dtype);  // 1 of what kernels do not take

std::string dtype_name(const View& t);
std::string shape_of(const View& t);
std::string strides_of(const View& t);
std::string device_name(const View& t);

// The dtype of `t`; throws unless kernels compute in it.
DType checked_dtype(const View& t, const char* name);

// Throws unless kernels of this build run on the device of `t`.
void check_device(const View& t, const char* name);

// Throws unless `t` has the dtype, the device and, with `cols` as the last dimension, the shape of
// `like`.
void check_matches(const View& t, const char* name, const View& like, const char* like_name,
                   int64_t cols);

bool same_device(const View& a, const View& b);
bool same_sizes(const View& t, int64_t rank, const int64_t* sizes);

// Whether a Matrix can describe `t`: dense rows, evenly spaced, and aligned.
bool is_matrix(const View& t);
Matrix matrix_of(const View& t);

// Whether the elements of `t` fill a piece of memory, in whatever order.
bool is_dense(const View& t);
bool same_strides(const View& a, const View& b);

// `t` as a matrix: in place, or of a contiguous copy where it is none.
struct ReadMatrix {
  Matrix matrix;
  OptionalTensor copy;

  explicit ReadMatrix(const View& t);
  // In the order that the elements of `like`, which is dense, have in memory.
  ReadMatrix(const View& t, const View& like);
};

// `t`, [cols] or perhaps a single value, as a row vector beside gate; throws if it is not that.
// Where it is not aligned the row vector is that of a copy. With experts it may be [experts, cols].
RowVector row_vector_of(const View& t, const char* name, const View& gate, int64_t cols,
                        bool may_be_one, bool may_be_of_experts, OptionalTensor* copy);

// `t`, a value for each row of gate.
ColumnVector column_vector_of(const View& t, const char* name, const View& gate,
                              OptionalTensor* copy);

// Throws unless `t` is int32 on the device of gate.
void check_indices_beside(const View& t, const char* name, const View& gate);

void* data_of(const Tensor& t);

bool is_contiguous(const View& t);

void copy_values(const Tensor& to, const Tensor& from);
void set_to_zero(const Tensor& t);

// A contiguous copy.
Tensor copy_of(const View& t);

// A new tensor on the device of `like`, with strides or contiguous.
Tensor new_strided(const View& like, int32_t dtype, int64_t rank, const int64_t* sizes,
                   const int64_t* strides);
Tensor new_tensor(const View& like, int32_t dtype, int64_t rank, const int64_t* sizes);
Tensor new_empty(const View& like);  // [0], in the place of a result that is not asked for

// A new tensor of the dtype and shape of `like`, but for `cols` as its last dimension.
struct NewMatrix {
  Tensor tensor;
  Matrix matrix;

  NewMatrix(const View& like, int64_t cols);
  // Of the strides of `like`, which is dense.
  explicit NewMatrix(const View& like);
};

// The tensor of a result, or `new_empty`.
Tensor result(std::optional<NewMatrix>& matrix, const View& like);

}  // namespace fused_acts
