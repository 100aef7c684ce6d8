"""What the tests iterate over, and the two ways to compute it: the library and the oracle."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import fused_acts
from fused_acts import tables

VARIANTS = fused_acts.variants()
ACTIVATIONS = fused_acts.activations()
ROWS = tables.VARIANTS | tables.ACTIVATIONS  # an activation is a row without g
FUNCTIONS = {name: (row.f.__name__, row.g.__name__) for name, row in tables.VARIANTS.items()}
FUNCTIONS |= {name: (row.f.__name__, "identity") for name, row in tables.ACTIVATIONS.items()}
PRODUCTS = {"leaky_relu", "squared_relu"}  # functions that multiply once
SQUARES = {*PRODUCTS, "xielu"}
ROOTED = {"xielu"}
# Whether torch's max(-0, 0) is -0, as on x86-64. On others and on CUDA it is 0, in a whole vector
# at least, and ours is either.
RELU_KEEPS_THE_SIGN = bool(torch.full((64,), -0.0, dtype=torch.float64).relu().signbit().all())
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
DTYPES_16 = (torch.bfloat16, torch.float16)
PACKED = ("gate_up", "up_gate", "interleaved")
LAYOUTS = ("separate", *PACKED)  # separate: two tensors
UNARY = "unary"  # of an activation: one tensor
CUDA = pytest.param("cuda", marks=pytest.mark.cuda)
DEVICES = ("cpu", CUDA)
# Kernels know no row by name. So what is about indexing is tested with a unit and an activation
# that have plain kernels, and with a unit and an activation that have kernels with numbers only.
KINDS = ("swiglu", "gtu", "swish", "softplus")
FULL = (pytest.mark.slow, pytest.mark.cpu)  # on CUDA not even with `slow`


def widths(device: str) -> tuple[int, ...]:
    """Of rows for general kernels, and on a GPU also for row kernels, of two tiles of columns."""
    return (67,) if device == "cpu" else (67, 280)


def of_each_kind(names: Iterable[str] = ROWS) -> list[Any]:
    """The names as parameters: those of KINDS, and under `slow` the others."""
    return [name if name in KINDS else pytest.param(name, marks=FULL) for name in names]


def rows_and_layouts(names: Iterable[str] = ROWS) -> list[Any]:
    """All names in one layout, those of KINDS in all, and under `slow` the others in all."""
    one = [(name, own_layout(name)) for name in names]
    packed = [(name, layout) for name in names if name in VARIANTS for layout in PACKED]
    slow = [pytest.param(*p, marks=pytest.mark.slow) for p in packed if p[0] not in KINDS]
    return [*one, *(pair for pair in packed if pair[0] in KINDS), *slow]


def own_layout(name: str, layout: str = "separate") -> str:
    """The layout, which an activation has none of."""
    return UNARY if name in ACTIVATIONS else layout


# What the operators take between their tensors and the variant, for a call without options.
NOTHING = (None, None, None, 1.0, 1.0, math.inf, 1.0)


class Result(NamedTuple):
    out: Tensor  # [..., cols]
    grad_gate: Tensor  # [..., cols]
    grad_up: Tensor | None  # [..., cols], None of an activation

    def tensors(self) -> list[Tensor]:
        return [tensor for tensor in self if tensor is not None]


class Exact(NamedTuple):
    """The oracle's result in float64, and what each gradient is multiplied by in it."""

    out: Tensor
    grad_gate: Tensor
    grad_up: Tensor | None
    gate_scale: Tensor  # grad_out * g(up)
    up_scale: Tensor | None  # grad_out * f(gate)
    size: Tensor | None = None  # see size_of


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal to the last bit, the sign of zero and NaNs included."""
    assert one.dtype == other.dtype and one.shape == other.shape
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    return torch.equal(one.contiguous().view(integer), other.contiguous().view(integer))


def random(*shape: int, dtype: torch.dtype, seed: int, scale: float = 1.0) -> Tensor:
    values = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (values * scale).to(dtype)


def nan_at_every_place(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Numbers [..., 19, 19] with a NaN, of both signs and any payload, on the diagonal; without."""
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    quiet = torch.tensor([math.nan], dtype=dtype).view(integer).abs()
    nans = torch.cat((quiet, quiet | 1, quiet | torch.iinfo(integer).min)).view(dtype)
    numbers = torch.tensor([1.0, -90.0, 1e4, 0.0, -0.0], dtype=dtype)
    without = numbers[None, :, None, None].expand(len(nans), len(numbers), 19, 19).contiguous()
    return torch.where(torch.eye(19, dtype=torch.bool), nans[:, None, None, None], without), without


