// Programmatic dependent launch: from sm_90 on the blocks of a kernel may be there before the
// kernel ahead of it in its stream has ended, and so get ready beside its last ones.
//
// launch_kernel asks for it, so every kernel calls both, in every thread: at its start
// let_next_kernel_start, behind arithmetic that needs no memory wait_for_previous_kernel, and only
// then reads, writes or returns. A kernel whose threads leave without having waited may end before
// the one ahead of it, and what comes next in the stream waits for its end alone.
#pragma once

#include "cuda/vector.cuh"

namespace fused_acts::cuda {

FUSED_ACTS_DEVICE void let_next_kernel_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Until it has ended, and all that it wrote can be read: by coherent loads, for ptxas may move a
// non-coherent one (ld.global.nc, __ldg) ahead of it.
FUSED_ACTS_DEVICE void wait_for_previous_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace fused_acts::cuda
