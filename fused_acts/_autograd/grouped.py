"""Products of groups of rows with a matrix each: torch's grouped_mm, to any order of derivatives.

That one takes three dtypes and aligned rows alone, has no second derivatives or forward mode, and
is compiled in bfloat16 only. One operator around it has what it lacks:

    grouped_mm(rows [n, k], matrices [experts, k, m], offs) -> [n, m]
    grouped_mm(left [k, n], rows [n, m], offs) -> [experts, k, m]: of each expert's columns and rows

offs int32 [experts] has the end of each expert's rows. The rows from offs[-1] on are not read, and
in a result they are whatever was there.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fused_acts._autograd import dispatch

_ALIGNMENT = 16  # bytes
_DTYPES = frozenset((torch.bfloat16, torch.float16, torch.float32))


def _is_aligned(matrix: Tensor) -> bool:
    """Whether it begins, and its rows or its columns, at multiples of 16 bytes."""
    (m, n), (row, col) = matrix.shape[-2:], matrix.stride()[-2:]
    step = row if col == 1 and row >= n else col if row == 1 and col >= m else 1
    size = matrix.element_size()
    return step * size % _ALIGNMENT == 0 and matrix.data_ptr() % _ALIGNMENT == 0


def compute(a: Tensor, b: Tensor, offs: Tensor) -> Tensor:
    """Without derivatives and fakes."""
    is_narrow = b.shape[-1] * b.element_size() % _ALIGNMENT  # its result would have wider rows
    if a.dtype in _DTYPES and _is_aligned(a) and _is_aligned(b) and not is_narrow:
        return functional.grouped_mm(a, b, offs=offs)
    return _one_by_one(a, b, offs)


def _one_by_one(a: Tensor, b: Tensor, offs: Tensor) -> Tensor:
    """On a GPU this waits for offs; so does torch's own product where it has no grouped kernel."""
    out = a.new_empty(_shape(a, b, offs))
    begin = 0
    for expert, end in enumerate(offs.tolist()):
        if b.dim() == 2:
            torch.mm(a[:, begin:end], b[begin:end], out=out[expert])
        elif begin < end:
            torch.mm(a[begin:end], b[expert], out=out[begin:end])
        begin = end
    return out


def _shape(a: Tensor, b: Tensor, offs: Tensor) -> tuple[int, ...]:
    return (*((offs.shape[0], a.shape[0]) if b.dim() == 2 else (a.shape[0],)), b.shape[-1])


_library = torch.library.Library("fused_acts", "FRAGMENT")
_library.define(
    "grouped_mm(Tensor a, Tensor b, Tensor offs) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,)
)
_library.impl("grouped_mm", compute, "CPU")
_library.impl("grouped_mm", compute, "CUDA")
_operator = torch.ops.fused_acts.grouped_mm.default


def _fake(a: Tensor, b: Tensor, offs: Tensor) -> Tensor:
    return a.new_empty(_shape(a, b, offs))


torch.library.register_fake("fused_acts::grouped_mm", _fake, lib=_library)


def live_rows(rows: Tensor, offs: Tensor) -> Tensor:
    """[n, 1]: whether a row is an expert's."""
    return (torch.arange(rows.shape[0], device=rows.device) < offs[-1:]).unsqueeze(1)


def without_derivatives(a: Tensor, b: Tensor, offs: Tensor) -> Tensor:
    """What a Function calls, which may be traced."""
    is_seen = dispatch.is_looked_at() or a.is_meta
    return _operator(a, b, offs) if is_seen else compute(a, b, offs)


def composed(a: Tensor, b: Tensor, offs: Tensor) -> Tensor:
    """Of differentiable operations, for the transforms: all rows times each matrix."""
    count = a.shape[0] if b.dim() == 3 else b.shape[0]
    every = torch.arange(count, dtype=offs.dtype, device=a.device)
    owner = torch.searchsorted(offs, every, right=True).unsqueeze(1)

    def of(expert: int) -> Tensor:
        mine = owner == expert  # selected before the product, too: other rows may hold NaN
        if b.dim() == 2:
            return torch.where(mine.t(), a, 0.0) @ torch.where(mine, b, 0.0)
        return torch.where(mine, torch.where(mine, a, 0.0) @ b[expert], 0.0)

    parts = torch.stack([of(expert) for expert in range(offs.shape[0])])
    return parts if b.dim() == 2 else parts.sum(0)


def product(a: Tensor, b: Tensor, offs: Tensor) -> Tensor:
    """Differentiable; the rows of no expert are 0, and so are their gradients."""
    if dispatch.is_transformed():
        return composed(a, b, offs)
    out: Tensor = _operator(a, b, offs)
    return out if b.dim() == 2 else torch.where(live_rows(out, offs), out, 0.0)


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> Any:
    (a, b, offs), needs = ctx.saved_tensors, ctx.needs_input_grad
    by_a = by_b = None
    if needs[0] and b.dim() == 3:
        by_a = product(grad, b.transpose(1, 2), offs)
    elif needs[0]:
        by_a = product(b, grad.transpose(1, 2), offs).t()
    if needs[1]:
        by_b = product(a.t(), grad, offs)
    return by_a, by_b, None


dispatch.register_recorded(_operator, _backward, _setup, composed, of_rows=0)
