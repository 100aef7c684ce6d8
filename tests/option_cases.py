"""Calls with options, the same in the oracle in float64, and how far they may be apart."""

from typing import Any, NamedTuple

import torch
from cases import Sequence, as_inputs, to_device, unpack
from tolerances import FORWARD_ULPS, GRADIENT_FLOOR, GRADIENT_ULPS, check
from torch import Tensor, func
from torch.utils._python_dispatch import TorchDispatchMode

import fused_acts

ROWS = fused_acts.reference.VARIANTS
PARAMETRIC = [name for name, row in ROWS.items() if row.parameter]
LIMITED = [name for name, row in ROWS.items() if row.limits]

# In float32 and float64 the rounding of gate + bias, of beta * gate and of up + 1 comes before the
# products, and may cancel there. So these are ulps of the size of all that is added and multiplied.
REAL_ULPS = {torch.float32: 4.0, torch.float64: 4.0}


class Called(NamedTuple):
    out: Tensor
    inputs: list[Tensor]  # gradients by gate and up, or by x
    options: dict[str, Tensor]  # gradients by those options that are tensors


def parameter(variant: str, value: Any) -> dict[str, Any]:
    """The option that sets the parameter of f."""
    return {ROWS[variant].parameter: value}


def numbers_for(variant: str) -> list[dict[str, Any]]:
    """Options of a variant that are numbers."""
    some: list[dict[str, Any]] = []
    if ROWS[variant].parameter:
        some += [parameter(variant, value) for value in (0.6, 1.9, -0.5, 0)]
    if ROWS[variant].limits:
        some += [{"limit": limit} for limit in (1.25, 0, 20, None)]
    if ROWS[variant].limits and ROWS[variant].parameter:
        some.append({**parameter(variant, 1.3), "limit": 0.75})
    return some


def call(
    function: Any,
    inputs: Sequence[Tensor],
    options: dict[str, Any],
    grad_out: Tensor | None = None,
    device: str = "cpu",
    **others: Any,
) -> Called:
    """Runs function on leaves on the device, with gradients by all tensors if there is a grad_out.

    Everything comes back on the CPU.
    """

    def leaf(tensor: Tensor) -> Tensor:
        return to_device(tensor, device).requires_grad_(grad_out is not None)

    inputs = [leaf(tensor) for tensor in inputs]
    options = {n: leaf(v) if isinstance(v, Tensor) else v for n, v in options.items()}
    out = function(*inputs, **options, **others)
    tensors = {name: value for name, value in options.items() if isinstance(value, Tensor)}
    if grad_out is None:
        return Called(out.cpu(), [], {})
    grads = torch.autograd.grad(out, [*inputs, *tensors.values()], to_device(grad_out, device))
    grads = [grad.cpu() for grad in grads]
    return Called(
        out.detach().cpu(),
        grads[: len(inputs)],
        dict(zip(tensors, grads[len(inputs) :], strict=True)),
    )


def fused(
    variant: str,
    gate: Tensor,
    up: Tensor,
    options: dict[str, Any],
    grad_out: Tensor | None = None,
    layout: str = "separate",
    device: str = "cpu",
    **others: Any,
) -> Called:
    """The library's result; gradients by gate and up whatever the layout."""
    if layout != "separate":
        others["layout"] = layout
    inputs = as_inputs(gate, up, layout)
    called = call(fused_acts.gated, inputs, options, grad_out, device, variant=variant, **others)
    if layout == "separate" or grad_out is None:
        return called
    return called._replace(inputs=list(unpack(called.inputs[0], layout)))


class Oracle(NamedTuple):
    called: Called  # in float64
    gate_scale: Tensor  # |grad_out * g(up)|
    up_scale: Tensor  # |grad_out * f(gate)|
    size: Tensor  # that of gate, with its bias and 1, times that of up
    grad_out: Tensor  # its absolute value


