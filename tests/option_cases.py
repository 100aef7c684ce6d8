"""Calls with options, the same in the oracle in float64, and how far they may be apart."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from cases import (
    ACTIVATIONS,
    ROWS,
    as_inputs,
    factors_of,
    own_layout,
    random,
    same_bits,
    size_of,
    to_device,
    unpack,
)
from tolerances import (
    FORWARD_FLOOR,
    FORWARD_ULPS,
    GRADIENT_FLOOR,
    GRADIENT_ULPS,
    REAL_ULPS,
    ROW_WEIGHT_LOST,
    allowed_sum,
    check,
    lost_digits,
)
from torch import Tensor

import fused_acts
from fused_acts import reference
from fused_acts.tables import of_gate, value_of

PARAMETRIC = [name for name, row in ROWS.items() if row.parameters]
LIMITED = [name for name, row in reference.VARIANTS.items() if row.limits]
SHAPES = ("scalar", "single", "per channel")  # of a parameter


class Called(NamedTuple):
    out: Tensor
    inputs: list[Tensor]  # gradients by gate and up, or by x
    options: dict[str, Tensor]  # gradients by those options that are tensors

    def tensors(self) -> list[Tensor]:
        return [self.out, *self.inputs, *self.options.values()]


def real(dtype: torch.dtype) -> torch.dtype:
    """The type of the arithmetic."""
    return torch.promote_types(dtype, torch.float32)


def parameter(name: str, value: Any) -> dict[str, Any]:
    """The options that set the parameters, both where there are two."""
    return dict.fromkeys(ROWS[name].parameters, value)


def parameters(cols: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Of every shape, near 0.8; both signs where there is one for each channel."""
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(cols)[:cols]
    return {
        "scalar": torch.tensor(0.8, dtype=dtype),
        "single": torch.tensor([0.8], dtype=dtype),
        "per channel": (torch.linspace(0.5, 1.5, cols, dtype=torch.float64) * signs).to(dtype),
    }


def biases(name: str, cols: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Of both operands, or of an activation's one."""
    options = ("bias",) if name in ACTIVATIONS else ("gate_bias", "up_bias")
    return {option: random(cols, dtype=dtype, seed=7 + i) for i, option in enumerate(options)}


def numbers_for(name: str) -> list[dict[str, Any]]:
    """Options of a row that are numbers."""
    some: list[dict[str, Any]] = []
    limits = name in LIMITED
    if ROWS[name].parameters:
        # A parameter of 0 is not for those that divide by it.
        values = [0.0] * len(ROWS[name].parameters)
        zero = [0] if ROWS[name].f(torch.zeros(1), *of_gate(ROWS[name], values)).isfinite() else []
        some += [parameter(name, value) for value in (0.6, 1.9, -0.5, *zero)]
    some += [{"weight": 1.7}]
    if limits:
        some += [{"limit": limit} for limit in (1.25, 0, 20, None)]
    if limits and ROWS[name].parameters:
        some.append({**parameter(name, 1.3), "limit": 0.75, "weight": -0.6})
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
    name: str,
    gate: Tensor,
    up: Tensor,
    options: dict[str, Any],
    grad_out: Tensor | None = None,
    layout: str = "separate",
    device: str = "cpu",
    **others: Any,
) -> Called:
    """The library's result; gradients by gate and up whatever the layout.

    Of an activation, gate is its x, and up is ignored.
    """
    if name in ACTIVATIONS:
        return call(fused_acts.activation, (gate,), options, grad_out, device, name=name)
    if layout != "separate":
        others["layout"] = layout
    inputs = as_inputs(gate, up, layout)
    called = call(fused_acts.gated, inputs, options, grad_out, device, variant=name, **others)
    if layout == "separate" or grad_out is None:
        return called
    return called._replace(inputs=list(unpack(called.inputs[0], layout)))


class Oracle(NamedTuple):
    called: Called  # in float64
    scales: list[Tensor]  # |grad_out * g(up)|, |grad_out * f(gate)|
    size: Tensor  # that of gate, with its bias and 1, times that of up
    grad_out: Tensor  # its absolute value, with the weight
    unweighted: Tensor  # and without
    lost: Tensor  # see lost_digits
    by_row: Tensor  # of what the gradient by a weight of each row is a sum of, the absolute values
    floor: Tensor | None = None  # of the ulp of out in 16-bit types


