"""Nested tensors of the jagged layout: a function of rows is one of their values."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def on_values(function: Callable[..., Tensor], by_elements: bool = False, **nested: Any) -> Tensor:
    """function of the values of the named tensors, which have one raggedness, as one like them.

    by_elements: whether it is a function of elements, not of the last dimension.
    """
    tensors = {name: tensor for name, tensor in nested.items() if tensor is not None}
    name, like = next(iter(tensors.items()))
    for other, tensor in tensors.items():
        if not tensor.is_nested:
            raise TypeError(f"{other}: expected a nested tensor as the others, got a dense one")
        if tensor.layout != torch.jagged:
            raise TypeError(
                f"{other}: expected a nested tensor of layout torch.jagged, got one of "
                f"{tensor.layout}"
            )
        if tensor.shape != like.shape:
            raise ValueError(
                f"{other}: expected shape {list(like.shape)}, got "
                f"{list(tensor.shape)}; shapes of nested tensors are equal if they "
                "were made with the same offsets"
            )
    ragged: int = like._ragged_idx
    if ragged == like.dim() - 1 and not by_elements:
        raise ValueError(f"{name}: expected a last dimension of one size, got {list(like.shape)}")
    values = function(*(tensor.values() for tensor in tensors.values()))
    return torch.nested.nested_tensor_from_jagged(
        values, offsets=like.offsets(), lengths=like.lengths(), jagged_dim=ragged
    )
