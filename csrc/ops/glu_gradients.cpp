// Gradients by biases and parameters: sums over rows.
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
  for (const Summed& s : summed) *s.gradient = new_like(s.vector);
  if (args.rows == 0 || args.cols == 0) {
    for (const Summed& s : summed) set_to_zero(**s.gradient);
    return;
  }
  args.row_blocks = row_block_count(args, call.gate.is_cuda());
  // Not by its stride: one value for each column may lie at a single address, expanded.
  const bool total =
      needs & kParameter && options.parameter && summed.back().vector.numel == parameters;
  // The sums of a single block are the gradients.
  const bool direct = args.row_blocks == 1 && all_real && !total;
  OptionalTensor partials;
  char* next = nullptr;
  const int64_t bytes = args.row_blocks * args.cols * real_size(args.dtype);
  if (!direct) {
    const int64_t size = count * args.row_blocks * args.cols + (total ? kMostSums : 0);
    partials = new_tensor(call.gate, real, 1, &size);
    next = static_cast<char*>(data_of(*partials));
    if (total) args.counters = reinterpret_cast<unsigned*>(next + count * bytes);
  }
  ReduceArgs reduce{args.dtype, args.row_blocks};
  reduce.counters = args.counters;
  for (const Summed& s : summed) {
    const bool is_total = total && s.gradient == &gradients->parameter;
    const int64_t gradient_bytes =
        (is_total ? 1 : args.cols) * static_cast<int64_t>(element_size(s.vector.dtype));
    for (int64_t i = 0; i < s.count; ++i) {
      char* gradient = static_cast<char*>(data_of(**s.gradient)) + i * gradient_bytes;
      s.sums[i] = direct ? gradient : next;
      reduce.add({{s.sums[i], args.cols}, args.cols, gradient, s.vector.dtype == real, is_total});
      if (!direct) next += bytes;
    }
  }
  run(Direction::kBackward, call);
  if (!direct) run_reduction(call.gate, reduce);
}

}  // namespace fused_acts
