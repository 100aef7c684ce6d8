"""Activations alone: `activation`, and a function for each, made from the table of activations."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fused_acts import _ops, autograd, dispatch, options
from fused_acts.reference import ACTIVATIONS


def activation(
    x: Tensor, name: str, bias: Tensor | None = None, *, out: Tensor | None = None, **given: Any
) -> Tensor:
    """f(x + bias) in one pass, with gradients by x, bias and parameter from one pass.

    Args:
        x: [..., cols], float64, float32, float16 or bfloat16, on the CPU or a CUDA device. Any row
            stride is read in place.
        name: one of `fused_acts.activations()`.
        bias: [cols], in the dtype of x or float32.
        out: a tensor of the shape, dtype and device of x to write the result into; x is allowed.
        beta, alpha, slope, negative_slope: the parameter of f, where it has one: a number, or a
            tensor, a single value or [cols], which is differentiated too.

    Returns:
        [..., cols] in the dtype of x, contiguous. Computed in float32, or in float64 for float64,
        and rounded once.

    Raises:
        TypeError: an argument is no tensor, or its dtype is not one of these or not that of x, or
            the activation has no such parameter.
        ValueError: a shape or device does not match, x is 0-d, or the name is unknown.
        RuntimeError: out is given and an argument requires grad or has a tangent.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a torch.Tensor, got {type(x).__name__}")
    if dispatch.autocasts(x):
        real = torch.promote_types(x.dtype, torch.float32)
        bias = bias.to(real) if isinstance(bias, Tensor) else bias
        given = {n: v.to(real) if isinstance(v, Tensor) else v for n, v in given.items()}
    row, _, parameter, call = options.parse_activation(name, bias, given)
    tensors = {"bias": row, **{n: v for n, v in given.items() if isinstance(v, Tensor)}}
    _ops.check_rows(x, _ops.out_shape(x, None, options.ALONE)[-1], tensors, packed=False)
    if out is not None:
        return autograd.glu_forward_out(x, None, row, None, parameter, call, out)
    return autograd.gated(x, None, row, None, parameter, call)


def activations() -> tuple[str, ...]:
    """The names of all activations."""
    return tuple(ACTIVATIONS)


def _function(name: str) -> Callable[..., Tensor]:
    row = ACTIVATIONS[name]

    def function(
        x: Tensor, bias: Tensor | None = None, *, out: Tensor | None = None, **given: Any
    ) -> Tensor:
        return activation(x, name, bias, out=out, **given)

    _, _, arguments = (activation.__doc__ or "").partition("\n\n")
    function.__doc__ = f"{name}(x) = {row.formula}\n\n    From {row.source}.\n\n{arguments}"
    function.__name__ = function.__qualname__ = name
    function.__module__ = "fused_acts"
    return function


FUNCTIONS = {name: _function(name) for name in ACTIVATIONS}
FUNCTIONS["silu"] = FUNCTIONS["swish"]
