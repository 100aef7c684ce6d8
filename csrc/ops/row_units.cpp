// The operators of the units of whole rows.
#include "kernels/row_units.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "ops/backend.h"
#include "ops/library.h"

namespace fused_acts {
namespace {

constexpr int64_t kGrain = 8192;  // elements
constexpr int64_t kCoefficients = 3;

enum Needs : int64_t { kFirst = 1, kSecond = 2, kWeight = 4, kBias = 8 };

// How messages name the operands.
struct Names {
  const char *first, *second, *weight;
};
Names names_of(RowUnit unit) {
  if (unit == RowUnit::kPolyNorm) return {"gate", "up", "coefficients"};
  if (unit == RowUnit::kTopK) return {"gate", "up", "weight"};
  return {"x", "z", "weight"};
}

// The z that the part p of a normal distribution lies below.
double normal_quantile(double p) {
  double low = -40, high = 40;
  for (int halvings = 0; halvings < 64; ++halvings) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < p ? low : high) = middle;
  }
  return high;
}

int64_t stats_count(const RowSettings& settings) {
  return visit_row_unit<Math64>(settings,
                                [](auto unit) { return int64_t{decltype(unit)::kStats}; });
}

// A checked call: its arguments, and what holds the memory of the operands.
struct RowUnitCall {
  View first, second;
  RowUnitArgs args;
  OptionalTensor first_copy, second_copy, weight_copy, bias_copy;
};

// Dense, and on the CPU in the type of the arithmetic.
RowVector dense_vector(const View& t, const char* name, const View& first, int64_t size,
                       OptionalTensor* copy) {
  RowVector vector = row_vector_of(t, name, first, size, false, false, copy);
  const int32_t real = real_dtype(first);
  if (first.is_cpu() && t.dtype != real) {
    *copy = new_tensor(t, real, t.rank, t.sizes);
    copy_values(**copy, *t.tensor);
    return {data_of(**copy), 1, true};
  }
  if (vector.col_stride != 1) {
    *copy = copy_of(t);
    vector.data = data_of(**copy);
  }
  return {vector.data, 1, t.dtype == real};
}

RowUnitCall checked_call(const Tensor& first_tensor, const Tensor& second_tensor,
                         const OptionalTensor& weight, const OptionalTensor& bias, int64_t unit,
                         double number, int64_t groups) {
  if (unit < 0 || unit >= static_cast<int64_t>(RowUnit::kCount))
    fail("unit: expected an index below ", static_cast<int64_t>(RowUnit::kCount), ", got ", unit);
  RowSettings settings{static_cast<RowUnit>(unit), number};
  if (settings.unit == RowUnit::kTopK) {
    if (!(number > 0 && number < 1)) fail("sparsity: expected between 0 and 1, got ", number);
    settings.number = normal_quantile(number);
  }
  const Names names = names_of(settings.unit);
  RowUnitCall call{
      View(first_tensor, names.first), View(second_tensor, names.second), {}, {}, {}, {}, {}};
  const View& first = call.first;
  RowUnitArgs& args = call.args;
  args.settings = settings;
  args.dtype = checked_dtype(first, names.first);
  if (first.rank == 0) fail(names.first, ": expected at least one dimension, got a 0-d tensor");
  check_device(first, names.first);
  const int64_t width = first.last_size();
  check_matches(call.second, names.second, first, names.first, width);
  const bool has_parameters = settings.unit == RowUnit::kPolyNorm;
  const bool has_weight = has_parameters || settings.unit < RowUnit::kPolyNorm;
  if (has_weight != weight.has_value())
    fail(names.weight, ": expected ", has_weight ? "a tensor" : "none");
  if (has_parameters != bias.has_value())
    fail("bias: expected ", has_parameters ? "a tensor" : "none");
  if (groups < 1 || width % groups != 0 || (groups > 1 && (has_parameters || !has_weight)))
    fail("groups: expected a divisor of the last dimension, ", width, ", got ", groups);
  args.groups = groups;
  args.cols = width / groups;
  args.rows = width == 0 ? 0 : first.numel / width;
  if (weight)
    args.weight = dense_vector(View(*weight, names.weight), names.weight, first,
                               has_parameters ? kCoefficients : width, &call.weight_copy);
  if (bias) args.bias = dense_vector(View(*bias, "bias"), "bias", first, 1, &call.bias_copy);
  ReadMatrix x(first), y(call.second);
  args.first = x.matrix;
  args.second = y.matrix;
  call.first_copy = std::move(x.copy);
  call.second_copy = std::move(y.copy);
  return call;
}

