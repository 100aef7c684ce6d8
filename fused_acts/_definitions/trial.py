"""Tries a compiled unit against its reference: values, and first and second derivatives."""

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from fused_acts.tables import Activation, Variant, of_gate

# The budgets: how far a result may be off, in ulps of its dtype, taken at the result or at a floor
# if that is larger: what cancels in an expression was rounded at another size. The floor is a part
# of what is largest for |x| <= 2, and of derivatives, which x multiplies once or twice, it grows so
# up to |x| = 32. docs/own-units.md says them.
ULPS = {torch.bfloat16: 1.0, torch.float16: 1.0, torch.float32: 64.0, torch.float64: 5000.0}
FLOOR = {
    torch.bfloat16: 2.0**-6,
    torch.float16: 2.0**-4,
    torch.float32: 2.0**-2,
    torch.float64: 2.0**-2,
}
VALUE, SLOPE, BY_UP = "the value", "the derivative by x", "the derivative by up"
SECOND = "the second derivative by x"
GROWTH = {VALUE: 0, BY_UP: 0, SLOPE: 1}  # by a parameter and of the second derivative: 2
_NEAR = 2.0**-8  # how large a part of the largest number may become infinity
_UP = 1.0  # where g is tried


P = ParamSpec("P")
T = TypeVar("T")


class Difference(NamedTuple):
    """The value that is furthest off."""

    what: str
    dtype: torch.dtype
    ulps: float
    x: float
    got: float
    expected: float
    beyond: int  # how many are beyond the budget
    of: int


def _alone(function: Callable[P, T]) -> Callable[P, T]:
    """In a thread of its own, without the modes, transforms and tracing that a caller of `define`
    may be in. Torch's threads in it would wait for each other hundreds of times: it has one.
    """

    @functools.wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> T:
        before = torch.get_num_threads()
        with ThreadPoolExecutor(1) as thread:
            thread.submit(torch.get_num_threads).result()  # its first call sets the number, too
            thread.submit(torch.set_num_threads, 1).result()
            torch.set_num_threads(before)  # torch keeps the last number for threads to come
            return thread.submit(function, *args, **kwargs).result()

    return alone


@_alone
def check_reference_works(row: Variant | Activation) -> None:
    """A TypeError for a reference that no trial can take."""
    said = (
        "reference: expected a tensor of the shape and dtype of x, which can be differentiated "
        "twice; parameters are given as tensors"
    )
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)
    try:
        parameters = [torch.full_like(x, value) for value in row.parameters.values()]
        out = row.f(x, *of_gate(row, parameters))
    except Exception as error:
        raise TypeError(f"{said}. It raised {type(error).__name__}: {error}") from error
    if not isinstance(out, Tensor):
        raise TypeError(f"{said}. It returned {type(out).__name__}")
    if out.shape != x.shape or out.dtype != x.dtype:
        of = f"shape {list(out.shape)} and {out.dtype}, for {list(x.shape)} and {x.dtype}"
        raise TypeError(f"{said}. It returned one of {of}")
    try:
        _expected(row, x, [*row.parameters.values()])
    except Exception as error:
        raise TypeError(f"{said}. Its derivatives: {type(error).__name__}: {error}") from error


def numbers_of(dtype: torch.dtype) -> Tensor:
    """Every value of a 16-bit type; else as many over the range of float32, and more near 0.

    A reference need not be right where float64 itself overflows.
    """
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32)
    if dtype in (torch.float16, torch.bfloat16):
        return patterns.to(torch.int16).view(dtype)
    random = torch.Generator().manual_seed(0)
    low = torch.randint(0, 2**16, patterns.shape, dtype=torch.int32, generator=random)
    wide = patterns * 2**16 + low
    wide[::256] = patterns[::256] * 2**16  # powers of two, infinities and a zero
    x = wide.view(torch.float32).to(dtype)
    if dtype == torch.float64:
        x = x * (1 + 2.0**-24 * torch.rand(x.shape, dtype=dtype, generator=random))
    near = torch.empty(2**15, dtype=dtype).uniform_(-16, 16, generator=random)
    return torch.cat([x, near, torch.arange(-16, 17, dtype=dtype)])


@_alone
def differences(index: int, row: Variant | Activation, device: str = "cpu") -> list[Difference]:
    """The worst of each dtype and quantity."""
    found = []
    for dtype in ULPS:
        x = numbers_of(dtype)
        values = _as_computed(row, dtype)
        expected = _expected(row, x.double(), values)
        actual = _actual(index, row, x.to(device), values)
        found += [_compare(what, x, got.cpu(), expected[what]) for what, got in actual.items()]
    return found


def check(
    name: str, index: int, row: Variant | Activation, device: str = "cpu"
) -> list[Difference]:
    """The worst differences; a ValueError for what is beyond the budgets."""
    check_reference_works(row)
    found = differences(index, row, device)
    for worst in found:
        if worst.beyond:
            raise ValueError(_message(name, worst, device))
    return found


def _message(name: str, worst: Difference, device: str) -> str:
    dtype = str(worst.dtype).removeprefix("torch.")
    return (
        f"reference: {name} differs from it in {worst.beyond} of {worst.of} values of {dtype} on "
        f"{device}, the most here:\n"
        f"    what      {worst.what}\n"
        f"    x         {worst.x!r}\n"
        f"    got       {worst.got!r}\n"
        f"    expected  {worst.expected!r}\n"
        f"    apart     {worst.ulps:.4g} ulp, of {ULPS[worst.dtype]:g} allowed\n"
        "docs/own-units.md says how to read this"
    )


