"""Modules that are one call by themselves: norms with a gate, and an activation that learns."""

import inspect
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from fused_acts.functional import FUNCTIONS
from fused_acts.integrations import _classes, _trial
from fused_acts.integrations._calls import Unfusable
from fused_acts.nn.activations import XIELU_NUMBERS as XIELU
from fused_acts.row_units import rms_norm_gated

_EPS = ("variance_epsilon", "eps")
_GROUPS = ("n_groups", "num_groups")


def is_leaf(module: nn.Module) -> bool:
    return _is_gated_norm(module) or _is_xielu(module)


def fused(module: nn.Module) -> tuple[str, Callable[..., Any]]:
    """The call in words, and the forward."""
    if _is_xielu(module):
        numbers: Any = {name: getattr(module, f"_{name}_scalar", None) for name in XIELU}
        if numbers == XIELU and _trial.agree(
            type(module).forward, xielu, partial(_small_xielu, module), exactly=False
        ):
            return "xielu(alpha_p, alpha_n)", xielu
        raise Unfusable("does not compute xielu")
    return _fused_norm(module)


def _is_xielu(module: nn.Module) -> bool:
    return module._parameters.keys() == {"alpha_p", "alpha_n"} and hasattr(module, "beta")


def xielu(module: Any, x: Tensor) -> Any:
    """The fused forward; parameters of another dtype than x decide that of the result."""
    if {module.alpha_p.dtype, module.alpha_n.dtype} != {x.dtype}:
        return _classes.own_forward(module)(x)
    alpha_p, alpha_n = softplus(module.alpha_p), softplus(module.alpha_n)
    return FUNCTIONS["xielu"](x, alpha_p=alpha_p, alpha_n=XIELU["beta"] + alpha_n)


def _small_xielu(module: nn.Module, dtype: torch.dtype) -> tuple[Any, ...]:
    parameters = {n: torch.full((1,), 0.3, dtype=dtype) for n in module._parameters}
    buffers = {n: torch.tensor(number, dtype=dtype) for n, number in XIELU.items()}
    return _trial.changed(module, _parameters=parameters, _buffers=buffers), _trial.rows(6, dtype)


def _is_gated_norm(module: nn.Module) -> bool:
    """Whether it has a weight alone, an eps, and a forward of two tensors, the second a gate."""
    if module._parameters.keys() != {"weight"} or module._modules or _eps(module) is None:
        return False
    given = [*inspect.signature(inspect.unwrap(type(module).forward)).parameters]
    return len(given) == 3 and given[2] == "gate" and module._parameters["weight"] is not None


def norm(module: Any, x: Tensor, gate: Tensor | None = None, *, call: Callable[..., Tensor]) -> Any:
    """The fused forward; a weight of another dtype than x decides that of the result."""
    weight = module.weight
    if gate is None or gate.shape != x.shape or {gate.dtype, weight.dtype} != {x.dtype}:
        return _classes.own_forward(module)(x, gate)
    return call(x, gate, weight)


def _fused_norm(module: nn.Module) -> tuple[str, Callable[..., Any]]:
    for activation, first, group_size in itertools.product(
        ("swish", "sigmoid"), (True, False), _group_sizes(module)
    ):
        options: dict[str, Any] = {"gate": activation, "norm_before_gate": first}
        options |= {"eps": _eps(module), "group_size": group_size}
        call = partial(rms_norm_gated, **options)
        forward = partial(norm, call=call)
        if _trial.agree(type(module).forward, forward, partial(_small, module), exactly=False):
            named = f"gate={activation}, norm_before_gate={first}"
            return f"rms_norm_gated({named}, group_size={group_size})", forward
    raise Unfusable("does not compute rms_norm_gated")


def _eps(module: nn.Module) -> float | None:
    return next((getattr(module, name) for name in _EPS if hasattr(module, name)), None)


def _group_sizes(module: Any) -> list[int | None]:
    sizes: list[int | None] = [None]
    if getattr(module, "group_size", None):
        sizes.append(module.group_size)
    for name in _GROUPS:
        if getattr(module, name, None):
            sizes.append(module.weight.shape[0] // getattr(module, name))
    return sizes


def _small(module: Any, dtype: torch.dtype) -> tuple[Any, ...]:
    """The module with another weight of its size, and two sequences of few tokens."""
    size = module.weight.shape[0]
    numbers = torch.arange(1, 9 * size + 1, dtype=torch.float64, device="cpu").sin().view(9, size)
    *tokens, weight = numbers.to(dtype)
    x, gate = torch.stack(tokens).view(2, 2, 2, size)
    parameters = {"weight": nn.Parameter(weight)}
    return _trial.changed(module, _parameters=parameters), x, 3.0 * gate
