// softmax_glu in parts of rows: what a part adds to its row's sum, and then its results.
#include "kernels/softmax_glu.h"

#include <algorithm>
#include <cmath>

#include "cpu/loops.h"

namespace fused_acts::cpu {
namespace {

struct Part {
  int64_t row, first, cols;

  Part(const SoftmaxGluArgs& args, int64_t index) : row(index / args.parts) {
    const int64_t length = (args.cols + args.parts - 1) / args.parts;
    first = index % args.parts * length;
    cols = std::clamp<int64_t>(args.cols - first, 0, length);
  }
};

template <class T>
class Call {
 public:
  explicit Call(const SoftmaxGluArgs& args) : args_(args), loops_(loops_for(args.dtype).softmax) {}

  void add_forward(int64_t index) const {
    const Part part(args_, index);
    double* partial = args_.partials + 2 * index;
    partial[0] = kLowest<Real>;
    partial[1] = 0;
    loops_.sum_up(at(args_.gate, part), part.cols, &partial[0], &partial[1]);
  }

  void forward(int64_t index) const {
    const Part part(args_, index);
    const double* partial = args_.partials + 2 * part.row * args_.parts;
    double largest = kLowest<Real>, sum = 0;
    for (int64_t i = 0; i < args_.parts; ++i) largest = std::max(largest, partial[2 * i]);
    for (int64_t i = 0; i < args_.parts; ++i)
      sum += partial[2 * i + 1] * std::exp(partial[2 * i] - largest);
    const double scale = static_cast<Real>(1.0 / sum);
    loops_.forward(at(args_.gate, part), at(args_.up, part), at(args_.out, part), part.cols,
                   largest, scale);
    if (part.first > 0) return;
    stats(part)[0] = static_cast<Real>(largest);
    stats(part)[1] = static_cast<Real>(scale);
  }

  void add_backward(int64_t index) const {
    const Part part(args_, index);
    args_.partials[index] =
        loops_.backward_up(at(args_.gate, part), at(args_.up, part), at(args_.grad_out, part),
                           args_.grad_up.data ? at(args_.grad_up, part) : nullptr, part.cols,
                           stats(part)[0], stats(part)[1]);
  }

  void backward(int64_t index) const {
    if (!args_.grad_gate.data) return;
    const Part part(args_, index);
    const double* partial = args_.partials + part.row * args_.parts;
    double sum = 0;
    for (int64_t i = 0; i < args_.parts; ++i) sum += partial[i];
    loops_.backward_gate(at(args_.gate, part), at(args_.up, part), at(args_.grad_out, part),
                         at(args_.grad_gate, part), part.cols, stats(part)[0], stats(part)[1], sum);
  }

 private:
  using Real = typename MathFor<T>::type::Real;

  static T* at(const Matrix& operand, const Part& part) {
    return static_cast<T*>(operand.data) + part.row * operand.row_stride + part.first;
  }
  Real* stats(const Part& part) const { return static_cast<Real*>(args_.stats) + 2 * part.row; }

  const SoftmaxGluArgs& args_;
  const SoftmaxLoop& loops_;
};

}  // namespace

void softmax_glu_add(Direction direction, const SoftmaxGluArgs& args, int64_t begin, int64_t end) {
  visit_dtype(args.dtype, [&](auto t) {
    const Call<decltype(t)> call(args);
    for (int64_t i = begin; i < end; ++i)
      direction == Direction::kForward ? call.add_forward(i) : call.add_backward(i);
  });
}

void softmax_glu_finish(Direction direction, const SoftmaxGluArgs& args, int64_t begin,
                        int64_t end) {
  visit_dtype(args.dtype, [&](auto t) {
    const Call<decltype(t)> call(args);
    for (int64_t i = begin; i < end; ++i)
      direction == Direction::kForward ? call.forward(i) : call.backward(i);
  });
}

}  // namespace fused_acts::cpu
