// Gradients by biases and parameters: sums over rows, in the type of the arithmetic.
#include "ops/glu_gradients.h"

#include <algorithm>

#include "ops/backend.h"

namespace fused_acts {
namespace {

// As many row blocks as keep a GPU busy, in at most 1% of the memory that large gradients take. A
// GPU thread adds up the rows of a block one after the other, so there are more, for shorter sums.
int64_t row_block_count(const GluArgs& args, bool on_gpu) {
  constexpr int64_t kShortest = 32, kUsual = 12, kBytesOfRows = 640;
  const int64_t most = on_gpu ? 8192 : 1024;
  const int64_t by_rows = std::min(kUsual, (args.rows + kShortest - 1) / kShortest);
  const int64_t by_memory = args.rows * dtype_size(args.dtype) / kBytesOfRows;
  const int64_t blocks = std::min(std::max(by_rows, by_memory), most);
  if (blocks == 0) return 0;
  const int64_t rows = (args.rows + blocks - 1) / blocks;
  return (args.rows + rows - 1) / rows;  // none is empty
}

Tensor new_like(const View& t) { return new_tensor(t, t.dtype, t.rank, t.sizes); }

// A row vector with a gradient, and where the kernel is to write its sums.
struct Summed {
  View vector;
  OptionalTensor* gradient;
  void** sums;
};

}  // namespace

void run_backward(GluCall& call, const Options& options, int64_t needs, Gradients* gradients) {
  GluArgs& args = call.args;
  std::optional<Summed> summed[3];
  int64_t count = 0;
  const int32_t real = real_dtype(call.gate);
  bool all_real = true;
  const auto add = [&](const Tensor* t, const char* name, int64_t need, OptionalTensor* gradient,
                       void** sums) {
    if (!t || !(needs & need)) return;
    summed[count].emplace(Summed{View(*t, name), gradient, sums});
    all_real &= summed[count++]->vector.dtype == real;
  };
  add(options.gate_bias, "gate_bias", kGateBias, &gradients->gate_bias, &args.sums.gate);
  add(options.up_bias, "up_bias", kUpBias, &gradients->up_bias, &args.sums.up);
  add(options.parameter, "parameter", kParameter, &gradients->parameter, &args.sums.parameter);
  if (count == 0) {
    if (needs || args.product) run(Direction::kBackward, call);
    return;
  }
  args.row_blocks = row_block_count(args, call.gate.is_cuda());
  // Not by its stride: one value for each column may lie at a single address, expanded.
  const bool total =
      needs & kParameter && options.parameter && summed[count - 1]->vector.numel == 1;
  // The sums of a single block are the gradients.
  if (args.row_blocks == 1 && all_real && !total) {
    for (int64_t i = 0; i < count; ++i) {
      *summed[i]->gradient = new_like(summed[i]->vector);
      *summed[i]->sums = data_of(**summed[i]->gradient);
    }
    return run(Direction::kBackward, call);
  }
  const int64_t partial_sizes[] = {count, args.row_blocks, args.cols};
  const Tensor partials = new_tensor(call.gate, real, 3, partial_sizes);
  for (int64_t i = 0; i < count; ++i)
    *summed[i]->sums = static_cast<char*>(data_of(partials)) +
                       i * args.row_blocks * args.cols * real_size(args.dtype);
  run(Direction::kBackward, call);
  const int64_t sizes[] = {count, args.cols};
  const Tensor sums = new_tensor(call.gate, real, 2, sizes);
  const ReduceArgs reduce{data_of(partials),
                          data_of(sums),
                          count,
                          args.row_blocks,
                          args.cols,
                          args.dtype == DType::kFloat64,
                          total};
  run_where_it_is(
      call.gate, [&](void* stream) { return cuda::reduce_partials(reduce, stream); },
      [&] { cpu::reduce_partials(reduce); });
  for (int64_t i = 0; i < count; ++i) {
    const View& vector = summed[i]->vector;
    *summed[i]->gradient = new_like(vector);
    if (args.cols == 0)
      set_to_zero(**summed[i]->gradient);
    else
      copy_values(**summed[i]->gradient, piece_of(sums, vector, i * args.cols));
  }
}

}  // namespace fused_acts
