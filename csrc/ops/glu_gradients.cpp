// Gradients by biases and parameters: sums over rows.
#include "ops/glu_gradients.h"

#include <algorithm>
#include <vector>

#include "ops/backend.h"

namespace fused_acts {
namespace {

// Rows of a segment with sums of its own: as many segments as keep a GPU busy, in at most 1% of the
// memory that large gradients take. A GPU thread adds up the rows of one after the other, so there
// are more, for shorter sums.
int64_t segment_rows(const GluArgs& args, bool on_gpu) {
  constexpr int64_t kShortest = 32, kUsual = 12, kBytesOfRows = 640;
  const int64_t most = on_gpu ? 8192 : 1024;
  const int64_t by_rows = std::min(kUsual, (args.rows + kShortest - 1) / kShortest);
  const int64_t by_memory = args.rows * dtype_size(args.dtype) / kBytesOfRows;
  int64_t segments = std::min(std::max(by_rows, by_memory), most);
  if (args.experts.of_row) segments /= args.experts.count + 1;  // each has all
  segments = std::max<int64_t>(segments, 1);
  return (args.rows + segments - 1) / segments;
}

int64_t column_tiles(const GluCall& call) {
  int64_t tiles = 0;
  run_where_it_is(
      call.gate, [&](void*) { return tiles = call.args.unit->cuda.column_tiles(call.args), 0; },
      [&] { tiles = cpu::column_tiles(call.args); });
  return tiles;
}

Tensor new_like(const View& t) { return new_tensor(t, t.dtype, t.rank, t.sizes); }

// A vector with a gradient, and how many sums it is, one behind the other.
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
  const auto add = [&](const Tensor* t, const char* name, int64_t need, OptionalTensor* gradient,
                       void** sums, int64_t parts) {
    if (!t || !(needs & need)) return;
    summed.push_back({View(*t, name), gradient, sums, parts});
    count += parts;
  };
  const int64_t parameters = std::max(args.unit->parameter_count, 1);
  add(options.gate_bias, "gate_bias", kGateBias, &gradients->gate_bias, &args.sums[0], 1);
  add(options.up_bias, "up_bias", kUpBias, &gradients->up_bias, &args.sums[1], 1);
  add(options.parameter, "parameter", kParameter, &gradients->parameter, &args.sums[2], parameters);
  const bool has_sums = count > 0;
  add(options.row_weight, "weight", kRowWeight, &gradients->row_weight, &args.weight_sums, 1);
  if (summed.empty()) {
    if (needs || args.product) run(Direction::kBackward, call);
    return;
  }
  for (const Summed& s : summed) *s.gradient = new_like(s.vector);
  if (args.rows == 0 || args.cols == 0) {
    for (const Summed& s : summed) set_to_zero(**s.gradient);
    return;
  }
  if (has_sums) args.segment_rows = segment_rows(args, call.gate.is_cuda());
  const Segments segments = args.segments(args.segment_rows);
  const int64_t parts = has_sums ? segments.count() : 0;
  const int64_t tiles = options.row_weight && needs & kRowWeight ? column_tiles(call) : 0;

  // What a single part has is the gradient.
  const auto is_weight = [&](const Summed& s) { return s.gradient == &gradients->row_weight; };
  const auto by_expert = [&](const Summed& s) {
    return args.experts.count && !is_weight(s) && s.vector.rank == s.count + 1;
  };
  const auto is_total = [&](const Summed& s) {
    // not by its stride: one value for each column may lie at a single address, expanded
    return s.gradient == &gradients->parameter && s.vector.numel == s.count && !by_expert(s);
  };
  const auto is_direct = [&](const Summed& s) {
    const int64_t added = is_weight(s) ? tiles : parts;
    return s.vector.dtype == real && added == 1 && !by_expert(s) && !is_total(s);
  };
  int64_t size = 0;
  bool total = false;
  for (const Summed& s : summed) {
    if (!is_direct(s)) size += s.count * (is_weight(s) ? tiles * args.rows : parts * args.cols);
    total |= is_total(s);
  }
  OptionalTensor partials;
  char* next = nullptr;
  if (size) {
    size += total ? kMostSums : 0;
    partials = new_tensor(call.gate, real, 1, &size);
    next = static_cast<char*>(data_of(*partials));
  }
  ReduceArgs reduce{args.dtype, segments};
  for (const Summed& s : summed) {
    const auto gradient_bytes =
        s.vector.numel / s.count * static_cast<int64_t>(element_size(s.vector.dtype));
    for (int64_t i = 0; i < s.count; ++i) {
      char* gradient = static_cast<char*>(data_of(**s.gradient)) + i * gradient_bytes;
      s.sums[i] = is_direct(s) ? gradient : next;
      if (is_direct(s)) continue;
      RowSum sum{};
      sum.parts = is_weight(s) ? tiles : parts;
      sum.cols = is_weight(s) ? args.rows : args.cols;
      sum.partials = {next, sum.cols};
      sum.data = gradient;
      sum.in_real = s.vector.dtype == real;
      sum.total = is_total(s);
      sum.by_expert = by_expert(s);
      reduce.add(sum);
      next += sum.parts * sum.cols * real_size(args.dtype);
    }
  }
  if (total) reduce.counters = args.counters = reinterpret_cast<unsigned*>(next);
  run(Direction::kBackward, call);
  if (reduce.count) run_reduction(call.gate, reduce);
}

}  // namespace fused_acts
