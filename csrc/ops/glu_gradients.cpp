// Gradients by biases and parameters: sums over rows, in the type of the arithmetic.
#include "ops/glu_gradients.h"

#include <algorithm>
#include <vector>

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

// A row vector with a gradient, and how many sums it is, one behind the other.
struct Summed {
  View vector;
  OptionalTensor* gradient;
  void** sums;
  int64_t count;
};

}  // namespace

void run_backward(GluCall& call, const Options& options, int64_t needs, Gradients* gradients) {
  GluArgs& args = call.args;
  std::vector<Summed> summed;
  int64_t count = 0;
  const int32_t real = real_dtype(call.gate);
  bool all_real = true;
  const auto add = [&](const Tensor* t, const char* name, int64_t need, OptionalTensor* gradient,
                       void** sums, int64_t parts) {
    if (!t || !(needs & need)) return;
    summed.push_back({View(*t, name), gradient, sums, parts});
    all_real &= summed.back().vector.dtype == real;
    count += parts;
  };
  const int64_t parameters = has_second_parameter(args.variant) ? 2 : 1;
  add(options.gate_bias, "gate_bias", kGateBias, &gradients->gate_bias, &args.sums[0], 1);
  add(options.up_bias, "up_bias", kUpBias, &gradients->up_bias, &args.sums[1], 1);
  add(options.parameter, "parameter", kParameter, &gradients->parameter, &args.sums[2], parameters);
  if (count == 0) {
    if (needs || args.product) run(Direction::kBackward, call);
    return;
  }
  args.row_blocks = row_block_count(args, call.gate.is_cuda());
  // Not by its stride: one value for each column may lie at a single address, expanded.
  const bool total =
      needs & kParameter && options.parameter && summed.back().vector.numel == parameters;
  const auto place_sums = [&](const Summed& s, void* first) {
    for (int64_t i = 0; i < s.count; ++i)
      s.sums[i] =
          static_cast<char*>(first) + i * args.row_blocks * args.cols * real_size(args.dtype);
  };
  // The sums of a single block are the gradients.
  if (args.row_blocks == 1 && all_real && !total) {
    for (const Summed& s : summed) {
      *s.gradient = new_like(s.vector);
      place_sums(s, data_of(**s.gradient));
    }
    return run(Direction::kBackward, call);
  }
  const int64_t partial_sizes[] = {count, args.row_blocks, args.cols};
  const Tensor partials = new_tensor(call.gate, real, 3, partial_sizes);
  const int64_t bytes = args.row_blocks * args.cols * real_size(args.dtype);
  int64_t first = 0;
  for (const Summed& s : summed) {
    place_sums(s, static_cast<char*>(data_of(partials)) + first * bytes);
    first += s.count;
  }
  run(Direction::kBackward, call);
  const int64_t sizes[] = {count, args.cols};
  const Tensor sums = new_tensor(call.gate, real, 2, sizes);
  const ReduceArgs reduce{data_of(partials),
                          data_of(sums),
                          count,
                          args.row_blocks,
                          args.cols,
                          total ? parameters : 0,
                          args.dtype == DType::kFloat64};
  run_where_it_is(
      call.gate, [&](void* stream) { return cuda::reduce_partials(reduce, stream); },
      [&] { cpu::reduce_partials(reduce); });
  first = 0;
  for (const Summed& s : summed) {
    *s.gradient = new_like(s.vector);
    if (args.cols == 0)
      set_to_zero(**s.gradient);
    else
      copy_values(**s.gradient, piece_of(sums, s.vector, first * args.cols));
    first += s.count;
  }
}

}  // namespace fused_acts
