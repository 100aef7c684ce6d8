"""Gate and up in the halves of another dimension than the last: views, where there are any."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fused_acts import _checks
from fused_acts._call import resolve
from fused_acts._layouts import block_of
from fused_acts._run import check_tensors, run


def run_along(
    dim: int,
    gate: Tensor,
    up: Tensor | None,
    variant: int,
    layout: str,
    out: Tensor | None,
    options: Mapping[str, Any],
) -> Tensor:
    """`run` of a packed gate that holds gate and up along dim."""
    check_tensors(gate=gate)
    dim = _checks.integer("dim", dim)
    if up is not None:
        raise ValueError(f"dim: expected -1 with two tensors, got {dim}")
    if gate.is_nested:
        raise ValueError(f"dim: expected -1 with a nested tensor, got {dim}")
    rank = gate.dim()
    if rank and not -rank <= dim < rank:
        raise IndexError(f"dim: expected {-rank} to {rank - 1}, got {dim}")
    if rank == 0 or dim % rank == rank - 1:
        return run(gate, None, variant, layout, out, options)
    dim %= rank
    if gate.shape[dim] % 2:
        raise ValueError(f"x: expected an even dimension {dim}, got shape {list(gate.shape)}")
    shape = torch.Size((*gate.shape[:dim], gate.shape[dim] // 2, *gate.shape[dim + 1 :]))
    if out is not None:
        check_tensors(out=out)
        _checks.check_matches("out", out, shape, gate)
    if gate.stride(dim) == 1 or any(isinstance(option, Tensor) for option in options.values()):
        # Rows along dim: of channels_last, for one; and what is there for each column is in order.
        target = None if out is None else out.movedim(dim, -1)
        result = run(gate.movedim(dim, -1), None, variant, layout, target, options)
        return result.movedim(-1, dim) if out is None else out
    block = block_of(resolve(variant, layout, options).layout)
    if gate.shape[dim] % (2 * block):
        raise ValueError(
            f"x: expected a dimension {dim} of whole blocks, 2 * {block} each, got shape "
            f"{list(gate.shape)}"
        )
    if block > 1:
        options = {name: value for name, value in options.items() if name != "block"}
    rows, layout, fold = _rows(gate, dim, layout, block)
    if out is None:
        return run(rows, None, variant, layout, None, options).view(shape)
    target = fold(out)
    run(rows, None, variant, layout, target, options)
    if target.data_ptr() != out.data_ptr():  # out is no view that a kernel could write
        out.copy_(target.view(shape))
    return out


def _rows(
    x: Tensor, dim: int, layout: str, block: int
) -> tuple[Tensor, str, Callable[[Tensor], Tensor]]:
    """x as rows that hold gate and up, their layout, and a result in the form that goes with them.

    The halves of a dimension are the halves of what it and those behind it make up together.
    Blocks that take turns are halves of rows one dimension further in.
    """
    if layout != "interleaved":
        return x.flatten(dim), layout, lambda t: t.flatten(dim)

    def fold(t: Tensor) -> Tensor:
        return torch.unflatten(t, dim, (t.shape[dim] // block, block)).flatten(dim + 1)

    pairs = torch.unflatten(x, dim, (x.shape[dim] // (2 * block), 2 * block))
    return pairs.flatten(dim + 1), "gate_up", fold