def oracle(
    variant: str, gate: Tensor, up: Tensor, options: dict[str, Any], grad_out: Tensor
) -> Oracle:
    """The exact result; biases must be given apart."""
    wide = {n: v.double() if isinstance(v, Tensor) else v for n, v in options.items()}
    called = call(
        fused_acts.reference.gated,
        (gate.double(), up.double()),
        wide,
        grad_out.double(),
        variant=variant,
    )
    row = ROWS[variant]
    z = gate.double() + wide.get("gate_bias", 0.0)
    w = up.double() + wide.get("up_bias", 0.0)
    limit = options.get("limit", row.limit)
    if limit is not None:
        z, w = z.clamp(max=limit), w.clamp(-limit, limit)
    f = row.f(z, wide.get(row.parameter, row.default)) if row.parameter else row.f(z)
    return Oracle(
        called,
        (grad_out.double() * row.g(w)).abs(),
        (grad_out.double() * f).abs(),
        (gate.double().abs() + z.abs() + 1.0) * (up.double().abs() + w.abs() + 1.0),
        grad_out.double().abs(),
    )


def check_call(actual: Called, exact: Oracle) -> None:
    """out and the gradients by gate and up."""
    dtype = actual.out.dtype
    if dtype in REAL_ULPS:
        check(actual.out, exact.called.out, REAL_ULPS[dtype], exact.size)
        for grad, expected in zip(actual.inputs, exact.called.inputs, strict=True):
            check(grad, expected, REAL_ULPS[dtype], exact.grad_out * exact.size)
        return
    check(actual.out, exact.called.out, FORWARD_ULPS[dtype])
    for grad, expected, scale in zip(
        actual.inputs, exact.called.inputs, (exact.gate_scale, exact.up_scale), strict=True
    ):
        check(grad, expected, GRADIENT_ULPS[dtype], scale * GRADIENT_FLOOR)


def check_sums(actual: Called, exact: Oracle, cols: int) -> None:
    """The gradients by biases and parameter: sums over rows, which are added up in float32.

    Each addition rounds once, to 2^-24 of what has been added up. The terms themselves have the
    error of the arithmetic: in 16-bit dtypes what the budget leaves to it, 2^-15 of their size.
    """
    own = 2.0**-15 if actual.out.dtype not in REAL_ULPS else 0.0
    size = (exact.grad_out * exact.size).reshape(-1, cols)
    for name, grad in actual.options.items():
        total = size.sum(0) if grad.dim() == 1 and grad.shape[0] == cols else size.sum()
        added = size.shape[0] if total.dim() else size.numel()
        real = torch.promote_types(actual.out.dtype, torch.float32)
        unit = torch.finfo(real).eps / 2
        allowed = ((added + 32) * unit + own) * total
        allowed = allowed + torch.finfo(grad.dtype).eps / 2 * exact.called.options[name].abs()
        error = (grad.double() - exact.called.options[name]).abs()
        assert (error <= allowed + 1e-37).all(), f"{name}: off by {error.max()} of {allowed.min()}"


def computed(tensor, device="cpu"):
    """A tensor that is no leaf, with the leaf that it is computed from."""
    leaf = to_device(tensor, device).requires_grad_()
    return leaf, leaf * 1


def second(function, inputs, grad_out, directions):
    """[gradients by grad_out, *inputs] of the gradients by the inputs along directions."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (grad_out, *inputs)]
    grads = torch.autograd.grad(function(*leaves[1:]), leaves[1:], leaves[0], create_graph=True)
    return torch.autograd.grad(grads, leaves, directions, materialize_grads=True)


def tangent(function, inputs, directions):
    return func.jvp(function, tuple(inputs), tuple(directions))[1]


def of(variant, names=(), packed=False, **others):
    """The library's function and the oracle's, of gate and up, or x, and then options by name."""
    inputs = 1 if packed else 2

    def bound(function):
        return lambda *tensors: function(
            *tensors[:inputs],
            variant=variant,
            **others,
            **dict(zip(names, tensors[inputs:], strict=True)),
        )

    return bound(fused_acts.gated), bound(fused_acts.reference.gated)


def wide(tensors):
    return [tensor.double() for tensor in tensors]


class Operators(TorchDispatchMode):
    """The names of the library's operators in the order that they run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "fused_acts":
            self.names.append(func._opname)
        return func(*args, **(kwargs or {}))
