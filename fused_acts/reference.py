"""The oracle: every function of the library in plain torch, differentiable to any order.

It takes f and g from the tables, and shares nothing else with the library.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fused_acts._reference_quantized import dequantized, quantize
from fused_acts.tables import (
    ACTIVATIONS,
    ALIASES,
    VARIANTS,
    Activation,
    Variant,
    of_gate,
    of_up,
    value_of,
)

__all__ = [
    "ACTIVATIONS",
    "VARIANTS",
    "activation",
    "dequantized",
    "gated",
    "gated_quantized",
    "maxout",
    "polynorm_glu",
    "rms_norm_gated",
    "softmax_glu",
    "topk_geglu",
]


def unit(
    row: Variant | Activation,
    gate: Tensor,
    up: Tensor | None,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    parameters: Sequence[float | Tensor],
    limit: float,
    weight: float | Tensor,
) -> Tensor:
    """f(min(gate + gate_bias, limit)) * g(clamp(up + up_bias, -limit, limit)) * weight, rounded
    once.

    Computed in the dtype of gate, or in float32 for 16-bit dtypes. Without up, f(...) alone. Biases
    and parameters that rows have of their own are [..., cols], and a weight [..., 1].
    """
    real = torch.promote_types(gate.dtype, torch.float32)
    weight = weight.to(real) if isinstance(weight, Tensor) else weight
    result_dtype = gate.dtype
    gate = gate.to(real)
    if gate_bias is not None:
        gate = gate + gate_bias.to(real)
    # Not clamp, whose gradient is 0 at NaN, and at the limit itself in some versions of torch.
    limits_value = isinstance(row, Variant) and row.limits_value
    if limit != math.inf and not limits_value:
        gate = torch.where(gate > limit, limit, gate)
    values = [value.to(real) if isinstance(value, Tensor) else value for value in parameters]
    f = row.f(gate, *of_gate(row, values))
    if limit != math.inf and limits_value:
        # f is not differentiated where it is cut off: its own gradient may be NaN there.
        beyond = f.detach() > limit
        f = torch.where(beyond, limit, row.f(torch.where(beyond, 0.0, gate)))
    if up is None:
        return (f * weight).to(result_dtype)
    assert isinstance(row, Variant)
    up = up.to(real)
    if up_bias is not None:
        up = up + up_bias.to(real)
    if limit != math.inf:
        up = torch.where(up.abs() > limit, limit * up.detach().sign(), up)
    return (f * row.g(up, *of_up(row, values)) * weight).to(result_dtype)


def eager_unit(
    row: Variant,
    gate: Tensor,
    up: Tensor,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    parameters: Sequence[float | Tensor],
    limit: float,
    weight: float | Tensor,
) -> Tensor:
    """The same as torch's own operations compute it, each of which rounds to the dtype of gate."""
    if gate_bias is not None:
        gate = gate + gate_bias.to(gate.dtype)
    if up_bias is not None:
        up = up + up_bias.to(up.dtype)
    if limit != math.inf:
        up = up.clamp(-limit, limit)
        gate = gate if row.limits_value else gate.clamp(max=limit)
    values = [v.to(gate.dtype) if isinstance(v, Tensor) else v for v in parameters]
    f = (row.eager or row.f)(gate, *of_gate(row, values))
    if limit != math.inf and row.limits_value:
        f = f.clamp(max=limit)
    result = f * row.g(up, *of_up(row, values))
    if isinstance(weight, Tensor):
        return (result * weight).to(gate.dtype)
    return result if weight == 1.0 else result * weight