def _as_computed(row: Variant | Activation, dtype: torch.dtype) -> list[float]:
    """The parameters as the arithmetic has them."""
    real = torch.promote_types(dtype, torch.float32)
    return [torch.tensor(value, dtype=real).item() for value in row.parameters.values()]


def _expected(row: Variant | Activation, x: Tensor, values: list[float]) -> dict[str, Tensor]:
    """By what they are, in float64."""
    x = x.clone().requires_grad_()
    parameters = [torch.full_like(x, value).requires_grad_() for value in values]
    up = torch.full_like(x, _UP).requires_grad_()
    out = row.f(x, *of_gate(row, parameters))
    if isinstance(row, Variant):
        out = out * row.g(up)
    slope = _gradient(out, x, create_graph=True)
    results = {VALUE: out, SLOPE: slope}
    results[SECOND] = _gradient(slope, x)
    for name, parameter in zip(row.parameters, parameters, strict=True):
        results[f"the derivative by {name}"] = _gradient(out, parameter)
    if isinstance(row, Variant):
        results[BY_UP] = _gradient(out, up)
    return {what: result.detach() for what, result in results.items()}


def _gradient(of: Tensor, by: Tensor, create_graph: bool = False) -> Tensor:
    if not of.requires_grad:
        return torch.zeros_like(by)
    (found,) = torch.autograd.grad(
        of.sum(), by, retain_graph=True, create_graph=create_graph, allow_unused=True
    )
    return torch.zeros_like(by) if found is None else found


_Operator = Callable[..., Any]


def _actual(
    index: int, row: Variant | Activation, x: Tensor, values: list[float]
) -> dict[str, Tensor]:
    ops = torch.ops.fused_acts
    unary = isinstance(row, Activation)
    up = None if unary else torch.full_like(x, _UP)
    one = torch.ones_like(x)
    scalars = [*values, 1.0, 1.0][:2]
    numbers = *scalars, None, 1.0, index, 0
    options = None, None, None, *numbers
    rows = None, None, 0
    results = {VALUE: ops.glu_forward_options(x, up, *options, *rows)}
    by_x, by_up, *_ = ops.glu_backward_options(one, x, up, *options, 1 if unary else 3, *rows)
    results[SLOPE] = by_x
    tangent = None if unary else torch.zeros_like(x)
    second = ops.glu_double_backward(one, x, up, one, tangent, *options, False, True)[1]
    results[SECOND] = second
    if values:
        vectors = [torch.full_like(x, value, dtype=_real(x)) for value in values]
        parameter = vectors[0] if len(vectors) == 1 else torch.stack(vectors)
        options_of = None, None, parameter, *numbers
        grads = ops.glu_backward_options(one, x, up, *options_of, 16, *rows)[4]
        by_each = [grads] if len(vectors) == 1 else list(grads)
        for name, grad in zip(row.parameters, by_each, strict=True):
            results[f"the derivative by {name}"] = grad.to(x.dtype)
    if not unary:
        results[BY_UP] = by_up
    return results


def _real(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _compare(what: str, x: Tensor, got: Tensor, expected: Tensor) -> Difference:
    dtype, x64 = got.dtype, x.double()
    asked = ~expected.isnan() if what != VALUE else ~expected.isnan() | x64.isnan()
    if what != VALUE:
        asked &= x64.isfinite()
    if dtype == torch.float64:
        asked &= expected.isfinite() | ~x64.isfinite()
    near = expected[(x64.abs() <= 2) & expected.isfinite()].abs()
    size = float(near.max()) if len(near) else 1.0  # of one that begins further out
    growth = x64.abs().nan_to_num().clamp(1, 32) ** GROWTH.get(what, 2)
    distance = _distance(got, expected, FLOOR[dtype] * size * growth)
    distance = torch.where(asked, distance, 0.0)
    worst = int(distance.argmax())
    return Difference(
        what,
        dtype,
        distance[worst].item(),
        x64[worst].item(),
        got[worst].item(),
        expected[worst].item(),
        int((distance > ULPS[dtype]).sum()),
        len(x),
    )


def _distance(got: Tensor, expected: Tensor, floor: Tensor) -> Tensor:
    """In ulps of the dtype of got. Infinity stands where the next number would be."""
    dtype, info = got.dtype, torch.finfo(got.dtype)
    actual = got.double()
    if dtype != torch.float64:
        end = 2.0 ** math.frexp(info.max)[1]
        actual, expected = actual.clamp(-end, end), expected.clamp(-end, end)
    size = expected.abs().maximum(floor).clamp(info.smallest_normal, info.max)
    exponent = size.frexp().exponent.long() + math.frexp(info.eps)[1] - 2
    ulp = (exponent.clamp(min=-1022) + 1023).bitwise_left_shift(52).view(torch.float64)
    apart = (actual - expected).abs() / ulp
    same = (actual == expected) | (actual.isnan() & expected.isnan())
    # The arithmetic, which has the range of the type, may have gone through more.
    near_the_end = (expected.abs() > info.max * _NEAR) & (got.isinf() & (actual * expected > 0))
    return torch.where(same | near_the_end, 0.0, apart).nan_to_num(nan=math.inf)