def every_finite(dtype: torch.dtype) -> Tensor:
    """Every finite number of a 16-bit dtype: 65,280 in bfloat16, 63,488 in float16."""
    values = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    return values[values.isfinite()]


def operands(*shape: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """gate, up, grad_out; the gate is spread wide enough to reach the tails."""
    return (
        random(*shape, dtype=dtype, seed=1, scale=4.0),
        random(*shape, dtype=dtype, seed=2),
        random(*shape, dtype=dtype, seed=3),
    )


def pack(gate: Tensor, up: Tensor, layout: str) -> Tensor:
    """[..., cols] twice -> [..., 2 * cols]"""
    if layout == "interleaved":
        return torch.stack((gate, up), -1).flatten(-2)
    return torch.cat((gate, up) if layout == "gate_up" else (up, gate), -1)


def unpack(x: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """[..., 2 * cols] -> gate, up: views [..., cols]"""
    if layout == "interleaved":
        return x[..., 0::2], x[..., 1::2]
    first, second = x.tensor_split(2, -1)
    return (first, second) if layout == "gate_up" else (second, first)


def to_device(tensor: Tensor, device: str) -> Tensor:
    """The same view (strides, offset) of a copy of the whole storage: one contiguous copy."""
    elements = tensor.untyped_storage().nbytes() // tensor.element_size()
    whole = tensor.detach().as_strided((elements,), (1,), 0).to(device, copy=True)
    return whole.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())


def gated(name: str, inputs: Sequence[Tensor], layout: str = "separate") -> Tensor:
    """inputs: (gate, up) for the layout "separate", (x,) for the others."""
    if own_layout(name, layout) == UNARY:
        return fused_acts.activation(*inputs, name)
    chosen = {} if layout == "separate" else {"layout": layout}
    return fused_acts.gated(*inputs, variant=name, **chosen)


def as_inputs(gate: Tensor, up: Tensor, layout: str) -> tuple[Tensor, ...]:
    if layout == UNARY:
        return (gate,)
    return (gate, up) if layout == "separate" else (pack(gate, up, layout),)


def run(
    name: str,
    inputs: Sequence[Tensor],
    grad_out: Tensor | None = None,
    layout: str = "separate",
    device: str = "cpu",
) -> list[Tensor]:
    """[out, gradient of each input], with the inputs' views moved to the device as they are."""
    inputs = [to_device(tensor, device) for tensor in inputs]
    if grad_out is None:
        return [gated(name, inputs, layout).cpu()]
    out = gated(name, [tensor.requires_grad_() for tensor in inputs], layout)
    grads = torch.autograd.grad(out, inputs, to_device(grad_out, device))
    return [out.detach().cpu(), *(grad.cpu() for grad in grads)]


def forward(
    name: str, gate: Tensor, up: Tensor, layout: str = "separate", device: str = "cpu"
) -> Tensor:
    inputs = as_inputs(gate, up, own_layout(name, layout))
    return run(name, inputs, None, layout, device)[0]


def forward_backward(
    name: str,
    gate: Tensor,
    up: Tensor,
    grad_out: Tensor,
    layout: str = "separate",
    device: str = "cpu",
) -> Result:
    """Of an activation, gate is its x, and up is ignored."""
    layout = own_layout(name, layout)
    out, *grads = run(name, as_inputs(gate, up, layout), grad_out, layout, device)
    if layout == UNARY:
        return Result(out, *grads, None)
    return Result(out, *(grads if layout == "separate" else unpack(grads[0], layout)))


def call_numbers(row):
    """The values of two parameters, as the operators take them."""
    return [*row.parameters.values(), 1.0, 1.0][:2]


def default_parameters(name: str, dtype: torch.dtype) -> dict[str, float]:
    """The row's parameters as options, rounded to the type of the arithmetic as torch does."""
    real = torch.promote_types(dtype, torch.float32)
    return {n: torch.tensor(v, dtype=real).item() for n, v in ROWS[name].parameters.items()}


def factors(name: str, gate: Tensor, up: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """f(gate) and g(up) of a call in dtype, with the row's own parameter and limit.

    NaN is within the limit: the gradient of torch.clamp at NaN is 0, which would swallow it.
    """
    row = ROWS[name]
    values = [*default_parameters(name, dtype).values()]
    if name in ACTIVATIONS:
        return row.f(gate, *values), torch.ones_like(gate)
    return factors_of(row, gate, up, values, row.limit)


def factors_of(row, gate, up, values, limit, f=None):
    """f(gate) and g(up) of a unit with these parameters and limit; f: in the place of its own."""
    f = f or row.f

    def cut(x):
        return x if limit is None else torch.where(x > limit, limit, x)

    of_gate = f(gate if row.limits_value else cut(gate), *values[:1])
    if row.limits_value and limit is not None:
        # f is not differentiated where it is cut off: its own gradient may be NaN there.
        beyond = of_gate.detach() > limit
        of_gate = torch.where(beyond, limit, f(torch.where(beyond, 0.0, gate), *values[:1]))
    if limit is not None:
        up = torch.where(up.abs() > limit, up.detach().sign() * limit, up)
    return of_gate, row.g(up, *values[1:])


def exact_forward(name: str, gate: Tensor, up: Tensor) -> Tensor:
    f, g = factors(name, gate.double(), up.double(), gate.dtype)
    return f * g


def exact(name: str, gate: Tensor, up: Tensor, grad_out: Tensor) -> Exact:
    wide = [tensor.detach().double().requires_grad_() for tensor in (gate, up)]
    grad_out = grad_out.double()
    f, g = factors(name, *wide, gate.dtype)
    inputs = wide[: 1 if name in ACTIVATIONS else 2]
    grads = torch.autograd.grad(f * g, inputs, grad_out)
    f, g = f.detach(), g.detach()
    if name in ACTIVATIONS:
        return Exact(f, *grads, None, grad_out, None, size_of(name, wide[0].detach()))
    return Exact(f * g, *grads, grad_out * g, grad_out * f)


def size_of(name: str, gate: Tensor) -> Tensor | None:
    """That of what cancels in f(gate), where it has a root elsewhere than at 0."""
    return gate.double().abs() if FUNCTIONS[name][0] in ROOTED else None


def in_range(name: str, gate: Tensor) -> Tensor:
    """Where f(gate), if it has a product, is zero or a normal number of the arithmetic.

    Elsewhere it overflows or loses digits, as torch's own float32 product does.
    """
    if FUNCTIONS[name][0] not in SQUARES:
        return torch.ones_like(gate, dtype=torch.bool)
    info = torch.finfo(torch.promote_types(gate.dtype, torch.float32))
    f, _ = factors(name, gate.double(), gate.double(), gate.dtype)
    return (f == 0) | ((f.abs() >= info.smallest_normal) & (f.abs() <= info.max))


def whole_range(dtype: torch.dtype, dense: int = 200_001, sparse: int = 20_000) -> Tensor:
    """From the largest numbers down to the subnormals, and densely over the tails."""
    magnitude = torch.logspace(-45, 38.5, sparse, dtype=torch.float64)
    line = torch.linspace(-120, 120, dense, dtype=torch.float64)
    return torch.cat((magnitude, -magnitude, line)).to(dtype)
