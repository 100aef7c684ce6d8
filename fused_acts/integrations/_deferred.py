"""An activation that waits for what it is multiplied with, in modules that keep their own forward.

`act_fn(gate) * up` in the code of any module is a fused call if act_fn(gate) is a Deferred.
Whatever else is done with one is done with act_fn(gate) itself, so that a module is right in any
case.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from fused_acts.integrations._classes import own_forward

_PRODUCTS = (torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__)


class Deferred:
    """activation(x), or in a product with a tensor like x gate(x, tensor)."""

    def __init__(
        self, x: Tensor, activation: Callable[[Tensor], Tensor], gate: Callable[..., Tensor]
    ) -> None:
        self.x, self.activation, self.gate = x, activation, gate
        self.result: Tensor | None = None

    def value(self) -> Tensor:
        if self.result is None:
            self.result = self.activation(self.x)
        return self.result

    def times(self, other: Any) -> Any:
        x = self.x
        if isinstance(other, Tensor) and other.shape == x.shape and other.dtype == x.dtype:
            return self.gate(x, other)
        return self.value() * other

    __mul__ = __rmul__ = mul = times

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("x", "activation", "gate", "result"):  # of a copy
            raise AttributeError(name)
        return getattr(self.value(), name)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS and not kwargs:
            left, right = args
            return left.times(right) if isinstance(left, cls) else right.times(left)
        return func(*_values(args), **_values(kwargs or {}))


def _values(arguments: Any) -> Any:
    return tree_map_only(Deferred, Deferred.value, arguments)


def _of_value(name: str) -> Any:
    return lambda self, *args: getattr(self.value(), name)(*_values(args))


# Python looks for operators in the class alone.
for _name in (
    *("add", "radd", "sub", "rsub", "truediv", "rtruediv", "matmul", "rmatmul", "pow", "rpow"),
    *("floordiv", "rfloordiv", "mod", "rmod", "and", "or", "xor", "invert"),
    *("neg", "abs", "lt", "le", "gt", "ge", "eq", "ne", "getitem", "setitem", "len", "iter"),
    *("bool", "int", "float", "format", "repr", "hash"),
):
    setattr(Deferred, f"__{_name}__", _of_value(f"__{_name}__"))


def deferred(module: nn.Module, x: Tensor, *, gate: Callable[..., Tensor]) -> Deferred:
    """The forward of an activation."""
    return Deferred(x, own_forward(module), gate)


def unit(module: nn.Module, gate: Tensor, up: Tensor, *, call: Callable[..., Tensor]) -> Tensor:
    """The forward of an activation that is given both factors."""
    return call(gate, up)