// [..., groups * statistics of a group]
std::vector<int64_t> stats_sizes(const RowUnitCall& call) {
  std::vector<int64_t> result(call.first.sizes, call.first.sizes + call.first.rank);
  result.back() = call.args.groups * stats_count(call.args.settings);
  return result;
}

// So few rows that a sum of them in the type of the arithmetic keeps its digits, and so many blocks
// that all threads or multiprocessors have one; on a GPU no more than are quickly added up.
int64_t block_count(int64_t rows, bool on_gpu) {
  constexpr int64_t kRows = 64, kLeast = 64, kLeastOnGpu = 256, kMostOnGpu = 1024;
  const int64_t least = std::min(rows, on_gpu ? kLeastOnGpu : kLeast);
  int64_t blocks = std::max((rows + kRows - 1) / kRows, least);
  if (on_gpu) blocks = std::min(blocks, kMostOnGpu);
  const int64_t rows_per_block = (rows + blocks - 1) / blocks;
  return (rows + rows_per_block - 1) / rows_per_block;  // none is empty
}

// Parts and blocks depend on the shape alone, so that every number of threads adds alike.
void run_on_cpu(Direction direction, RowUnitArgs args) {
  args.parts = (args.cols + kGrain - 1) / kGrain;
  const int64_t width = args.groups * args.cols;
  if (!args.parameter_sums) {
    const int64_t rows_per_block = std::max<int64_t>(kGrain / width, 1);
    args.row_blocks = (args.rows + rows_per_block - 1) / rows_per_block;
  }
  const int64_t rows_per_block = args.rows_per_block();
  const bool whole = args.parts == 1;  // a row stays in the caches between its passes
  std::vector<double> partials;
  if (!whole) {
    partials.resize(args.rows * args.groups * args.parts * kRowSums);
    args.partials = partials.data();
  }
  const int64_t grain = std::max<int64_t>(kGrain * args.parts / (width * rows_per_block), 1);
  const auto run = [&](bool adds, bool finishes) {
    parallel_for(args.row_blocks * args.parts, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i / args.parts * rows_per_block;
        cpu::row_unit_rows(direction, args, first, std::min(first + rows_per_block, args.rows),
                           i % args.parts, adds, finishes);
      }
    });
  };
  if (!whole) run(true, false);
  run(whole, true);
}

void run(Direction direction, const RowUnitCall& call) {
  const RowUnitArgs& args = call.args;
  if (args.rows == 0 || args.cols == 0) return;
  const bool forward = direction == Direction::kForward;
  run_where_it_is(
      call.first,
      [&](void* stream) {
        return forward ? cuda::row_unit_forward(args, stream)
                       : cuda::row_unit_backward(args, stream);
      },
      [&] { run_on_cpu(direction, args); });
}

std::tuple<Tensor, Tensor> row_unit_forward(const Tensor& first, const Tensor& second,
                                            const OptionalTensor& weight,
                                            const OptionalTensor& bias, int64_t unit, double number,
                                            int64_t groups) {
  RowUnitCall call = checked_call(first, second, weight, bias, unit, number, groups);
  NewMatrix out(call.first, call.first.last_size());
  const std::vector<int64_t> sizes = stats_sizes(call);
  Tensor stats = new_tensor(call.first, real_dtype(call.first), call.first.rank, sizes.data());
  call.args.out = out.matrix;
  call.args.stats = data_of(stats);
  run(Direction::kForward, call);
  return {std::move(out.tensor), std::move(stats)};
}

// A parameter whose gradient is wanted: the sums over all rows from the column `first` on.
struct Summed {
  View vector;
  int64_t first;
  OptionalTensor* gradient;
};

