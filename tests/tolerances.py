"""How far a result may be from the exact value: the budgets, and the ulp they are counted in."""

import math

import torch
from cases import FUNCTIONS, PRODUCTS, Exact, Result
from torch import Tensor

# Products of these are rounded once and nowhere else: half an ulp in every dtype and direction.
EXACT = {"identity", "relu"}
EXACT_ULPS = 0.5
# These round once themselves, by a relative 2^-24 in float32: an ulp at most of the product, which
# adds its own half.
ROUNDED_ONCE = {*PRODUCTS, "plus_one"}
ROUNDED_ONCE_ULPS = 1.5
# One rounding costs half an ulp; the rest is the error of the float32 arithmetic before it, and in
# bfloat16 that of a reciprocal by an instruction that is good to a relative 2^-14, 0.016 ulp.
FORWARD_ULPS = {torch.bfloat16: 0.52, torch.float16: 0.55}
GRADIENT_ULPS = {torch.bfloat16: 1.0, torch.float16: 1.0}
# In float32 a function's own error shows. The GELUs have more of it: their exponent is a square.
# tanh has less: a product with a sigmoid has the sigmoid's.
FLOAT32_ULPS = 6.0
FLOAT32_ULPS_OF = {"gelu": 16.0, "gelu_tanh": 16.0, "tanh": 3.0}
# Where torch's own float32 functions lose nothing, at gates of size 1 and below, ours may be this
# much further off at the worst: tanh and softplus are, by less.
FLOAT32_ULPS_BEYOND_TORCH = 0.55
# In float64 the oracle rounds as the kernels do, so this is no claim in ulps: 1e-12 relative, far
# below what gradcheck sees (differences over a step of 1e-6, compared to one part in 1000).
FLOAT64_ULPS = 1e-12 * 2.0**52
# A gradient below this part of |grad_out * (the other factor)| is near a root of the derivative,
# where relative error has no meaning: there the budget is counted in ulps of this floor.
GRADIENT_FLOOR = 2.0**-8
# A value near a root has the error of its terms in it, which in 16-bit types is some 4e-6 of their
# size, and in bfloat16 is to be less than a fiftieth of an ulp, in float16 than a twentieth.
FORWARD_FLOOR = {
    torch.bfloat16: 2.0**-4,
    torch.float16: 2.0**-2,
    torch.float32: 1.0,
    torch.float64: 1.0,
}
# In float32 that floor is the whole of it. A derivative s + x*s*(1 - s) has in it the rounding of
# 1 - s, made at size 1, times x, until s is 1: that is at x = 17 for the sigmoid, while the steeper
# ones of the GELUs bring x*slope to 35. torch's own derivatives do the same. Not so the derivatives
# that have no root.
FLOAT32_GRADIENT_FLOOR = 1.0
FLOAT32_GRADIENT_ULPS = 18.0
FLOAT32_GRADIENT_ULPS_OF = {"gelu": 36.0, "gelu_tanh": 36.0}
FLOAT32_GRADIENT_ULPS_WITHOUT_ROOT = {"tanh": 8.0, "elu": 8.0, "softplus": 6.0}
# With options, in float32 and float64, the rounding of gate + bias, of beta * gate and of up + 1
# comes before the products, and may cancel there. So these are ulps of the size of all that is
# added and multiplied.
REAL_ULPS = {torch.float32: 4.0, torch.float64: 4.0}
# The gradient by a weight of a row is a sum over its columns of terms that are each off by what the
# budgets above have for the arithmetic: in 16-bit types a part of the size of the term, else of
# what is added and multiplied in it.
ROW_WEIGHT_LOST = {
    torch.bfloat16: 0.02 * 2.0**-7,
    torch.float16: 0.05 * 2.0**-10,
    torch.float32: REAL_ULPS[torch.float32] * 2.0**-23,
    torch.float64: REAL_ULPS[torch.float64] * 2.0**-52,
}
# Over the columns of a model these errors fall out: as a part of the sum of the terms' sizes. Not
# all of it in bfloat16, where a reciprocal is an instruction that is good to 2^-14: 6e-6 is seen.
WIDE_ROW_WEIGHT_LOST = {torch.bfloat16: 1e-5, torch.float16: 1e-6, torch.float32: 1e-6}
# A second derivative is a sum of two products, rounded once; each has in it the error of 1 - s and
# the like, which counts at the size of the sum's terms (as for the first one, above).
SECOND_ULPS = {torch.bfloat16: 1.0, torch.float16: 1.0, torch.float32: 48.0, torch.float64: 4500.0}
SECOND_FLOOR = {
    torch.bfloat16: GRADIENT_FLOOR,
    torch.float16: GRADIENT_FLOOR,
    torch.float32: 1.0,
    torch.float64: 1.0,
}
# softmax_glu forward and by up, and by gate in ulps of what is subtracted in it. In float32 the
# difference from the largest gate is rounded by half an ulp of its size, and its exponential takes
# that on: 2.0**-24 times the 40 that test rows reach, or 40 ulp, as in torch, whose sum adds more.
SOFTMAX_GLU_ULPS = {
    torch.bfloat16: 0.55,
    torch.float16: 0.55,
    torch.float32: 48.0,
    torch.float64: FLOAT64_ULPS,
}
# Units of whole rows: a rounding of the result, and what is lost before, a part of the size of all
# that is added up in it: in 16-bit dtypes that of their functions, else a dozen roundings.
ROW_UNIT_ULPS = {
    torch.bfloat16: 0.55,
    torch.float16: 0.55,
    torch.float32: 1.0,
    torch.float64: 1.0,
}
ROW_UNIT_LOST = {
    torch.bfloat16: 2.0**-15,
    torch.float16: 2.0**-15,
    torch.float32: 16 * 2.0**-24,
    torch.float64: 1e-13,
}
# Where results below the smallest normal number may be flushed to zero; they are taken to be below
# if the float32 arithmetic may have put them there: by this, or by what the budget has for it.
MAY_FLUSH = {torch.bfloat16, torch.float32, torch.float64}
FLUSH_MARGIN = 1.0 + 2.0**-17
# The results of a whole block, against those of torch: the same products with the weights, summed
# in another order or in one piece instead of two, around a unit that rounds less.
FFN_ERROR_RATIO = 1.5

