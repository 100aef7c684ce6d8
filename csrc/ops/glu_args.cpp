// The checks of a call to a gated unit, and the choice of what runs it.
#include "ops/glu_args.h"

#include <algorithm>

#include "ops/backend.h"
#include "ops/units.h"

namespace fused_acts {
namespace {

// Below so many elements another thread costs more than it saves.
constexpr int64_t kGrain = 16384;

void run_on_cpu(Direction direction, const GluArgs& args) {
  if (!args.has_row_operands()) {
    parallel_for(args.rows * args.cols, kGrain, [&](int64_t begin, int64_t end) {
      cpu::glu_elements(direction, args, begin, end);
    });
    return;
  }
  const int64_t tiles = cpu::tile_count(args), tile = args.rows * args.cols / tiles;
  parallel_for(tiles, std::max<int64_t>(kGrain / std::max<int64_t>(tile, 1), 1),
               [&](int64_t begin, int64_t end) { cpu::glu_tiles(direction, args, begin, end); });
}

int run_on_cuda(Direction direction, const GluArgs& args, void* stream) {
  const UnitKernels& kernels = args.unit->cuda;
  switch (direction) {
    case Direction::kForward:
      return kernels.forward(args, stream);
    case Direction::kBackward:
      return kernels.backward(args, stream);
    default:
      return kernels.double_backward(args, stream);
  }
}

void check_layout(const UnitCode& unit, const OptionalTensor& up, int64_t layout) {
  if (layout < 0) fail("layout: expected an index that is not negative, got ", layout);
  if (!unit.is_unary) return;
  if (layout != 0) fail("layout: expected 0 for an activation, which has no up, got ", layout);
  if (up) fail("up: expected none for an activation");
}

// The parameters of a unit: one tensor, or for a unit with two of them [2, cols] or [2, 1].
void place_parameters(const Tensor& tensor, const View& gate, bool of_experts, GluArgs* args,
                      OptionalTensor* copy) {
  const View t(tensor, "parameter");
  if (args->unit->parameter_count < 2) {
    args->parameters[0] = row_vector_of(t, "parameter", gate, args->cols, true, of_experts, copy);
    return;
  }
  if ((t.rank != 2 && !(of_experts && t.rank == 3)) || t.sizes[0] != 2 || !is_contiguous(t))
    fail("parameter: expected [2, cols] or [2, 1], contiguous, got ", shape_of(t));
  View each = t;
  --each.rank, each.numel /= 2, ++each.sizes, ++each.strides;
  if (each.numel == 1 && args->cols == 1 && each.rank == 1) each.rank = 0;  // a single value
  args->parameters[0] = row_vector_of(each, "parameter", gate, args->cols, true, of_experts, copy);
  if (*copy) fail("parameter: expected an aligned tensor");
  const int64_t size = element_size(t.dtype);
  args->parameters[1] = args->parameters[0];
  if (t.data) args->parameters[1].data = static_cast<char*>(t.data) + each.numel * size;
}

// Whether there is an operand of one value a column or row.
bool has_columns(const UnitCode& unit, const Options& options) {
  if (options.gate_bias || options.up_bias || options.row_weight || options.experts) return true;
  if (!options.parameter) return false;
  const View parameter(*options.parameter, "parameter");
  const bool pair = unit.parameter_count == 2;
  return parameter.numel != (pair ? 2 : 1) || parameter.rank > (pair ? 2 : 1);
}

// On the CPU a look at them costs nothing to speak of.
void check_values(const Experts& experts, int64_t rows) {
  for (int64_t i = 0; i < experts.ends_count; ++i) {
    const int32_t before = i ? experts.ends[i - 1] : 0;
    if (experts.ends[i] < before || experts.ends[i] > rows)
      fail("offs: expected ends that do not decrease, of ", rows, " rows at most, got ",
           experts.ends[i], " after ", before);
  }
  for (int64_t row = 0; experts.of_row && experts.count && row < rows; ++row)
    if (experts.of_row[row] >= experts.count)
      fail("row_expert: expected an expert below ", experts.count, ", or -1, got ",
           experts.of_row[row]);
}

Experts experts_of(const Options& options, const View& gate, int64_t rows) {
  Experts experts;
  if (!options.experts) return experts;
  const int64_t kind = options.rows & ~kZeroPadding;
  const char* const name = kind == kEnds ? "offs" : kind == kCounts ? "counts" : "row_expert";
  const View t(*options.experts, name);
  check_indices_beside(t, name, gate);
  const auto* const values = static_cast<const int32_t*>(t.data);
  if (kind == kEnds) {
    if (t.rank != 1 || t.numel == 0) fail(name, ": expected shape [experts], got ", shape_of(t));
    experts.ends = values;
    experts.ends_count = t.numel;
  } else if (kind == kCounts) {
    if (gate.rank != 3)
      fail(name, ": expected gate as [experts, rows, cols], got ", shape_of(gate));
    if (t.rank != 1 || t.numel != gate.sizes[0])
      fail(name, ": expected shape [", gate.sizes[0], "], got ", shape_of(t));
    experts.counts = values;
    experts.rows_each = gate.sizes[1];
  } else if (kind == kOfRow) {
    if (t.rank != gate.rank - 1 || !same_sizes(t, t.rank, gate.sizes))
      fail(name, ": expected one for each row of ", shape_of(gate), ", got ", shape_of(t));
    experts.of_row = values;
  } else {
    fail("rows: expected what experts are, 1 to 3, got ", kind);
  }
  if (rows == 0) return Experts{};
  return experts;
}

// How many experts operands have values for: all the same number, or 0.
void count_experts(const Options& options, const View& gate, int64_t rows, GluArgs* args) {
  Experts& experts = args->experts;
  if (!experts.any()) return;
  const auto count = [&](const Tensor* tensor, const char* name, int64_t rank, int64_t first) {
    if (!tensor) return;
    const View t(*tensor, name);
    if (t.rank != rank + 1) return;
    const int64_t expected = experts.ends     ? experts.ends_count
                             : experts.counts ? gate.sizes[0]
                             : experts.count  ? experts.count
                                              : t.sizes[first];
    if (t.sizes[first] != expected || expected == 0)
      fail(name, ": expected values for ", expected, " experts, got shape ", shape_of(t));
    experts.count = expected;
  };
  const bool pair = args->unit->parameter_count == 2;
  count(options.gate_bias, args->unit->is_unary ? "bias" : "gate_bias", 1, 0);
  count(options.up_bias, "up_bias", 1, 0);
  count(options.parameter, "parameter", pair ? 2 : 1, pair ? 1 : 0);
  if (gate.is_cpu()) check_values(experts, rows);
}

}  // namespace

void GluCall::place(const Matrix* first, const Matrix* second, Matrix* to_gate,
                    Matrix* to_up) const {
  if (!is_packed()) {
    if (first) *to_gate = *first;
    if (second) *to_up = *second;
  } else if (first) {
    const int64_t distance = args.block ? args.block : args.step == 2 ? 1 : args.cols;
    *to_gate = *to_up = *first;
    Matrix* behind = layout == kUpGate ? to_gate : to_up;
    behind->data = static_cast<char*>(first->data) + distance * dtype_size(args.dtype);
  }
}

GluCall checked_call(const Tensor& gate_tensor, const OptionalTensor& up_tensor,
                     const Options& options, bool by_elements) {
  const UnitCode& unit = unit_at(options.variant);
  check_layout(unit, up_tensor, options.layout);
  GluCall call{View(gate_tensor, up_tensor ? "gate" : "x"),
               std::nullopt,
               options.layout,
               {},
               {},
               {},
               {},
               {}};
  if (up_tensor) call.up.emplace(*up_tensor, "up");
  const View& gate = call.gate;
  const char* name = call.name();
  GluArgs& args = call.args;
  args.unit = &unit;
  args.dtype = checked_dtype(gate, name);
  if (gate.rank == 0) fail(name, ": expected at least one dimension, got a 0-d tensor");
  const int64_t width = gate.last_size();
  if (call.is_packed() && width % 2 != 0)
    fail("x: expected an even last dimension, gate and up packed, got shape ", shape_of(gate));
  check_device(gate, name);
  if (gate.is_cuda() && !unit.cuda.forward)
    fail<std::runtime_error>(name, ": is on ", device_name(gate),
                             ", but the unit was compiled for the CPU alone. fused_acts.define "
                             "compiles it for a GPU too where fused-acts has CUDA kernels, and "
                             "nvcc and the GPU are found");
  if (call.up) check_matches(*call.up, "up", gate, "gate", width);
  args.rows = width == 0 ? 0 : gate.numel / width;
  args.cols = call.is_packed() ? width / 2 : width;
  if (call.is_packed() && call.layout >= kInterleaved) {
    const int64_t block = call.layout - kInterleaved + 1;
    if (width % (2 * block) != 0)
      fail("x: expected a last dimension of whole blocks, 2 * ", block, " each, got shape ",
           shape_of(gate));
    if (block == 1)
      args.step = 2;
    else
      args.block = block;
  }

  call.permuted = by_elements && unit.is_unary && !has_columns(unit, options) && !is_matrix(gate) &&
                  is_dense(gate);
  ReadMatrix first = call.permuted ? ReadMatrix(gate, gate) : ReadMatrix(gate);
  call.gate_copy = std::move(first.copy);
  if (call.up) {
    ReadMatrix second(*call.up);
    call.up_copy = std::move(second.copy);
    call.place(&first.matrix, &second.matrix, &args.gate, &args.up);
  } else {
    call.place(&first.matrix, nullptr, &args.gate, &args.up);
  }

  args.experts = experts_of(options, gate, args.rows);
  args.zeroes_padding = options.rows & kZeroPadding;
  count_experts(options, gate, args.rows, &args);
  OptionalTensor* copy = call.vector_copies;
  const auto row_vector = [&](const Tensor* t, const char* what) {
    if (!t) return RowVector{};
    return row_vector_of(View(*t, what), what, gate, args.cols, false, options.experts, copy++);
  };
  args.gate_bias = row_vector(options.gate_bias, unit.is_unary ? "bias" : "gate_bias");
  args.up_bias = row_vector(options.up_bias, "up_bias");
  if (options.parameter) place_parameters(*options.parameter, gate, options.experts, &args, copy);
  args.scalars[0] = options.scalar;
  args.scalars[1] = options.second;
  args.limit = options.limit;
  args.weight = options.weight;
  if (options.row_weight && options.weight != 1.0)
    fail("weight: expected a number or one for each row, got both");
  if (options.row_weight)
    args.row_weight =
        column_vector_of(View(*options.row_weight, "weight"), "weight", gate, &call.weight_copy);
  if (!(args.limit >= 0)) fail("limit: expected a number that is not negative, got ", args.limit);
  return call;
}

void run(Direction direction, const GluCall& call) {
  GluArgs args = call.args;
  if (args.rows == 0 || args.cols == 0) return;
  if (!args.has_row_operands()) fold_rows(args);
  run_where_it_is(
      call.gate, [&](void* stream) { return run_on_cuda(direction, args, stream); },
      [&] { run_on_cpu(direction, args); });
}

}  // namespace fused_acts
