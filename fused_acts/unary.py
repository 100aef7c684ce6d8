"""Activations alone: `activation`, and a function for each, made from the table of activations."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fused_acts import _ops, autograd, dispatch, options
from fused_acts.options import ALONE
from fused_acts.tables import ACTIVATIONS, ALIASES


def activation(
    x: Tensor, name: str, bias: Tensor | None = None, *, out: Tensor | None = None, **given: Any
) -> Tensor:
    """f(x + bias) in one pass, with gradients by x, bias and parameter from one pass.

    Args:
        x: [..., cols], float64, float32, float16 or bfloat16, on the CPU or a CUDA device. Any row
            stride is read in place.
        name: one of `fused_acts.activations()`, or silu, which is swish.
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
    name = options.activation_name(name)
    return _call(x, name, options.activation_index(name), bias, out, given)


def activations() -> tuple[str, ...]:
    """The names of all activations."""
    return tuple(ACTIVATIONS)


def _call(
    x: Tensor,
    name: str,
    index: int,
    bias: Tensor | None,
    out: Tensor | None,
    given: dict[str, Any],
) -> Tensor:
    try:
        if bias is None and out is None and not given:
            return autograd.glu_forward(x, None, index, ALONE)
        return _call_with_options(x, name, bias, out, given)
    except (AttributeError, TypeError, RuntimeError) as error:
        # Looked into only after a failure, so that calls on small tensors do not pay for it.
        if isinstance(error, NotImplementedError) and dispatch.registers_shardings():
            return _call(x, name, index, bias, out, given)
        for argument, value in (("x", x), ("out", out)):
            if not isinstance(value, Tensor) and (value is not None or argument == "x"):
                got = type(value).__name__
                raise TypeError(f"{argument}: expected a torch.Tensor, got {got}") from None
        raise


def _call_with_options(
    x: Tensor, name: str, bias: Tensor | None, out: Tensor | None, given: dict[str, Any]
) -> Tensor:
    if dispatch.autocasts(x):
        real = torch.promote_types(x.dtype, torch.float32)
        bias = bias.to(real) if isinstance(bias, Tensor) else bias
        given = {n: v.to(real) if isinstance(v, Tensor) else v for n, v in given.items()}
    row, _, parameter, call = options.parse_activation(name, bias, given)
    tensors = {"bias": row, **{n: v for n, v in given.items() if isinstance(v, Tensor)}}
    _ops.check_rows(x, _ops.out_shape(x, None, ALONE)[-1], tensors, packed=False)
    if out is not None:
        return autograd.glu_forward_out(x, None, row, None, parameter, call, out)
    return autograd.gated(x, None, row, None, parameter, call)


def _function(name: str) -> Callable[..., Tensor]:
    row, index = ACTIVATIONS[name], options.activation_index(name)

    def function(
        x: Tensor, bias: Tensor | None = None, *, out: Tensor | None = None, **given: Any
    ) -> Tensor:
        return _call(x, name, index, bias, out, given)

    _, _, arguments = (activation.__doc__ or "").partition("\n\n")
    function.__doc__ = f"{name}(x) = {row.formula}\n\n    From {row.source}.\n\n{arguments}"
    function.__name__ = function.__qualname__ = name
    function.__module__ = "fused_acts"
    function.__signature__ = _signature(name, function)  # type: ignore[attr-defined]
    return function


def _signature(name: str, function: Callable[..., Any]) -> inspect.Signature:
    """The parameter by its name, in the place of **given."""
    row = ACTIVATIONS[name]
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    if row.parameter is not None:
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(row.parameter, keyword, default=row.default))
    return signature.replace(parameters=parameters)


FUNCTIONS = {name: _function(name) for name in ACTIVATIONS}
FUNCTIONS |= {alias: FUNCTIONS[name] for alias, name in ALIASES.items()}
