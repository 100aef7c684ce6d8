// The mathematics: unary activations, for host and device.
//
// Each activation is a functor over a math M (elementary.h) with
//   value(x)     f(x)
//   dual(x)      {f(x), f'(x)}
//   triple(x)    {f(x), f'(x), f''(x)}
// each sharing what its parts have in common; derivatives are of the kinds in dual.h. An
// activation with a parameter is made from it and also has
//   by_parameter(x, seed)   the derivative of f by the parameter, times seed; 0 where it vanishes,
//                           also next to an infinite or NaN seed, as torch masks it
// and one with two also by_second(x, seed).
// All are written without branches, so that one source serves a CUDA thread and a CPU vector lane.
#pragma once

#include "math/activations_piecewise.h"
#include "math/activations_smooth.h"
