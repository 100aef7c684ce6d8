"""How a module is fused: its gated product as one call, or its activation deferred."""

import contextlib
import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fused_acts._call import ACTIVATION_INDEX
from fused_acts._layouts import LAYOUTS
from fused_acts._rows import DEFINITIONS
from fused_acts.integrations import _chains, _classes, _experts, _forms, _leaves, _trial
from fused_acts.integrations._calls import (
    Unfusable,
    arguments_of,
    calls,
    calls_of_unit,
    gate,
    in_words,
    other_than,
    unit_of,
)
from fused_acts.integrations._deferred import deferred, unit
from fused_acts.integrations._trial import tried
from fused_acts.row_units import topk_geglu


class Change(NamedTuple):
    module: nn.Module
    attribute: str  # of the module, that the method goes into; a forward is given the module
    method: Callable[..., Any]


Fused = tuple[str, list[Change]]  # the call in words, and what makes it


def is_known(module: nn.Module) -> bool:
    """Whether it has the attributes of an MLP, or of experts."""
    known = _forms.form_of(module) or _chains.chain_of(module)
    return known is not None or _experts.are_experts(module)


def may_be_known(module: nn.Module) -> bool:
    """Whether it has attributes that others have too."""
    return bool(_trial.weights_of(module)) or _leaves.is_leaf(module)


def fuse(module: Any, rounding: str) -> Fused:
    """Raises Unfusable, with the reason."""
    attribute = _forward_attribute(module)
    if _leaves.is_leaf(module):
        if rounding == "eager":
            raise Unfusable("rounds each of its steps")
        text, forward = _leaves.fused(module)
        return text, [Change(module, attribute, forward)]
    if _experts.are_experts(module) and module.config._experts_implementation == "sonicmoe":
        raise Unfusable("has kernels of its own in the implementation sonicmoe")
    try:
        return (_fuse_experts if _experts.are_experts(module) else _fuse_mlp)(module, rounding)
    except Unfusable:
        fused = _fuse_own(module, rounding)
        if fused is None:
            raise
        return fused


def _forward_attribute(module: nn.Module) -> str:
    """Where the module's own forward is: the hooks of accelerate move it."""
    attribute = "_old_forward" if "_old_forward" in vars(module) else "forward"
    if vars(module).get(attribute, own := _classes.own_forward(module)) != own:
        raise Unfusable("has another forward than its class")
    return attribute


def _fuse_mlp(module: nn.Module, rounding: str) -> Fused:
    form = _forms.form_of(module)
    if form is None:
        return _fuse_chain(module, rounding)
    small = functools.partial(_trial.small_mlp, module, form)
    layouts = LAYOUTS if form.up is None else LAYOUTS[:1]
    candidates = calls(module)
    sparsity = getattr(module, "activation_sparsity", 0.0)
    if sparsity and rounding == "single":
        call = functools.partial(topk_geglu, sparsity=sparsity)
        forward = functools.partial(_forms.mlp, form=form, gate=call)
        if tried(type(module).forward, forward, small, rounding):
            text = in_words("topk_geglu", form.gate, str(form.up), sparsity=sparsity)
            return text, [Change(module, _forward_attribute(module), forward)]
    for (variant, options), layout in itertools.product(candidates, layouts):
        call = gate(variant, layout, rounding, **options)
        forward = functools.partial(_forms.mlp, form=form, gate=call)
        if tried(type(module).forward, forward, small, rounding):
            text = in_words(variant, form.gate, form.up or layout, **options)
            return text, [Change(module, _forward_attribute(module), forward)]
    raise Unfusable(other_than(candidates[0][0], rounding))


def _fuse_chain(module: nn.Module, rounding: str) -> Fused:
    chain = _chains.chain_of(module)
    if chain is None:
        raise Unfusable("is no MLP of a known form")
    variant = _chains.unit_of_chain(module, chain)
    attempts: list[tuple[str, bool, Any]] = []  # the call in words, whether fc1 makes both, forward
    name = _chains.alone(variant, chain)
    if name is not None and rounding == "single":  # the bias is added after a rounding
        own = DEFINITIONS.get(ACTIVATION_INDEX[name])
        named = {"name": name} if own is None else {"name": name, "definition": own}
        forward = functools.partial(_chains.ungated_chain, chain=chain, **named)
        attempts.append((f"{name}({chain.projections[0]})", False, forward))
    two = len(chain.projections) == 2
    layouts = LAYOUTS[:1] if two else LAYOUTS
    for layout in () if variant in ACTIVATION_INDEX else layouts:
        call = gate(variant, layout, rounding)
        forward = functools.partial(_chains.gated_chain, chain=chain, gate=call)
        names = chain.projections if two else (chain.projections[0], layout)
        attempts.append((in_words(variant, *names), not two, forward))
    for text, packed, forward in attempts:
        small = functools.partial(_chains.small, module, chain, packed)
        with contextlib.suppress(Unfusable):  # of a forward that wants other widths
            if tried(type(module).forward, forward, small, rounding):
                return text, [Change(module, _forward_attribute(module), forward)]
    raise Unfusable(other_than(variant, rounding))


