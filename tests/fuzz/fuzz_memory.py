"""Tensors of any strides between pages that nobody may touch: a stray access ends the process."""

import ctypes
import math
import mmap
from typing import NamedTuple

import torch
from torch import Tensor

PAGE = mmap.PAGESIZE
_mprotect = ctypes.CDLL(None, use_errno=True).mprotect
_mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
_NOBODY = 0  # PROT_NONE

# Where an element may be read more than once; such a view is not to be written.
SHARED = ("expanded", "windows")
VIEWS = ("dense", "rows apart", "all apart", "columns apart", "reversed", "swapped", *SHARED)


class View(NamedTuple):
    kind: str  # of VIEWS
    extra: int  # how far apart, or which dimension
    at_end: bool  # whether the page behind follows its last element, or its first that before


def strides(shape: tuple[int, ...], view: View) -> tuple[int, ...]:
    rank, kind, extra = len(shape), view.kind, view.extra
    order = [*range(rank)]
    if kind == "reversed":
        order.reverse()
    elif kind == "swapped" and rank > 1:
        order[-2:] = order[-1], order[-2]
    found, stride = [0] * rank, 1 + extra % 3 if kind == "columns apart" else 1
    for dim in reversed(order):
        found[dim] = stride
        stride *= max(shape[dim], 1)
        if kind == "all apart" or (kind == "rows apart" and dim == rank - 1):
            stride += extra
    if rank and kind == "expanded":
        found[extra % rank] = 0
    if rank > 1 and kind == "windows":
        found[-2] = extra
    return tuple(found)


def extent(shape: tuple[int, ...], its_strides: tuple[int, ...]) -> int:
    if 0 in shape:
        return 0
    return 1 + sum((n - 1) * stride for n, stride in zip(shape, its_strides, strict=True))


def guarded(elements: int, dtype: torch.dtype, at_end: bool) -> Tensor:
    """[elements], uninitialised, beside a page that may not be touched."""
    size = elements * dtype.itemsize
    if size == 0:
        return torch.empty(0, dtype=dtype)
    pages = math.ceil(size / PAGE)
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (begin, begin + (pages + 1) * PAGE):
        if _mprotect(page, PAGE, _NOBODY):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = (pages + 1) * PAGE - size if at_end else PAGE
    return torch.frombuffer(memory, dtype=dtype, count=elements, offset=offset)


def place(values: Tensor, view: View, device: str = "cpu") -> Tensor:
    """The values in such a view, what lies between its elements NaN."""
    shape = tuple(values.shape)
    its_strides = strides(shape, view)
    elements = extent(shape, its_strides)
    if device == "cpu":
        storage = guarded(elements, values.dtype, view.at_end)
    else:
        storage = torch.empty(elements, dtype=values.dtype, device=device)
    storage.fill_(math.nan) if values.dtype.is_floating_point else storage.zero_()
    placed = storage.as_strided(shape, its_strides)
    if view.kind not in SHARED:
        return placed.copy_(values)
    flat = values.flatten()[:elements]  # as many of the values as it has elements
    storage[: flat.numel()].copy_(flat)
    storage[flat.numel() :].fill_(0.5)
    return placed
