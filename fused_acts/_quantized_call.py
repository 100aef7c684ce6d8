"""From the arguments of a quantised call to the operator, or to an error that names an argument."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fused_acts import _checks, _quantized_ops  # noqa: F401  # which registers them
from fused_acts._autograd import dispatch
from fused_acts._autograd.context import autocasts, promoted, promoted_operands
from fused_acts._autograd.decompositions import SYMBOLS
from fused_acts._call import NUMBERS, Call, number, parse_options, resolve
from fused_acts._formats import Quantization, check_dtype, check_results, has_counts
from fused_acts._layouts import block_of
from fused_acts._ops import direct
from fused_acts._run import (
    FAILURES,
    check_arguments,
    check_tensors,
    recover,
    rename,
    tensors_of,
)
from fused_acts.tables import ROWS

_LARGEST = torch.finfo(torch.float32).max
_is_dynamo = torch.compiler.is_dynamo_compiling


def run(
    gate: Tensor,
    up: Tensor | None,
    variant: int,
    layout: str,
    chosen: Quantization,
    scale: float | Tensor | None,
    out: tuple[Tensor, Tensor] | None,
    options: Mapping[str, Any],
) -> tuple[Tensor, Tensor]:
    """Values and scales of a unit or an activation."""
    arguments = gate, up, variant, layout, chosen, scale, out, options
    if _is_dynamo():
        _explain(*arguments)  # an operator has other names
    try:
        call = resolve(variant, layout, options)
        operands = gate, up, *tensors_of(gate, up, variant, call.layout, options)
        given = {"x" if up is None else "gate": gate, "up": up, "scale": scale, **options}
        _refuse_derivatives(given)
        if scale is not None and not isinstance(scale, Tensor):
            scale = _scale_tensor(number("scale", scale), gate.device)
        written = () if out is None else _written(gate, chosen, *out)
        compute = _compute_traced if _is_dynamo() else _compute
        values, scales = compute(*operands, call, chosen, scale, *written)
    except FAILURES as error:
        return recover(error, partial(run, *arguments), partial(_explain, *arguments, error))
    return values, scale if chosen.name == "fp8_tensor" else scales  # type: ignore[return-value]


def _scale_tensor(scale: float, device: torch.device) -> Tensor:
    if not _is_dynamo():
        if _LARGEST < abs(scale) < math.inf:
            raise ValueError(f"scale: expected a number that float32 holds, got {scale}")
        return torch.full((), scale, dtype=torch.float32, device=device)
    return torch.ones((), dtype=torch.float32, device=device) * scale  # which may be symbolic


def _refuse_derivatives(given: Mapping[str, Any]) -> None:
    advice = "it is not differentiable"
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(f"gated_quantized: expected no transform of torch.func, {advice}")
    wants_grad, has_level = torch.is_grad_enabled(), forward_ad._current_level >= 0
    for name, value in given.items() if wants_grad or has_level else ():
        if wants_grad and dispatch.require_grad(value):
            raise RuntimeError(
                f"gated_quantized: {name} requires grad, but {advice}; call it under "
                f"torch.no_grad() or detach {name}"
            )
        if has_level and isinstance(value, Tensor) and dispatch.has_tangent(value):
            raise RuntimeError(f"gated_quantized: {name} has a tangent, but {advice}")


def _written(
    gate: Tensor, chosen: Quantization, values: Tensor, scales: Tensor
) -> tuple[Tensor, Tensor]:
    """What the operator is to write, of what it may."""
    if chosen.name == "fp8_tensor":
        scales = gate.new_empty(0, dtype=torch.float32)
    if torch.compiler.is_compiling():
        return values, scales
    for name, tensor in (("values", values), ("scales", scales)):
        if tensor.is_inference() and not torch.is_inference_mode_enabled():
            raise RuntimeError(
                f"{name}: expected no inference tensor outside of inference mode, where its "
                "changes cannot be tracked; clone it to get one that can be written"
            )
        if tensor.is_neg():
            raise ValueError(f"{name}: expected a tensor without the negative bit")
    return values, scales


def _compute(
    gate: Tensor,
    up: Tensor | None,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    parameter: Tensor | None,
    row_weight: Tensor | None,
    experts: Tensor | None,
    call: Call,
    chosen: Quantization,
    scale: Tensor | None,
    *written: Tensor,
) -> tuple[Tensor, Tensor]:
    operands: Any = gate, up, gate_bias, up_bias, parameter, row_weight, experts
    if autocasts(gate):
        operands = promoted_operands(*operands)
    if any(isinstance(n, SYMBOLS) for n in (*call[:NUMBERS], chosen.amax_floor)):
        operands, call = _without_symbols(*operands, call=call)
        chosen = chosen._replace(amax_floor=float(chosen.amax_floor))
    *operands, row_weight, experts = operands
    given: Any = *operands, *call[:6], *chosen, scale
    of_rows = row_weight, experts, call.rows
    if not written:
        results: tuple[Tensor, Tensor] = direct.glu_quantized(*given, *of_rows)
        return results
    direct.glu_quantized_out(*given, *written, *of_rows)
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version(written)
    values, scales = written
    return values, scales


_compute_traced = dispatch.one_node(_compute)


def _without_symbols(
    gate: Tensor, up: Tensor | None, *vectors: Tensor | None, call: Call
) -> tuple[Any, Call]:
    """Numbers that change from one call of compiled code to the next as tensors.

    As numbers of an operator they would be compiled anew for each value, as that of a limit is.
    """
    *biases, parameter, row_weight, experts = vectors
    numbers: Any = call[:NUMBERS]
    one = torch.ones((), dtype=torch.float32, device=gate.device)
    count = len(ROWS[call.variant].parameters)
    if parameter is None and count:
        values = [one * value for value in numbers[:count]]
        parameter = torch.stack(values).unsqueeze(-1) if count == 2 else values[0]
        call = call._replace(scalar=1.0, second=1.0)
    if row_weight is None and isinstance(call.weight, SYMBOLS):
        row_weight = (one * numbers[-1]).expand(gate.shape[:-1])
        call = call._replace(weight=1.0)
    if isinstance(call.limit, SYMBOLS):
        call = call._replace(limit=float(call.limit))
    return (gate, up, *biases, parameter, row_weight, experts), call


def _explain(
    gate: Tensor,
    up: Tensor | None,
    variant: int,
    layout: str,
    chosen: Quantization,
    scale: float | Tensor | None,
    out: tuple[Tensor, Tensor] | None,
    options: Mapping[str, Any],
    error: Exception | None = None,
) -> None:
    """Raises what is wrong with the arguments, or an operator's error by their names."""
    x = "x" if up is None else "gate"
    check_tensors(**{x: gate} | ({} if up is None else {"up": up}))
    for name, tensor in ((x, gate), ("up", up)):
        if tensor is not None and tensor.is_nested:
            raise TypeError(f"{name}: expected a dense tensor, got a nested one")
        if tensor is not None and not tensor.is_floating_point():
            check_dtype(name, tensor)
    call = parse_options(variant, layout, options)
    _checks.check_compiled("variant", variant)
    if autocasts(gate):
        gate, up = promoted(gate, up)
        real = torch.promote_types(gate.dtype, torch.float32)
        options = {
            n: v.to(real) if isinstance(v, Tensor) and v.is_floating_point() else v
            for n, v in options.items()
        }
    check_arguments(gate, up, variant, None, options)
    shape = _checks.out_shape(gate, up, variant, block_of(call.layout))
    if not isinstance(scale, Tensor) and scale is not None:
        scale = _scale_tensor(number("scale", scale), gate.device)
    chosen.check(gate, up, shape[-1], scale)
    if out is not None:
        if not isinstance(out, tuple | list) or len(out) != 2:
            raise TypeError(f"out: expected values and scales, got {type(out).__name__}")
        like = chosen.new_results(gate, shape, has_counts(call.rows))
        values, scales = out
        check_tensors(values=values, scales=scales)
        check_results(values, scales, like, chosen.name)
    if error is not None:
        rename(error, variant, options)
