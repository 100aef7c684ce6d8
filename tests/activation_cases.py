"""Activations alone: by the library, by the oracle in float64 and by torch's own functions."""

from typing import Any

import torch
import torch.nn.functional as F
from cases import PRODUCTS, Exact, default_parameter
from option_cases import REAL_ULPS, Called, Oracle, call
from tolerances import (
    FORWARD_ULPS,
    GRADIENT_FLOOR,
    GRADIENT_ULPS,
    check,
    check_forward,
    check_gradient,
)
from torch import Tensor

import fused_acts
from fused_acts import reference

ROWS = reference.ACTIVATIONS
ACTIVATIONS = fused_acts.activations()
PARAMETRIC = [name for name in ACTIVATIONS if ROWS[name].parameter]
INDEX = {name: len(fused_acts.variants()) + index for index, name in enumerate(ACTIVATIONS)}
ALONE = fused_acts.options.ALONE

# torch's function of x and the parameter.
TORCH = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "prelu": lambda x, slope: F.prelu(x, x.new_tensor([slope])),
    "elu": F.elu,
    "swish": lambda x, beta: F.silu(x) if beta == 1.0 else x * torch.sigmoid(beta * x),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "squared_relu": lambda x: F.relu(x).square(),
    "quick_gelu": lambda x, alpha: x * torch.sigmoid(alpha * x),
    "softplus": F.softplus,
    "mish": F.mish,
}


def activations_on(device: str) -> tuple[str, ...]:
    """All on the CPU. On CUDA, for tests of indexing, which they share there, one of those that
    have kernels of their own and one of the others."""
    return ACTIVATIONS if device == "cpu" else ("swish", "softplus")


def parameter(name: str, value: Any) -> dict[str, Any]:
    """The option that sets the parameter of f."""
    return {ROWS[name].parameter: value}


def parameters(cols: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Of every shape; both signs where there is one for each channel."""
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(cols)[:cols]
    return {
        "scalar": torch.tensor(0.8, dtype=dtype),
        "single": torch.tensor([0.8], dtype=dtype),
        "per channel": (torch.linspace(0.5, 1.5, cols, dtype=torch.float64) * signs).to(dtype),
    }


def torch_function(name: str, x: Tensor) -> Tensor:
    return TORCH[name](x, *default_parameter(name, x.dtype).values())


def fused(
    name: str,
    x: Tensor,
    options: dict[str, Any] | None = None,
    grad_out: Tensor | None = None,
    device: str = "cpu",
) -> Called:
    return call(fused_acts.activation, (x,), options or {}, grad_out, device, name=name)


def forward(name: str, x: Tensor, device: str = "cpu") -> Tensor:
    return fused(name, x, device=device).out


def exact(name: str, x: Tensor, grad_out: Tensor) -> Exact:
    """Without options: that of a unit whose up is 1."""
    options, grad_out = default_parameter(name, x.dtype), grad_out.double()
    out, (grad,), _ = call(reference.activation, (x.double(),), options, grad_out, name=name)
    return Exact(out, grad, grad_out * out, grad_out, grad_out * out)


def check_result(name: str, actual: Called, truth: Exact) -> None:
    check_forward(name, actual.out, truth.out)
    check_gradient(name, 0, actual.inputs[0], truth.grad_gate, truth.gate_scale)


def in_range(name: str, x: Tensor) -> Tensor:
    """Where f(x), if it is a mere product, and f'(x) are zero or normal numbers of the arithmetic.

    Elsewhere they overflow or lose digits, as torch's own float32 product does.
    """
    if FUNCTION_OF[name] not in PRODUCTS:
        return torch.ones_like(x, dtype=torch.bool)
    info = torch.finfo(torch.promote_types(x.dtype, torch.float32))
    f = reference.activation(x.double(), name).abs()
    return (f == 0) | ((f >= info.smallest_normal) & (f <= info.max))


FUNCTION_OF = dict(fused_acts._C.activations())


def oracle(name: str, x: Tensor, options: dict[str, Any], grad_out: Tensor) -> Oracle:
    """The exact result, and the sizes that `option_cases` counts errors in."""
    wide = {n: v.double() if isinstance(v, Tensor) else v for n, v in options.items()}
    called = call(reference.activation, (x.double(),), wide, grad_out.double(), name=name)
    z = x.double() + wide.get("bias", 0.0)
    grad_out = grad_out.double().abs()
    size = (x.double().abs() + z.abs() + 1.0) * 2.0
    return Oracle(called, grad_out, grad_out * called.out.abs(), size, grad_out)


def check_call(actual: Called, truth: Oracle) -> None:
    """out and the gradient by x."""
    dtype, (grad,), (expected,) = actual.out.dtype, actual.inputs, truth.called.inputs
    if dtype in REAL_ULPS:
        check(actual.out, truth.called.out, REAL_ULPS[dtype], truth.size)
        check(grad, expected, REAL_ULPS[dtype], truth.grad_out * truth.size)
        return
    check(actual.out, truth.called.out, FORWARD_ULPS[dtype])
    check(grad, expected, GRADIENT_ULPS[dtype], truth.gate_scale * GRADIENT_FLOOR)