// Runs backward and makes these gradients, of the `width` columns that a block of rows adds up.
void run_with_sums(RowUnitCall& call, int64_t width, const std::vector<Summed>& summed) {
  RowUnitArgs& args = call.args;
  for (const auto& [vector, first, gradient] : summed)
    *gradient = new_tensor(vector, vector.dtype, vector.rank, vector.sizes);
  if (args.rows == 0 || args.cols == 0) {
    for (const Summed& s : summed) set_to_zero(**s.gradient);
    return;
  }
  const int32_t real = real_dtype(call.first);
  args.row_blocks = block_count(args.rows, call.first.is_cuda());
  const int64_t sizes[] = {args.row_blocks, width};
  const Tensor partials = new_tensor(call.first, real, 2, sizes);
  args.parameter_sums = data_of(partials);
  ReduceArgs reduce{args.dtype, {}};
  for (const auto& [vector, first, gradient] : summed) {
    char* columns = static_cast<char*>(args.parameter_sums) + first * real_size(args.dtype);
    reduce.add({{columns, width},
                args.row_blocks,
                vector.numel,
                data_of(**gradient),
                vector.dtype == real,
                false,
                false});
  }
  run(Direction::kBackward, call);
  run_reduction(call.first, reduce);
}

// A gradient that is not needed is [0].
std::tuple<Tensor, Tensor, Tensor, Tensor> row_unit_backward(
    const Tensor& grad_tensor, const Tensor& first_tensor, const Tensor& second_tensor,
    const OptionalTensor& weight, const OptionalTensor& bias, const Tensor& stats_tensor,
    int64_t unit, double number, int64_t groups, int64_t needs) {
  RowUnitCall call = checked_call(first_tensor, second_tensor, weight, bias, unit, number, groups);
  RowUnitArgs& args = call.args;
  const View& first = call.first;
  const char* name = names_of(args.settings.unit).first;
  const View grad_out(grad_tensor, "grad_out"), stats(stats_tensor, "stats");
  check_matches(grad_out, "grad_out", first, name, first.last_size());
  if (!same_sizes(stats, first.rank, stats_sizes(call).data()))
    fail("stats: expected the statistics of each row of ", name, " of shape ", shape_of(first),
         ", got shape ", shape_of(stats));
  if (stats.dtype != real_dtype(first))
    fail("stats: expected the type that ", name, " is computed in");
  if (!same_device(stats, first)) fail("stats: expected the device of ", name);
  const ReadMatrix grad(grad_out);
  const bool dense_already = stats.aligned && is_contiguous(stats);
  const Tensor dense = dense_already ? stats_tensor : copy_of(stats);
  std::optional<NewMatrix> grad_first, grad_second;
  if (needs & kFirst) grad_first.emplace(first, first.last_size());
  if (needs & kSecond) grad_second.emplace(first, first.last_size());
  args.grad_out = grad.matrix;
  args.stats = data_of(dense);
  if (grad_first) args.grad_first = grad_first->matrix;
  if (grad_second) args.grad_second = grad_second->matrix;
  OptionalTensor grad_weight, grad_bias;
  std::vector<Summed> summed;
  if (weight && needs & kWeight) summed.push_back({View(*weight, "weight"), 0, &grad_weight});
  if (bias && needs & kBias) summed.push_back({View(*bias, "bias"), kCoefficients, &grad_bias});
  if (!summed.empty()) {
    run_with_sums(call, bias ? kRowParameters : first.last_size(), summed);
  } else if (needs & (kFirst | kSecond)) {
    run(Direction::kBackward, call);
  }
  const auto or_empty = [&](OptionalTensor& t) { return t ? std::move(*t) : new_empty(first); };
  return {result(grad_first, first), result(grad_second, first), or_empty(grad_weight),
          or_empty(grad_bias)};
}

void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("row_unit_forward", TORCH_BOX(&row_unit_forward));
  m.impl("row_unit", TORCH_BOX(&row_unit_forward));
  m.impl("row_unit_backward", TORCH_BOX(&row_unit_backward));
}

}  // namespace

FUSED_ACTS_DEFINE(m) {
  m.def(
      "row_unit_forward(Tensor first, Tensor second, Tensor? weight, Tensor? bias, int unit, float "
      "number, int groups) -> (Tensor, Tensor)");
  m.def(
      "row_unit(Tensor first, Tensor second, Tensor? weight, Tensor? bias, int unit, float number, "
      "int groups) -> (Tensor, Tensor)");
  m.def(
      "row_unit_backward(Tensor grad_out, Tensor first, Tensor second, Tensor? weight, Tensor? "
      "bias, Tensor stats, int unit, float number, int groups, int needs) -> (Tensor, Tensor, "
      "Tensor, Tensor)");
}

FUSED_ACTS_IMPLEMENT(CPU, m) { implement(m); }
FUSED_ACTS_IMPLEMENT(CUDA, m) { implement(m); }

}  // namespace fused_acts
