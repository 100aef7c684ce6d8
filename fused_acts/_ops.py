"""Loads the extension, which registers torch.ops.fused_acts.*, and adds fake implementations."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fused_acts.options import ALONE, Call
from fused_acts.tables import ACTIVATIONS, VARIANTS

try:
    torch.ops.load_library(str(Path(__file__).with_name("libfused_acts.so")))
    from fused_acts import _C
except (ImportError, OSError) as error:
    raise ImportError(
        f"fused_acts._C, the compiled extension, is missing or does not load with torch "
        f"{torch.__version__}: {error}\nBuild it with `pip install .` in the source folder, "
        f"or with `pip install -e .` to import fused_acts from there. It needs torch 2.10 or later."
    ) from error

_TABLES = (
    [(name, row.f.__name__, row.g.__name__) for name, row in VARIANTS.items()],
    [(name, row.f.__name__) for name, row in ACTIVATIONS.items()],
)
if (_C.variants(), _C.activations()) != _TABLES:
    raise ImportError(
        f"fused_acts._C was built from other sources, for {_C.variants()} and {_C.activations()}. "
        f"Build it again with `pip install .` in the source folder."
    )

glu_forward = torch.ops.fused_acts.glu_forward.default
glu_forward_out = torch.ops.fused_acts.glu_forward_out.default
glu_backward = torch.ops.fused_acts.glu_backward.default
glu_forward_options = torch.ops.fused_acts.glu_forward_options.default
glu_backward_inplace = torch.ops.fused_acts.glu_backward_inplace.default
glu_double_backward = torch.ops.fused_acts.glu_double_backward.default

# Without the Python layer around it, for calls that record nothing.
glu_forward_op: Callable[..., Tensor] = glu_forward._op
glu_forward_options_op: Callable[..., Tensor] = glu_forward_options._op


def numbers(call: Call) -> tuple[float, float, int, int]:
    """The last arguments of the operators with options."""
    return call.scalar, call.limit, call.variant, call.layout % ALONE


def bits(needs: Sequence[bool]) -> int:
    """Which gradients are needed, as these operators take it."""
    return sum(1 << index for index, need in enumerate(needs) if need)


_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check_matches(name: str, tensor: Tensor, shape: torch.Size, like: Tensor) -> None:
    if tensor.dtype != like.dtype:
        raise TypeError(f"{name}: expected dtype {like.dtype}, got {tensor.dtype}")
    if tensor.device != like.device:
        raise ValueError(f"{name}: expected a tensor on {like.device}, got one on {tensor.device}")
    if tensor.shape != shape:
        raise ValueError(f"{name}: expected shape {tuple(shape)}, got {tuple(tensor.shape)}")


def out_shape(gate: Tensor, up: Tensor | None, layout: int) -> torch.Size:
    """Checks the inputs of a unit and returns the shape of its output."""
    name = "x" if up is None else "gate"
    if gate.dtype not in _DTYPES:
        raise TypeError(f"{name}: expected float64, float32, float16 or bfloat16, got {gate.dtype}")
    if gate.dim() == 0:
        raise ValueError(f"{name}: expected at least one dimension, got a 0-d tensor")
    if up is not None:
        check_matches("up", up, gate.shape, gate)
        return gate.shape
    if layout == ALONE:
        return gate.shape
    *rows, width = gate.shape
    if width % 2:
        raise ValueError(f"x: expected an even last dimension, got shape {tuple(gate.shape)}")
    return torch.Size((*rows, width // 2))


def check_rows(
    gate: Tensor, cols: int, rows: Mapping[str, Tensor | None], packed: bool = True
) -> None:
    """Checks what all rows share: biases, [cols], packed ones, [2 * cols], or a parameter."""
    real = torch.promote_types(gate.dtype, torch.float32)
    for name, row in rows.items():
        if row is None:
            continue
        if row.dtype not in (gate.dtype, real):
            expected = " or ".join(dict.fromkeys(map(str, (gate.dtype, real))))
            raise TypeError(f"{name}: expected dtype {expected}, got {row.dtype}")
        if row.device != gate.device:
            raise ValueError(f"{name}: expected a tensor on {gate.device}, got one on {row.device}")
        is_bias = name.endswith("bias")
        if not is_bias and row.dim() <= 1 and row.numel() == 1:
            continue
        shape = (2 * cols if name == "bias" and packed else cols,)
        if tuple(row.shape) != shape:
            expected = f"shape {shape}" + ("" if is_bias else " or a single value")
            raise ValueError(f"{name}: expected {expected}, got {tuple(row.shape)}")


def _out_shape(gate: Tensor, up: Tensor | None, variant: int, layout: int) -> torch.Size:
    return out_shape(gate, up, ALONE if variant >= len(VARIANTS) else layout)


def _checked_call(gate: Tensor, up: Tensor | None, *arguments: Any) -> torch.Size:
    """arguments: those of an operator from gate_bias to layout."""
    shape = _out_shape(gate, up, arguments[5], arguments[6])
    names = ("gate_bias", "up_bias", "parameter")
    check_rows(gate, shape[-1], dict(zip(names, arguments, strict=False)))
    return shape


def _glu_forward(gate: Tensor, up: Tensor | None, variant: int, layout: int) -> Tensor:
    return gate.new_empty(_out_shape(gate, up, variant, layout))


def _glu_forward_options(gate: Tensor, up: Tensor | None, *rest: Any) -> Tensor:
    return gate.new_empty(_checked_call(gate, up, *rest))


def _glu_forward_out(gate: Tensor, up: Tensor | None, *rest: Any) -> None:
    check_matches("out", rest[-1], _checked_call(gate, up, *rest), gate)


def _sums(gate: Tensor, cols: int, needs: int) -> Tensor:
    real = torch.promote_types(gate.dtype, torch.float32)
    kinds = (needs >> 2).bit_count()
    return gate.new_empty((1, kinds, cols), dtype=real)


def _glu_backward(
    grad_out: Tensor, gate: Tensor, up: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    shape = _checked_call(gate, up, *rest)
    check_matches("grad_out", grad_out, shape, gate)
    needs = rest[-1]
    grad_gate = gate.new_empty(gate.shape if needs & 1 else 0)
    grad_up = gate.new_empty(gate.shape if needs & 2 and up is not None else 0)
    return grad_gate, grad_up, _sums(gate, shape[-1], needs)


def _glu_backward_inplace(grad_out: Tensor, gate: Tensor, up: Tensor | None, *rest: Any) -> Tensor:
    shape = _checked_call(gate, up, *rest)
    check_matches("grad_out", grad_out, shape, gate)
    return _sums(gate, shape[-1], rest[-2])


def _glu_double_backward(
    grad_out: Tensor | None, gate: Tensor, up: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    needs_out, needs_inputs = rest[-2:]
    shape = _checked_call(gate, up, *rest[2:])
    return (
        gate.new_empty(shape if needs_out else 0),
        gate.new_empty(gate.shape if needs_inputs else 0),
        gate.new_empty(gate.shape if needs_inputs and up is not None else 0),
    )


_FAKES: dict[Any, Callable[..., Any]] = {
    glu_forward: _glu_forward,
    glu_forward_options: _glu_forward_options,
    glu_forward_out: _glu_forward_out,
    glu_backward: _glu_backward,
    glu_backward_inplace: _glu_backward_inplace,
    glu_double_backward: _glu_double_backward,
}
for _op, _fake in _FAKES.items():
    torch.library.register_fake(_op, _fake)
