"""The public functions: `gated`, and one for each variant, made from the table of variants."""

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from fused_acts import _ops, autograd, options
from fused_acts.autograd import glu_forward
from fused_acts.dispatch import autocasts, promoted, registers_shardings
from fused_acts.options import LAYOUT_INDEX, NAMES, variant_index
from fused_acts.tables import VARIANTS


class GatedFunction(Protocol):
    """The signature of a variant's own function."""

    def __call__(
        self,
        gate: Tensor,
        up: Tensor | None = None,
        *,
        layout: str = "gate_up",
        out: Tensor | None = None,
        **options: Any,
    ) -> Tensor: ...


def variants() -> tuple[str, ...]:
    """The names of all variants."""
    return NAMES


def gated(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    variant: str = "swiglu",
    layout: str = "gate_up",
    out: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """f(gate) * g(up), where f and g are the activations of the variant, see `fused_acts.variants`.

    Args:
        gate: [..., cols], or without up the packed tensor x: [..., 2 * cols]. float64, float32,
            float16 or bfloat16, on the CPU or a CUDA device. Any row stride is read in place.
        up: [..., cols], of the shape, dtype and device of gate: nothing is broadcast, and promoted
            only under autocast.
        layout: where a packed x holds gate and up. "gate_up": gate is the first half of the
            columns; "up_gate": the second half, as in torch.nn.functional.glu; "interleaved": gate
            is at the even columns, up at the odd ones.
        out: a tensor [..., cols] of the dtype and device of gate to write the result into; gate or
            up itself is allowed.
        gate_bias, up_bias: [cols], added to gate and up first; in the dtype of gate, or float32.
        bias: [2 * cols], both in one, packed as x is.
        beta, alpha, slope, negative_slope: the parameter of f, where the variant has one: a number,
            or a tensor, a single value or [cols], which is differentiated too.
        limit: where the variant has it, gate is cut to min(gate, limit) and up to
            clamp(up, -limit, limit) before the activations. None: not at all.
        rounding: "single": one rounding, of the result. "eager": that of torch's own composition,
            bit for bit, which also computes it; the backward pass is the same.
        inplace_backward: whether the backward pass writes the gradients over gate and up, which
            saves their memory. They must not be leaves, and the graph runs backward only once.
            Ignored under torch.compile.

    Returns:
        [..., cols] in the dtype of gate, contiguous. Computed in float32, or in float64 for
        float64, and rounded once.

    Raises:
        TypeError: an argument is no tensor, or its dtype is not one of these or not that of gate,
            or the variant has no such option.
        ValueError: a shape or device does not match, a packed width is odd, a tensor is 0-d, a name
            is unknown, a layout is given with two tensors, or inplace_backward with a leaf.
        RuntimeError: out is given and an argument requires grad or has a tangent.
    """
    return _call(gate, up, variant_index(variant), layout, out, options)


def _call(
    gate: Tensor,
    up: Tensor | None,
    variant: int,
    layout: str,
    out: Tensor | None,
    given: dict[str, Any],
) -> Tensor:
    index = LAYOUT_INDEX.get(layout)
    if index is None:
        raise options.unknown("layout", layout, LAYOUT_INDEX)
    if up is not None and index:
        raise ValueError(f"layout: expected gate_up with two tensors, got {layout!r}")
    try:
        if given or out is not None:
            return _call_with_options(gate, up, variant, layout, out, given)
        return glu_forward(gate, up, variant, index)
    except (AttributeError, TypeError, RuntimeError) as error:
        # Looked into only after a failure, so that calls on small tensors do not pay for it.
        if isinstance(error, NotImplementedError) and registers_shardings():
            return _call(gate, up, variant, layout, out, given)
        for argument, value in (("gate", gate), ("up", up), ("out", out)):
            if not isinstance(value, Tensor) and (value is not None or argument == "gate"):
                got = type(value).__name__
                raise TypeError(f"{argument}: expected a torch.Tensor, got {got}") from None
        if up is not None and gate.dtype != up.dtype and autocasts(gate):
            return _call(*promoted(gate, up), variant, layout, out, given)
        raise


def _call_with_options(
    gate: Tensor,
    up: Tensor | None,
    variant: int,
    layout: str,
    out: Tensor | None,
    given: dict[str, Any],
) -> Tensor:
    if autocasts(gate):
        gate, up = promoted(gate, up)
        real = torch.promote_types(gate.dtype, torch.float32)
        given = {n: v.to(real) if isinstance(v, Tensor) else v for n, v in given.items()}
    gate_bias, up_bias, parameter, call = options.parse(NAMES[variant], layout, given)
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    if tensors or call.eager:
        _ops.check_rows(gate, _ops.out_shape(gate, up, 0)[-1], tensors)
    if out is not None:
        return autograd.glu_forward_out(gate, up, gate_bias, up_bias, parameter, call, out)
    if call.inplace and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        _check_inplace(gate, up)
    return autograd.gated(gate, up, gate_bias, up_bias, parameter, call)


def _check_inplace(gate: Tensor, up: Tensor | None) -> None:
    if up is gate:
        raise ValueError("inplace_backward: expected two tensors, got the same as gate and up")
    for name, tensor in (("gate", gate), ("up", up)):
        if tensor is None or not tensor.requires_grad:
            continue
        if tensor.is_leaf or (tensor._base is not None and tensor._base.is_leaf):
            raise ValueError(
                f"inplace_backward: expected {name} to be computed from something, got a leaf or a "
                "view of one, whose values would be lost"
            )


def _function(name: str, variant: int) -> GatedFunction:
    row = VARIANTS[name]

    def function(
        gate: Tensor,
        up: Tensor | None = None,
        *,
        layout: str = "gate_up",
        out: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        return _call(gate, up, variant, layout, out, options)

    def function_of_packed(
        gate: Tensor,
        up: Tensor | None = None,
        *,
        layout: str | None = None,
        out: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        if layout is None:
            layout = "gate_up" if up is not None else row.layout
        return _call(gate, up, variant, layout, out, options)

    chosen: Callable[..., Any] = function if row.layout == "gate_up" else function_of_packed
    _, _, arguments = (gated.__doc__ or "").partition("\n\n")
    chosen.__doc__ = f"{name}(gate, up) = {row.formula}\n\n    From {row.source}.\n\n{arguments}"
    chosen.__name__ = chosen.__qualname__ = name
    chosen.__module__ = "fused_acts"
    chosen.__signature__ = _signature(name, chosen)  # type: ignore[attr-defined]
    return chosen


def _signature(name: str, function: Callable[..., Any]) -> inspect.Signature:
    """The options by name, in the place of **options."""
    row = VARIANTS[name]
    defaults = {
        row.parameter: row.default,
        "limit": row.limit,
        "rounding": "single",
        "inplace_backward": False,
    }
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    parameters += [
        inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(option))
        for option in options.names_for(name)
    ]
    return signature.replace(parameters=parameters)


FUNCTIONS = {name: _function(name, variant) for variant, name in enumerate(NAMES)}
