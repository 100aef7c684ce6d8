"""From the arguments of a call to a kernel, and from a failure to an error that names an argument.

A call is checked by the operator. Only after a failure does Python look at what was wrong, or
missing, so that calls on small tensors do not pay for it.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from fused_acts import _checks, _nested
from fused_acts._autograd import decompositions
from fused_acts._autograd.context import autocasts, import_sharding_rules, promoted_operands
from fused_acts._autograd.gated import gated, gated_out
from fused_acts._autograd.saved import check_savable
from fused_acts._autograd.saved import gated as saved_gated
from fused_acts._call import (
    COMPOSED,
    DEFAULTS,
    ROW_KINDS,
    is_unary,
    parse_options,
    resolve,
    unknown,
)
from fused_acts._layouts import LAYOUT_INDEX, unpack_bias
from fused_acts.tables import ROWS, value_of

FAILURES = (AttributeError, TypeError, ValueError, RuntimeError)

Vectors = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]
Result = TypeVar("Result")
_NONE: Vectors = None, None, None, None, None
_is_dynamo = torch.compiler.is_dynamo_compiling
_is_grad_enabled = torch.is_grad_enabled


def run(
    gate: Tensor,
    up: Tensor | None,
    variant: int,
    layout: str,
    out: Tensor | None,
    options: Mapping[str, Any],
) -> Tensor:
    """A unit of gate and up or of a packed gate, or an activation of gate."""
    index = LAYOUT_INDEX.get(layout)
    if index is None:
        raise unknown("layout", layout, LAYOUT_INDEX)
    if up is not None and index:
        raise ValueError(f"layout: expected gate_up with two tensors, got {layout!r}")
    try:
        call, vectors = DEFAULTS[variant][index], _NONE
        if options or _is_dynamo():
            variant = call.variant  # of one in a closure Dynamo may have made a symbol
            if _is_dynamo() and variant in COMPOSED:
                return composed(gate, up, variant, layout, out, options)
            if _is_dynamo() and not autocasts(gate):
                check_arguments(gate, up, variant, out, options)  # an operator has other names
            call = resolve(variant, layout, options)
            vectors = tensors_of(gate, up, variant, call.layout, options)
            if call.inplace and _is_grad_enabled() and not torch.compiler.is_compiling():
                _check_inplace(gate, up)
            if call.save:
                check_savable(gate)
                if out is None:
                    return saved_gated(gate, up, *vectors, call)
        if out is not None:
            return gated_out(gate, up, *vectors, call, out)
        return gated(gate, up, *vectors, call)
    except FAILURES as error:
        return recover(
            error,
            partial(run, gate, up, variant, layout, out, options),
            partial(_explain, error, gate, up, variant, layout, out, options),
        )


def composed(
    gate: Tensor,
    up: Tensor | None,
    variant: int,
    layout: str,
    out: Tensor | None,
    options: Mapping[str, Any],
) -> Tensor:
    """`run` by torch operations. Rows of padding are 0."""
    call = parse_options(variant, layout, options)
    if call.save:
        _checks.check_compiled("save", variant)
    vectors = tensors_of(gate, up, variant, call.layout, options)
    result = decompositions.forward(gate, up, *vectors, call)
    return result if out is None else out.copy_(result)


def tensors_of(
    gate: Tensor, up: Tensor | None, variant: int, layout: int, options: Mapping[str, Any]
) -> Vectors:
    """(gate_bias, up_bias, parameter, row_weight, experts)"""
    parameter = row_weight = experts = None
    for name in ROWS[variant].parameters:
        if isinstance(options.get(name), Tensor):
            parameter = _parameters(gate, up, variant, options)
    if isinstance(options.get("weight"), Tensor):
        row_weight = options["weight"]
    for name in ROW_KINDS:
        if name in options and options[name] is not None:
            experts = options[name]
    bias = options.get("bias")
    if bias is None:
        biases = options.get("gate_bias"), options.get("up_bias")
    else:
        biases = (bias, None) if is_unary(variant) else unpack_bias(bias, layout)
    return *biases, parameter, row_weight, experts


def _parameters(
    gate: Tensor, up: Tensor | None, variant: int, options: Mapping[str, Any]
) -> Tensor:
    """A parameter that is a tensor; of two [2, cols] or [2, 1], also where one is a number.

    Those of experts, [experts] or [experts, cols], are [experts, cols] and [2, experts, cols].
    """
    row = ROWS[variant]
    values = [
        value_of(row, name, options.get(name, default)) for name, default in row.parameters.items()
    ]
    if any(options.get(name) is not None for name in ROW_KINDS):
        packed = up is None and not is_unary(variant)
        cols = gate.shape[-1] // 2 if packed else gate.shape[-1]
        values = [_of_experts(v, cols) if isinstance(v, Tensor) else v for v in values]
    if len(values) == 1:
        parameter: Tensor = values[0]
        return parameter
    tensors = [value for value in values if isinstance(value, Tensor)]
    dtype, like = tensors[0].dtype, tensors[0]
    if len(tensors) < 2 or dtype != tensors[1].dtype:
        dtype = torch.promote_types(dtype, torch.float32)
    one = torch.ones(1, dtype=dtype, device=like.device)  # times a number, which may be symbolic
    vectors = (v.reshape(v.shape or (1,)) if isinstance(v, Tensor) else one * v for v in values)
    return torch.stack([v.to(dtype) for v in torch.broadcast_tensors(*vectors)])


def _of_experts(value: Tensor, cols: int) -> Tensor:
    """What is one value for each expert as one a column."""
    if value.dim() == 1 and len(value) > 1:
        value = value.unsqueeze(-1)
    return value.expand(-1, cols) if value.dim() == 2 and value.shape[1] == 1 else value


def recover(
    error: Exception, again: Callable[[], Result], explain: Callable[[], Result | None]
) -> Result:
    """Calls again if sharding rules were missing; else raises what is wrong, by `explain` if that
    can tell, which may also mend it."""
    if isinstance(error, NotImplementedError) and import_sharding_rules():
        return again()
    result = explain()
    if result is None:
        raise error
    return result


def check_tensors(**tensors: Any) -> None:
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")


def _explain(
    error: Exception,
    gate: Tensor,
    up: Tensor | None,
    variant: int,
    layout: str,
    out: Tensor | None,
    options: Mapping[str, Any],
) -> Tensor | None:
    given = {"x" if is_unary(variant) else "gate": gate, "up": up, "out": out}
    check_tensors(**{n: v for n, v in given.items() if v is not None or n in ("x", "gate")})
    call = parse_options(variant, layout, options)
    if variant in COMPOSED:
        return composed(gate, up, variant, layout, out, options)
    if gate.is_nested or (up is not None and up.is_nested):
        if out is not None:
            raise ValueError("out: expected none for nested tensors")
        return run_nested(gate, up, variant, layout, options)
    if autocasts(gate):
        operands: Any = gate, up, *tensors_of(gate, up, variant, call.layout, options)
        changed: Any = promoted_operands(*operands)
        if any(a is not b for a, b in zip(changed, operands, strict=True)):
            written = () if out is None else (out,)
            in_eight_bits = call.save and not written
            function: Callable[..., Tensor] = gated_out if written else gated
            function = saved_gated if in_eight_bits else function
            return function(*changed, call, *written)
    check_arguments(gate, up, variant, out, options)
    rename(error, variant, options)
    return None


def rename(error: Exception, variant: int, options: Mapping[str, Any]) -> None:
    """Raises an operator's error with the name of an argument as it is here."""
    argument, colon, rest = str(error).partition(":")
    names = {"parameter": ", ".join(ROWS[variant].parameters)}
    if options.get("bias") is not None:
        names |= dict.fromkeys(("gate_bias", "up_bias"), "bias")
    if colon and names.get(argument):
        raise type(error)(f"{names[argument]}:{rest}") from error