def halves(x: Tensor, layout: str, block: int = 1) -> tuple[Tensor, Tensor]:
    """(gate, up) of a packed x: [..., 2 * cols], each [..., cols]."""
    if layout == "interleaved":
        rows = x.reshape(*x.shape[:-1], x.shape[-1] // (2 * block), 2, block)
        return rows[..., 0, :].flatten(-2), rows[..., 1, :].flatten(-2)
    first, second = x.tensor_split(2, -1)
    return {"gate_up": (first, second), "up_gate": (second, first)}[layout]


def parameters_of(row: Variant | Activation, options: dict[str, Any]) -> list[float | Tensor]:
    """Takes the parameters out of the options, and allows no other to be left."""
    values = [
        value_of(row, name, options.pop(name, default)) for name, default in row.parameters.items()
    ]
    for name in options:
        raise TypeError(f"{name}: there is no such option for {row.formula}")
    return values


def rows_of(
    shape: torch.Size,
    offs: Tensor | None,
    counts: Tensor | None,
    row_expert: Tensor | None,
) -> Tensor | None:
    """The expert of each row, -1 for padding; None where nothing says so."""
    if row_expert is not None:
        return row_expert
    owner = torch.full(shape, -1)
    if counts is not None:
        for expert, count in enumerate(counts.tolist()):
            owner[expert, : max(count, 0)] = expert
        return owner
    if offs is None:
        return None
    begin = 0
    for expert, end in enumerate(offs.tolist()):
        owner.view(-1)[begin:end] = expert
        begin = end
    return owner


class _Rows:
    """The rows of a call that experts own, one below the other, and what each has of its own."""

    def __init__(self, owner: Tensor | None) -> None:
        self.live = None if owner is None else owner >= 0
        self.owner = None if owner is None else owner[owner >= 0].long()

    def matrix(self, x: Tensor) -> Tensor:
        return x if self.live is None else x[self.live]

    def vector(self, value: Any) -> Any:
        """A bias, of one row or one for each expert."""
        is_shared = value is None or value.dim() < 2
        return value if self.owner is None or is_shared else value[self.owner]

    def parameter(self, value: Any) -> Any:
        if self.owner is not None and isinstance(value, Tensor) and value.numel() > 1:
            return value[self.owner].reshape(len(self.owner), -1)
        return value

    def weight(self, value: float | Tensor) -> float | Tensor:
        return self.matrix(value).unsqueeze(-1) if isinstance(value, Tensor) else value

    def whole(self, result: Tensor) -> Tensor:
        """Padding is 0."""
        if self.live is None:
            return result
        out = result.new_zeros(*self.live.shape, result.shape[-1])
        return out.masked_scatter(self.live.unsqueeze(-1), result)


def gated(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    variant: str = "swiglu",
    layout: str = "gate_up",
    dim: int = -1,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    bias: Tensor | None = None,
    weight: float | Tensor = 1.0,
    offs: Tensor | None = None,
    counts: Tensor | None = None,
    row_expert: Tensor | None = None,
    padding: str = "zero",
    block: int = 1,
    rounding: str = "single",
    inplace_backward: bool = False,
    save: str | None = None,
    **options: Any,
) -> Tensor:
    """f(gate) * g(up) in plain torch; arguments and result as in `fused_acts.gated`.

    Computed in the dtype of the inputs, or in float32 with one rounding for 16-bit dtypes. Accurate
    to a few ulp in float64, tails included. Padding is 0.
    """
    if dim != -1:
        if up is not None:
            raise ValueError(f"dim: expected -1 with two tensors, got {dim}")
        names: Any = {
            "gate_bias": gate_bias,
            "up_bias": up_bias,
            "bias": bias,
            "weight": weight,
            "offs": offs,
            "counts": counts,
            "row_expert": row_expert,
            "block": block,
            "rounding": rounding,
        }
        x = gate.movedim(dim, -1)
        return gated(x, variant=variant, layout=layout, **names, **options).movedim(-1, dim)
    row = VARIANTS[variant]
    limit = options.pop("limit", row.limit) if row.limits else None
    parameters = parameters_of(row, options)
    if up is None:
        gate, up = halves(gate, layout, block)
    if gate.shape != up.shape:
        raise ValueError(
            f"up: expected the shape of gate, {tuple(gate.shape)}, got {tuple(up.shape)}"
        )
    if bias is not None:
        gate_bias, up_bias = halves(bias, layout, block)
    compute = eager_unit if rounding == "eager" else unit
    limit = math.inf if limit is None else float(limit)
    rows = _Rows(rows_of(gate.shape[:-1], offs, counts, row_expert))
    gate, up = rows.matrix(gate), rows.matrix(up)
    biases = rows.vector(gate_bias), rows.vector(up_bias)
    values = [rows.parameter(value) for value in parameters]
    return rows.whole(compute(row, gate, up, *biases, values, limit, rows.weight(weight)))


def activation(
    x: Tensor,
    name: str,
    bias: Tensor | None = None,
    weight: float | Tensor = 1.0,
    offs: Tensor | None = None,
    counts: Tensor | None = None,
    row_expert: Tensor | None = None,
    padding: str = "zero",
    save: str | None = None,
    **options: Any,
) -> Tensor:
    """f(x + bias) * weight in plain torch; arguments and result as in `fused_acts.activation`.

    Computed as `gated` is.
    """
    row = ACTIVATIONS[ALIASES.get(name, name)]
    rows = _Rows(rows_of(x.shape[:-1], offs, counts, row_expert))
    values = [rows.parameter(value) for value in parameters_of(row, options)]
    vectors = rows.matrix(x), None, rows.vector(bias), None, values
    return rows.whole(unit(row, *vectors, math.inf, rows.weight(weight)))


def gated_quantized(
    gate: Tensor,
    up: Tensor | None = None,
    *,
    variant: str = "swiglu",
    layout: str = "gate_up",
    format: str,
    scale: float | Tensor | None = None,
    scale_layout: str = "row",
    scale_rounding: str = "none",
    amax_floor: float = 0.0,
    rounding: str = "storage",
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """(values, scales) in plain torch; arguments and result as in `fused_acts.gated_quantized`.

    Values of padding are 0.
    """
    if rounding == "single":
        gate, up = gate.float(), None if up is None else up.float()
    if variant in VARIANTS:
        y = gated(gate, up, variant=variant, layout=layout, **options)
    else:
        y = activation(gate, variant, **options)
    counts = options.get("counts")
    owner = rows_of(y.shape[:-1], options.get("offs"), counts, options.get("row_expert"))
    return quantize(
        y.float(),
        None if owner is None else owner >= 0,
        None if counts is None else len(counts),
        format=format,
        scale=None if scale is None else torch.as_tensor(scale, dtype=torch.float32),
        scale_layout=scale_layout,
        scale_rounding=scale_rounding,
        amax_floor=amax_floor,
    )


def maxout(x: Tensor, pieces: int, dim: int = -1) -> Tensor:
    """The largest of each group of `pieces` neighbours along a dimension, in plain torch."""
    dim %= x.dim()
    groups: Tensor = x.unflatten(dim, (x.shape[dim] // pieces, pieces))
    return groups.max(dim + 1).values


def softmax_glu(gate: Tensor, up: Tensor) -> Tensor:
    """softmax(gate) * up over the last dimension in plain torch, with one rounding."""
    real = torch.promote_types(gate.dtype, torch.float32)
    return (torch.softmax(gate.to(real), -1) * up.to(real)).to(gate.dtype)


def _normed(x: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def rms_norm_gated(
    x: Tensor,
    z: Tensor,
    weight: Tensor,
    eps: float = 1e-6,
    *,
    gate: str = "swish",
    norm_before_gate: bool = True,
    group_size: int | None = None,
) -> Tensor:
    """norm(x) * weight * f(z) or norm(x * f(z)) * weight in plain torch, with one rounding."""
    real = torch.promote_types(x.dtype, torch.float32)
    result_dtype, x, z = x.dtype, x.to(real), z.to(real)
    factor = ACTIVATIONS[ALIASES.get(gate, gate)].f(z)
    cols = x.shape[-1]
    groups = 1 if group_size is None else cols // group_size
    grouped = (x if norm_before_gate else x * factor).unflatten(-1, (groups, cols // groups))
    result = _normed(grouped, eps).flatten(-2) * weight.to(real)
    return (result * factor if norm_before_gate else result).to(result_dtype)


def polynorm_glu(
    gate: Tensor, up: Tensor, coefficients: Tensor, bias: Tensor, eps: float = 1e-6
) -> Tensor:
    """(c0*norm(gate^3) + c1*norm(gate^2) + c2*norm(gate) + bias) * up in plain torch, with one
    rounding."""
    real = torch.promote_types(gate.dtype, torch.float32)
    x, c = gate.to(real), coefficients.to(real)
    total = bias.to(real) + sum(c[3 - n] * _normed(x**n, eps) for n in (3, 2, 1))
    return (total * up.to(real)).to(gate.dtype)


def topk_geglu(gate: Tensor, up: Tensor, sparsity: float = 0.95) -> Tensor:
    """gelu_tanh(max(gate - (mean + quantile * std), 0)) * up in plain torch, with one rounding."""
    real = torch.promote_types(gate.dtype, torch.float32)
    x, f = gate.to(real), ACTIVATIONS["gelu_tanh"].f
    if sparsity > 0:
        quantile = torch.special.ndtri(torch.tensor(sparsity, dtype=torch.float64)).item()
        cut = x.mean(-1, keepdim=True) + quantile * torch.std(x, -1, correction=0, keepdim=True)
        x = torch.relu(x - cut)
    return (f(x) * up.to(real)).to(gate.dtype)