def _fuse_experts(module: Any, rounding: str) -> Fused:
    if rounding == "single":
        with contextlib.suppress(Unfusable):  # then their gate alone may be
            return _fuse_whole(module)
    if not _experts.has_gate(module):
        raise Unfusable("has no gate")
    eager = inspect.unwrap(_classes.own_function(module))
    unit = _experts.gate_of(module, rounding)
    call = unit.gate(rounding)
    changes = [Change(module, "_apply_gate", call)]
    if "_apply_gate" not in eager.__code__.co_names:
        fused = functools.partial(_forms.eager_experts, gate=call)
        small = functools.partial(_trial.small_experts, module, 3)
        if not tried(eager, fused, small, rounding):
            raise Unfusable("has an eager implementation of no known form")
        forward = functools.partial(_forms.experts, gate=call)
        changes.append(Change(module, _forward_attribute(module), forward))
    return unit.in_words(), changes


def _fuse_whole(module: Any) -> Fused:
    if not _experts.are_plain(module):
        raise Unfusable("has weights that are quantised or sharded")
    unit = _experts.unit(module, inspect.unwrap(_classes.own_function(module)))
    forward = functools.partial(_experts.in_place, unit=unit)
    changes = [Change(module, _forward_attribute(module), forward)]
    if _experts.has_gate(module):  # for the implementations that stay
        changes.append(Change(module, "_apply_gate", unit.gate("single")))
    return f"{unit.in_words()}, whole experts", changes


def _fuse_own(module: nn.Module, rounding: str) -> Fused | None:
    """With the module's own forward, around another activation."""
    name = _forms.activation_of(module) or ""
    activation = getattr(module, name, None)
    if not isinstance(activation, nn.Module):
        return None
    if arguments_of(type(activation).forward) == 2:
        variant, method = _fuse_unit(activation, rounding)
    elif small := _small_own(module, name):
        variant = unit_of(activation)
        method = functools.partial(deferred, gate=gate(variant, LAYOUTS[0], rounding))
        forward = functools.partial(_forward_around, name=name, method=method)
        if not tried(inspect.unwrap(_classes.own_function(module)), forward, small, rounding):
            raise Unfusable(other_than(variant, rounding))
    else:
        return None
    change = Change(activation, _forward_attribute(activation), method)
    return f"{variant} in place of {name}", [change]


def _fuse_unit(activation: nn.Module, rounding: str) -> tuple[str, Callable[..., Any]]:
    """For an activation that is given gate and up."""
    for variant, options in calls_of_unit(activation):
        method = functools.partial(unit, call=gate(variant, LAYOUTS[0], rounding, **options))

        def arguments(dtype: torch.dtype) -> tuple[Any, ...]:
            return activation, *_trial.rows(6, dtype).chunk(2, dim=-1)

        if tried(type(activation).forward, method, arguments, rounding):
            return in_words(variant, **options), method
    raise Unfusable(f"has the activation {type(activation).__name__}, which is not known")


def _small_own(module: nn.Module, name: str) -> Callable[..., Any] | None:
    """How to make the module small, if then it multiplies what its activation makes."""
    own, products = inspect.unwrap(_classes.own_function(module)), 0
    activation = getattr(module, name)

    def product(gate: Tensor, up: Tensor) -> Tensor:
        nonlocal products
        products += 1
        return torch.mul(_classes.own_forward(activation)(gate), up)

    method = functools.partial(deferred, gate=product)
    forward = functools.partial(_forward_around, name=name, method=method)
    for weights, others in itertools.product(_trial.weights_of(module), "IH"):
        small = functools.partial(_trial.small_own, module, weights, others, arguments_of(own))
        products = 0
        try:
            if _trial.agree(own, forward, small, exactly=False) and products:
                return small
        except Exception:  # it has other weights of these names
            continue
    return None


def _forward_around(module: nn.Module, *args: Any, name: str, method: Callable[..., Any]) -> Any:
    """The module's own forward, with another of its activation."""
    activation = _trial.changed(getattr(module, name))
    _classes.set_forward(activation, method)
    modules = {**module._modules, name: activation}
    return inspect.unwrap(_classes.own_function(module))(
        _trial.changed(module, _modules=modules), *args
    )
