// All loops of an instruction set and a storage type; of a unit of one's own those of gated units
// alone. Only for the files that compile them.
#pragma once

#include "cpu/loop_glu.h"

#ifndef FUSED_ACTS_OWN
#include "cpu/loop_maxout.h"
#include "cpu/loop_quantize.h"
#include "cpu/loop_row_units.h"
#include "cpu/loop_softmax.h"
#endif

namespace fused_acts::cpu {
namespace {

// Second derivatives and what sums over rows, in which more cancels and adds up, have a math of
// their own.
template <class Isa, class T, DType dtype, template <class> class Math,
          template <class> class CloseMath = Math>
constexpr Loops all_loops() {
#ifdef FUSED_ACTS_OWN
  return {glu_loop<Isa, T, Math, CloseMath>};
#else
  using Softmax = SoftmaxLoops<Isa, T, CloseMath>;
  using Maxout = MaxoutLoops<T, dtype>;
  using Quantize = QuantizeLoops<(Isa::kLanes > 1)>;
  using RowUnits = RowUnitLoops<Isa, T, CloseMath>;
  return {glu_loop<Isa, T, Math, CloseMath>,
          convert<Isa, T, typename Isa::Lane>,
          convert<Isa, typename Isa::Lane, T>,
          {Softmax::sum_up, Softmax::forward, Softmax::backward_up, Softmax::backward_gate},
          {Maxout::forward, Maxout::backward},
          {RowUnits::add, RowUnits::forward, RowUnits::add_backward, RowUnits::backward},
          {Quantize::largest, Quantize::scale, Quantize::quantize, Quantize::pack,
           Quantize::from_e4m3}};
#endif
}

}  // namespace
}  // namespace fused_acts::cpu