# A whole model with and without fused gates, in float32. The gates differ by the budgets above, and
# sums, norms and the softmax carry that into every element: it is counted in ulps of the largest
# element of a tensor. Twice what tiny models show (12), whose own error is of the same size.
MODEL_ULPS = 24.0
# With experts sums are in more orders: transformers' own implementations of tiny models are up to
# 20 apart, and so are ours from them.
EXPERTS_ULPS = 40.0
# In 16 bits the routed weight is part of the unit's one rounding: output and gradients are 0.16
# to 0.95 as far from float64, as root mean squares, as those of transformers' grouped_mm.
EXPERTS_ERROR_RATIO = 0.97
# In bfloat16 both are far from a float32 run, as root mean squares: patched 0.75 to 1.1 times as
# far as before over families and seeds, mostly less, as one rounding has gone.
MODEL_ERROR_RATIO = 1.15
# The loss of a tiny model after some steps in float32, relative, with fused blocks and without:
# roundings that differ, carried on by each step. 2e-7 is seen; a wrong gradient shows as 1e-3.
TRAINED_LOSS = 1e-5

# The same function of float64 numbers, computed in another order: some 1e6 times what rounding
# makes of a dozen operations, and 1e6 below a wrong term. Third derivatives add up more of them.
CLOSE = {"rtol": 1e-10, "atol": 1e-12}
CLOSE_THIRD = {"rtol": 1e-9, "atol": 1e-11}
# Of a product of quantised values, of the largest in it: what sums in float32 lose.
QUANTIZED_PRODUCT = 1e-6
# What quantisation itself loses, in the norm of a product with a matrix.
QUANTIZED_ERROR = {
    "fp8_tensor": 0.035,
    "fp8_row": 0.035,
    "int8_row": 0.02,
    "fp8_block128": 0.035,
    "mxfp8": 0.035,
    "nvfp4": 0.12,
}
# For the cells of docs/support.md, by the type that is computed in, as a part of a tensor's largest
# value: whether something works at all, not how well.
SUPPORT = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 0.05}


