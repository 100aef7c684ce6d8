#include "tile.h"

namespace fused_acts::cpu {
namespace {

// gate, up, out: [n]; out may be gate or up
template <class F, class G, class Real>
FUSED_ACTS_CLONES void forward_loop(const Real* gate, const Real* up, Real* out, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = F{}.value(gate[i]) * G{}.value(up[i]);
}

template <class T, class Gate>
void forward(const GluArgs& args, int64_t begin, int64_t end) {
  using M = typename MathFor<T>::type;
  Tile<T> gate_tile, up_tile, out_tile;
  for_each_tile(args.cols, begin, end, [&](int64_t row, int64_t col, int64_t n) {
    const auto* gate = gate_tile.load(at<T>(args.gate, row, col * args.step), args.step, n);
    const auto* up = up_tile.load(at<T>(args.up, row, col * args.step), args.step, n);
    T* out = at<T>(args.out, row, col);
    forward_loop<typename Gate::template F<M>, typename Gate::template G<M>>(gate, up, out_tile.place(out, 1), n);
    out_tile.store(out, 1, n);
  });
}

}  // namespace

void glu_forward(const GluArgs& args, int64_t begin, int64_t end) {
  visit_variant(args.variant, [&](auto gate) {
    visit_dtype(args.dtype, [&](auto t) { forward<decltype(t), decltype(gate)>(args, begin, end); });
  });
}

}  // namespace fused_acts::cpu
