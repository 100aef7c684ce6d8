#include "tile.h"

namespace fused_acts::cpu {
namespace {

// all: [n]; grad_gate may be any of the inputs, and so may grad_up
template <class F, class G, class Real>
FUSED_ACTS_CLONES void backward_loop(const Real* grad_out, const Real* gate, const Real* up, Real* grad_gate,
                                     Real* grad_up, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const auto f = F{}.dual(gate[i]);
    const auto g = G{}.dual(up[i]);
    const Real grad = grad_out[i];
    grad_gate[i] = grad * (f.derivative * g.value);
    grad_up[i] = grad * (f.value * g.derivative);
  }
}

template <class T, class Gate>
void backward(const GluArgs& args, int64_t begin, int64_t end) {
  using M = typename MathFor<T>::type;
  const int step = args.step;
  Tile<T> grad_out_tile, gate_tile, up_tile, grad_gate_tile, grad_up_tile;
  for_each_tile(args.cols, begin, end, [&](int64_t row, int64_t col, int64_t n) {
    const auto* grad_out = grad_out_tile.load(at<T>(args.grad_out, row, col), 1, n);
    const auto* gate = gate_tile.load(at<T>(args.gate, row, col * step), step, n);
    const auto* up = up_tile.load(at<T>(args.up, row, col * step), step, n);
    T* grad_gate = args.grad_gate.data ? at<T>(args.grad_gate, row, col * step) : nullptr;
    T* grad_up = args.grad_up.data ? at<T>(args.grad_up, row, col * step) : nullptr;
    backward_loop<typename Gate::template F<M>, typename Gate::template G<M>>(
        grad_out, gate, up, grad_gate_tile.place(grad_gate, step), grad_up_tile.place(grad_up, step), n);
    grad_gate_tile.store(grad_gate, step, n);
    grad_up_tile.store(grad_up, step, n);
  });
}

}  // namespace

void glu_backward(const GluArgs& args, int64_t begin, int64_t end) {
  visit_variant(args.variant, [&](auto gate) {
    visit_dtype(args.dtype, [&](auto t) { backward<decltype(t), decltype(gate)>(args, begin, end); });
  });
}

}  // namespace fused_acts::cpu
