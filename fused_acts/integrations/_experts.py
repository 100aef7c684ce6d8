"""Experts of transformers models as one block, with the gate and the routed weights in one call.

For the classes of transformers' `use_experts_implementation`, whose attributes say how the weights
lie. Whether a module computes what they say is tried, see _trial.py.
"""

import inspect
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from fused_acts._autograd.experts import Inputs, experts
from fused_acts._call import ROW_INDEX, VARIANT_INDEX, resolve
from fused_acts._layouts import LAYOUTS
from fused_acts._rows import DEFINITIONS
from fused_acts.integrations import _trial
from fused_acts.integrations._calls import (
    Unfusable,
    alone,
    calls_of_experts,
    gate,
    in_words,
    other_than,
)
from fused_acts.integrations._classes import own_class, own_forward

NAME = "fused_acts"  # in transformers' registry
# The implementations that patch replaces; whoever chooses another one wants its kernels.
_REPLACED = (None, "eager", "batched_mm", "grouped_mm", NAME)
_DTYPES = frozenset((torch.bfloat16, torch.float16, torch.float32, torch.float64))


class Unit(NamedTuple):
    """Of experts: a variant, or an activation where they have no gate."""

    name: str
    layout: str
    options: tuple[tuple[str, float], ...] = ()  # Dynamo has no guards for a dict in a constant
    definition: Any = None  # of one of one's own, to be pickled with it

    def in_words(self) -> str:
        projection = ("gate_up_proj", self.layout) if self.name in VARIANT_INDEX else ("up_proj",)
        return in_words(self.name, *projection, **dict(self.options))

    def gate(self, rounding: str) -> partial[Tensor]:
        return gate(self.name, self.layout, rounding, **dict(self.options))


def are_experts(module: nn.Module) -> bool:
    return hasattr(type(module), "_apply_gate")


def has_gate(module: nn.Module) -> bool:
    return bool(getattr(module, "has_gate", True))


def gate_of(module: Any, rounding: str) -> Unit:
    """What computes the same as `_apply_gate`. Raises Unfusable, with the reason."""
    own = partial(type(module)._apply_gate, module)
    candidates = calls_of_experts(module)
    for (variant, options), layout in itertools.product(candidates, LAYOUTS):
        definition = DEFINITIONS.get(ROW_INDEX[variant])
        found = Unit(variant, layout, (*options.items(),), definition)
        if _trial.tried(
            own, found.gate(rounding), lambda dtype: (_trial.rows(6, dtype),), rounding
        ):
            return found
    raise Unfusable(other_than(candidates[0][0], rounding))


def unit(module: Any, own: Callable[..., Any]) -> Unit:
    """With which `whole` computes the same as own, a forward. Raises Unfusable, with the reason."""
    if has_gate(module):
        found = gate_of(module, "single")
    else:
        variant, _ = calls_of_experts(module)[0]
        name = alone(variant)
        if name is None:
            raise Unfusable("has no gate, and an activation that is not known")
        found = Unit(name, LAYOUTS[0], (), DEFINITIONS.get(ROW_INDEX[name]))
    fused = partial(whole, unit=found)
    try:
        same = _trial.tried(own, fused, partial(_trial.small_experts, module, 3), "single")
    except Unfusable:  # some classes take no id that is of no expert
        same = _trial.tried(own, fused, partial(_trial.small_experts, module, 2), "single")
    if not same:
        raise Unfusable("has an eager implementation of no known form")
    return found


def whole(
    module: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor, *, unit: Unit
) -> Tensor:
    """hidden_states: [tokens, hidden]; the others: [tokens, k]. Ids from num_experts on are of no
    expert here."""
    call = resolve(ROW_INDEX[unit.name], unit.layout, dict(unit.options))
    x = hidden_states.to(module.down_proj.dtype)
    if getattr(module, "has_post_expert_norm", False):  # of each row, before it is weighted
        tokens, k = top_k_index.shape
        inputs = _inputs(module, x.repeat_interleave(k, 0))
        ids, ones = top_k_index.reshape(-1, 1), x.new_ones(tokens * k, 1)
        y = module.post_expert_norm(experts(call, "product", inputs, ids, ones))
        y = (y.view(tokens, k, y.shape[-1]) * top_k_weights.unsqueeze(-1)).sum(1)
    else:
        y = experts(call, "product", _inputs(module, x), top_k_index, top_k_weights)
    result: Tensor = y.to(hidden_states.dtype)
    return result


def _inputs(module: Any, x: Tensor) -> Inputs:
    up = "gate_up_proj" if module.has_gate else "up_proj"
    matrices = [getattr(module, up), module.down_proj]
    if module.is_transposed:
        matrices = [matrix.transpose(-2, -1) for matrix in matrices]
    biases: Any = (None, None)
    if module.has_bias:
        biases = getattr(module, f"{up}_bias"), module.down_proj_bias
    return Inputs(x, matrices[0], biases[0], matrices[1], biases[1])


def in_place(
    module: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor, *, unit: Unit
) -> Any:
    """The forward of patched experts."""
    routed = hidden_states, top_k_index, top_k_weights
    if module.config._experts_implementation in _REPLACED and are_plain(module):
        return whole(module, *routed, unit=unit)
    return own_forward(module)(*routed)


def are_plain(module: Any) -> bool:
    """Whether the weights are tensors like any other, neither quantised nor sharded."""
    tensors = [tensor for tensor in _inputs(module, module.down_proj) if tensor is not None]
    return all(type(t) in (nn.Parameter, Tensor) and t.dtype in _DTYPES for t in tensors)


def implementation(
    module: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """Experts under `experts_implementation="fused_acts"`, see transformers.register."""
    return whole(module, hidden_states, top_k_index, top_k_weights, unit=_unit_once(module))


_units: dict[Any, Unit] = {}  # by all that decides on it


def _unit_once(module: Any) -> Unit:
    try:
        calls = [(name, *options.items()) for name, options in calls_of_experts(module)]
        own = _own_loop(module)
        key = own, type(module)._apply_gate, *calls
        if key not in _units:
            with _disable_current_modes():
                _units[key] = unit(module, own)
    except Unfusable as reason:
        kind = own_class(module).__name__
        raise ValueError(f'experts_implementation="{NAME}": {kind} {reason}') from None
    return _units[key]


_unit_once._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _own_loop(module: nn.Module) -> Callable[..., Any]:
    """The eager implementation, around which transformers has put the choice of another."""
    for kind in type(module).__mro__:
        forward: Any = vars(kind).get("forward")
        if hasattr(forward, "__wrapped__"):
            own: Callable[..., Any] = inspect.unwrap(forward)
            return own
    raise Unfusable("has no eager implementation")