def run_nested(
    gate: Tensor, up: Tensor | None, variant: int, layout: str, options: Mapping[str, Any]
) -> Tensor:
    for row_option in ("weight", *ROW_KINDS):
        if isinstance(options.get(row_option), Tensor):
            raise ValueError(f"{row_option}: expected no tensor with nested tensors")

    def of_values(gate: Tensor, up: Tensor | None = None) -> Tensor:
        return run(gate, up, variant, layout, None, options)

    name = "x" if is_unary(variant) else "gate"
    by_columns = [vector for vector in options.values() if isinstance(vector, Tensor)]
    by_elements = up is not None or is_unary(variant)
    by_elements &= all(vector.numel() == 1 for vector in by_columns)
    return _nested.on_values(of_values, by_elements, **{name: gate, "up": up})


def check_arguments(
    gate: Tensor,
    up: Tensor | None,
    variant: int,
    out: Tensor | None,
    options: Mapping[str, Any],
) -> None:
    shape = _checks.out_shape(gate, up, variant, block=options.get("block", 1))
    tensors = {name: value for name, value in options.items() if isinstance(value, Tensor)}
    weight, experts, kind = tensors.pop("weight", None), None, 0
    for name in ROW_KINDS.keys() & tensors.keys():
        experts, kind = tensors.pop(name), ROW_KINDS[name]
    count: int | None = 0
    if weight is not None or kind:
        count = _checks.check_rows(gate, weight, experts, kind)
    if kind:
        for name in ROWS[variant].parameters:
            if name in tensors:
                _checks.check_each_expert(name, tensors[name], count)
                tensors[name] = _of_experts(tensors[name], shape[-1])
    packed = not is_unary(variant)
    _checks.check_row_vectors(gate, shape[-1], tensors, packed, count if kind else 0)
    if out is not None:
        _checks.check_matches("out", out, shape, gate)


def _check_inplace(gate: Tensor, up: Tensor | None) -> None:
    if up is gate:
        raise ValueError("inplace_backward: expected two tensors, got the same as gate and up")
    for name, tensor in (("gate", gate), ("up", up)):
        if tensor is None or not tensor.requires_grad:
            continue
        if tensor.is_neg():
            raise ValueError(f"inplace_backward: expected {name} without the negative bit")
        if tensor.is_leaf or (tensor._base is not None and tensor._base.is_leaf):
            raise ValueError(
                f"inplace_backward: expected {name} to be computed from something, got a leaf or a "
                "view of one, whose values would be lost"
            )
