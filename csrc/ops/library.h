// Where the operators are registered: torch.ops.fused_acts, or the namespace of its own that a
// builder of Hub kernels gives each version, so that several can be loaded.
#pragma once

#include <torch/csrc/stable/library.h>

#ifndef TORCH_EXTENSION_NAME
#define TORCH_EXTENSION_NAME fused_acts
#endif

// One step more, in which the namespace's macro is expanded.
#define FUSED_ACTS_FRAGMENT(ns, m) STABLE_TORCH_LIBRARY_FRAGMENT(ns, m)
#define FUSED_ACTS_IMPL(ns, key, m) STABLE_TORCH_LIBRARY_IMPL(ns, key, m)

#define FUSED_ACTS_DEFINE(m) FUSED_ACTS_FRAGMENT(TORCH_EXTENSION_NAME, m)
#define FUSED_ACTS_IMPLEMENT(key, m) FUSED_ACTS_IMPL(TORCH_EXTENSION_NAME, key, m)