def budget(name: str, dtype: torch.dtype) -> float:
    """Ulps that a forward result may be off, its own rounding included."""
    functions = set(FUNCTIONS[name])
    if functions <= EXACT:
        return EXACT_ULPS
    if dtype == torch.float64:
        return FLOAT64_ULPS
    if dtype == torch.float32 and functions <= EXACT | ROUNDED_ONCE:
        return ROUNDED_ONCE_ULPS
    if dtype == torch.float32:
        return max(FLOAT32_ULPS_OF.get(function, FLOAT32_ULPS) for function in functions - EXACT)
    return FORWARD_ULPS[dtype]


def gradient_budget(name: str, by: int, dtype: torch.dtype) -> tuple[float, float]:
    """(ulps, floor) of the gradient by operand 0, gate, or 1, up. The floor is that of the ulp."""
    function = FUNCTIONS[name][by]
    if set(FUNCTIONS[name]) <= EXACT:
        return EXACT_ULPS, 0.0
    if function in EXACT | ROUNDED_ONCE:  # a derivative without root and error: 1, a slope, 2x
        return GRADIENT_ULPS.get(dtype, budget(name, dtype)), 0.0
    if dtype == torch.float64:
        return FLOAT64_ULPS, GRADIENT_FLOOR
    if dtype == torch.float32 and function in FLOAT32_GRADIENT_ULPS_WITHOUT_ROOT:
        return FLOAT32_GRADIENT_ULPS_WITHOUT_ROOT[function], GRADIENT_FLOOR
    if dtype == torch.float32:
        ulps = FLOAT32_GRADIENT_ULPS_OF.get(function, FLOAT32_GRADIENT_ULPS)
        return ulps, FLOAT32_GRADIENT_FLOOR
    return GRADIENT_ULPS[dtype], GRADIENT_FLOOR


