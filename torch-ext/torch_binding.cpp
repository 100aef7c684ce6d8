// What makes a Python module of the operators, which csrc/ops/ registers. Hub kernels are built so;
// kernel-builder writes registration.h.
#include "registration.h"

REGISTER_EXTENSION(TORCH_EXTENSION_NAME)