def oracle(
    name: str, gate: Tensor, up: Tensor, options: dict[str, Any], grad_out: Tensor
) -> Oracle:
    """The exact result; biases must be given apart."""
    dtype = gate.dtype
    wide = {n: v.double() if isinstance(v, Tensor) else v for n, v in options.items()}
    gate, up, grad_out = gate.double(), up.double(), grad_out.double()
    row = ROWS[name]
    weight = wide.get("weight", 1.0)
    factor = weight.unsqueeze(-1) if isinstance(weight, Tensor) else weight
    unweighted = {option: value for option, value in wide.items() if option != "weight"}
    if name in ACTIVATIONS:
        called = call(reference.activation, (gate,), wide, grad_out, name=name)
        size = (gate.abs() + (gate + wide.get("bias", 0.0)).abs() + 1.0) * 2.0
        lost = lost_digits(gate + wide.get("bias", 0.0), torch.ones_like(gate))
        rooted = size_of(name, gate + wide.get("bias", 0.0))
        floor = None if rooted is None else rooted * FORWARD_FLOOR[dtype]
        by_row = (grad_out * reference.activation(gate, name, **unweighted)).abs()
        weighed = (grad_out * factor).abs()
        return Oracle(called, [weighed], size, weighed, grad_out.abs(), lost, by_row, floor)
    called = call(reference.gated, (gate, up), wide, grad_out, variant=name)
    z = gate + wide.get("gate_bias", 0.0)
    w = up + wide.get("up_bias", 0.0)
    limit = options.get("limit", row.limit)
    values = [value_of(row, n, wide.get(n, v)) for n, v in row.parameters.items()]
    f, g = factors_of(row, z, w, values, limit)
    if limit is not None:
        z, w = z if row.limits_value else z.clamp(max=limit), w.clamp(-limit, limit)
    by_row = (grad_out * reference.gated(gate, up, variant=name, **unweighted)).abs()
    unweighted_grad, grad_out = grad_out.abs(), grad_out * factor
    return Oracle(
        called,
        [(grad_out * g).abs(), (grad_out * f).abs()],
        (gate.abs() + z.abs() + 1.0) * (up.abs() + w.abs() + 1.0),
        grad_out.abs(),
        unweighted_grad,
        lost_digits(z, g),
        by_row,
    )


def check_call(actual: Called, exact: Oracle) -> None:
    """out and the gradients by gate and up."""
    dtype = actual.out.dtype
    if dtype in REAL_ULPS:
        check(actual.out, exact.called.out, REAL_ULPS[dtype], exact.size)
        for grad, expected in zip(actual.inputs, exact.called.inputs, strict=True):
            check(grad, expected, REAL_ULPS[dtype], exact.grad_out * exact.size)
        return
    check(actual.out, exact.called.out, FORWARD_ULPS[dtype], exact.floor, exact.lost)
    for grad, expected, scale in zip(actual.inputs, exact.called.inputs, exact.scales, strict=True):
        check(grad, expected, GRADIENT_ULPS[dtype], scale * GRADIENT_FLOOR)


def check_sums(actual: Called, exact: Oracle, cols: int) -> None:
    """The gradients by biases and parameter, sums over rows, and by a weight of each row."""
    size = (exact.grad_out * exact.size).reshape(-1, cols)
    for name, grad in actual.options.items():
        if name == "weight":
            check_weight(grad, exact, actual.out.dtype)
            continue
        per_column = grad.dim() == 1 and grad.shape[0] == cols
        total = size.sum(0) if per_column else size.sum()
        added = size.shape[0] if per_column else size.numel()
        right = exact.called.options[name]
        allowed = allowed_sum(actual.out.dtype, grad.dtype, right, total, added)
        error = (grad.double() - right).abs()
        assert (error <= allowed).all(), f"{name}: off by {error.max()} of {allowed.min()}"


def check_weight(grad: Tensor, exact: Oracle, dtype: torch.dtype) -> None:
    """The gradient by a weight of each row: rounded once to its dtype, from a sum in float32."""
    right, size = exact.called.options["weight"], exact.by_row
    if dtype in REAL_ULPS:
        size = exact.unweighted * exact.size
    allowed = size.sum(-1) * ROW_WEIGHT_LOST[dtype] + right.abs() * torch.finfo(grad.dtype).eps
    assert ((grad.double() - right).abs() <= allowed).all()


def check_everything(
    name: str,
    gate: Tensor,
    up: Tensor,
    options: dict[str, Any],
    grad_out: Tensor,
    layout: str = "separate",
    device: str = "cpu",
) -> Called:
    """Runs the row, and checks out and all gradients, their shapes and their dtypes."""
    layout = own_layout(name, layout)
    result = fused(name, gate, up, options, grad_out, layout, device)
    assert result.out.dtype == gate.dtype and result.out.is_contiguous()
    without_grad = fused(name, gate, up, options, layout=layout, device=device).out
    assert same_bits(result.out, without_grad)
    for option, grad in result.options.items():
        assert grad.shape == options[option].shape and grad.dtype == options[option].dtype
    exact = oracle(name, gate, up, options, grad_out)
    check_call(result, exact)
    if gate.numel() > 0:
        check_sums(result, exact, gate.shape[-1])
    else:
        assert all((grad == 0).all() for grad in result.options.values())
    return result