def ulp(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance between neighbouring numbers of dtype at value (float64)."""
    info = torch.finfo(dtype)
    lowest, highest = math.frexp(info.smallest_normal)[1], math.frexp(info.max)[1]
    exponent = torch.where(value == 0, lowest, value.frexp().exponent).clamp(lowest, highest)
    exponent += math.frexp(info.eps)[1] - 2
    # The bits of 2.0**exponent: torch.ldexp would go through float32.
    return (exponent.long().clamp(min=-1022) + 1023).bitwise_left_shift(52).view(torch.float64)


def ulp_distance(actual: Tensor, exact: Tensor, floor: Tensor | None = None) -> Tensor:
    """|actual - exact| in ulps of actual's dtype, taken at exact or at floor if that is larger.

    Infinity stands where the next number after the largest would be, so that overflow counts as
    rounding does it. NaN is at no distance from NaN, and infinitely far from everything else.
    """
    assert exact.dtype == torch.float64 and actual.shape == exact.shape
    dtype, actual = actual.dtype, actual.double()
    if dtype != torch.float64:
        end = 2.0 ** math.frexp(torch.finfo(dtype).max)[1]
        actual, exact = actual.clamp(-end, end), exact.clamp(-end, end)
    distance = (actual - exact).abs() / ulp(larger(exact, floor), dtype)
    same = (actual == exact) | (actual.isnan() & exact.isnan())
    return torch.where(same, 0.0, distance).nan_to_num(nan=math.inf)


def lost_digits(gate: Tensor, g: Tensor) -> Tensor:
    """What out may lack, where up makes much of a tiny f(gate), see docs/numerics.md.

    The digits of a float32 end at 2^-149: those of f(gate), and of a sigmoid that gate multiplies.
    """
    return ((gate.abs() + 1.0) * g.abs() * 2.0**-149).nan_to_num(posinf=0.0)


def larger(exact: Tensor, floor: Tensor | None) -> Tensor:
    return exact.abs() if floor is None else exact.abs().maximum(floor)


def check(
    actual: Tensor,
    exact: Tensor,
    ulps: float,
    floor: Tensor | None = None,
    lost: Tensor | None = None,
) -> None:
    """Fails, showing the worst element, if actual is more than ulps, and lost, away from exact."""
    distance = ulp_distance(actual, exact, floor)
    if lost is not None:
        distance = (distance - lost / ulp(larger(exact, floor), actual.dtype)).clamp(min=0.0)
    if actual.dtype in MAY_FLUSH:
        smallest = torch.finfo(actual.dtype).smallest_normal
        margin = (ulps - 0.5) * ulp(larger(exact, floor), actual.dtype)
        flushed = (actual == 0) & (exact.abs() - margin < smallest * FLUSH_MARGIN)
        distance = torch.where(flushed, 0.0, distance)
    if distance.numel() == 0 or distance.max() <= ulps:
        return
    worst = int(distance.argmax())
    raise AssertionError(
        f"{int((distance > ulps).sum())} of {distance.numel()} elements are off by more than "
        f"{ulps} ulp of {actual.dtype}; the worst, element {worst}, by "
        f"{distance.flatten()[worst].item():.4g}: {actual.flatten()[worst].item()!r}, "
        f"exactly {exact.flatten()[worst].item()!r}"
    )


def close(actual: object, expected: object) -> None:
    """Tensors of float64, or tuples of them, of one function computed in two ways."""
    torch.testing.assert_close(actual, expected, **CLOSE)


def allowed_sum(
    dtype: torch.dtype, dtype_of_sum: torch.dtype, right: Tensor, total: Tensor, added: int
) -> Tensor:
    """How far a sum of `added` numbers, whose sizes add up to total, may be from the right one.

    Each addition rounds once, to 2^-24 of what has been added up, in groups of a few dozen. The
    terms themselves have the error of the arithmetic: in 16-bit dtypes what the budget leaves to
    it, 2^-15 of their size.
    """
    own = 0.0 if dtype in REAL_ULPS else 2.0**-15
    unit = torch.finfo(torch.promote_types(dtype, torch.float32)).eps / 2
    result = torch.finfo(dtype_of_sum).eps / 2 * right.abs()
    return ((min(added, 96) + 32) * unit + own) * total + result + 1e-37


def check_forward(
    name: str,
    out: Tensor,
    exact: Tensor,
    lost: Tensor | None = None,
    size: Tensor | None = None,
) -> None:
    """size: that of what cancels in out, if anything does."""
    floor = None if size is None else size * FORWARD_FLOOR[out.dtype]
    check(out, exact, budget(name, out.dtype), floor, lost)


def check_gradient(
    name: str, by: int, grad: Tensor, exact: Tensor, scale: Tensor, lost: Tensor | None = None
) -> None:
    """scale: grad_out times the factor that is not differentiated."""
    ulps, floor = gradient_budget(name, by, grad.dtype)
    check(grad, exact, ulps, scale.abs() * floor, lost)


def check_result(
    name: str,
    result: Result,
    exact: Exact,
    lost: Tensor | None = None,
    lost_by_up: Tensor | None = None,
) -> None:
    """lost: what out may lack, lost_by_up: the gradient by up."""
    check_forward(name, result.out, exact.out, lost, exact.size)
    check_gradient(name, 0, result.grad_gate, exact.grad_gate, exact.gate_scale)
    if exact.grad_up is not None:
        check_gradient(name, 1, result.grad_up, exact.grad_up, exact.up_scale, lost_by_up)


def check_model(
    actual: Tensor, expected: Tensor, size: float = 0.0, ulps: float = MODEL_ULPS
) -> None:
    """One tensor that a model computes: its output, or the gradient of a parameter.

    size: what its elements are sums of, where it may be small itself.
    """
    exact = expected.double()
    check(actual, exact, ulps, exact.abs().max().clamp(min=size))
