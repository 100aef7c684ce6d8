"""How a module is fused: its gated product as one call, or its activation deferred."""

import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from fused_acts._layouts import LAYOUTS
from fused_acts.integrations import _classes, _forms, _trial
from fused_acts.integrations._calls import Unfusable, calls, gate, unit_of
from fused_acts.integrations._deferred import deferred


class Change(NamedTuple):
    module: nn.Module
    attribute: str  # of the module, that the method goes into; a forward is given the module
    method: Callable[..., Any]


Fused = tuple[str, list[Change]]  # the call in words, and what makes it


def are_experts(module: nn.Module) -> bool:
    return hasattr(type(module), "_apply_gate")


def is_known(module: nn.Module) -> bool:
    """Whether it has the attributes of a gated MLP, or of experts."""
    return _forms.form_of(module) is not None or are_experts(module)


def may_be_known(module: nn.Module) -> bool:
    """Whether it has attributes that others have too."""
    return bool(_trial.weights_of(module))


def fuse(module: nn.Module, rounding: str) -> Fused:
    """Raises Unfusable, with the reason."""
    _forward_attribute(module)
    try:
        return (_fuse_experts if are_experts(module) else _fuse_mlp)(module, rounding)
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
        raise Unfusable("is no gated MLP of a known form")
    small = functools.partial(_trial.small_mlp, module, form)
    layouts = LAYOUTS if form.up is None else LAYOUTS[:1]
    candidates = calls(module)
    for (variant, options), layout in itertools.product(candidates, layouts):
        call = gate(variant, layout, rounding, **options)
        forward = functools.partial(_forms.mlp, form=form, gate=call)
        if _agree(type(module).forward, forward, small, rounding):
            text = _in_words(variant, form.gate, form.up or layout, **options)
            return text, [Change(module, _forward_attribute(module), forward)]
    raise Unfusable(_other_than(candidates[0][0], rounding))


def _fuse_experts(module: Any, rounding: str) -> Fused:
    kind = type(module)
    if not getattr(module, "has_gate", True):
        raise Unfusable("has no gate")
    if module.config._experts_implementation == "sonicmoe":
        raise Unfusable("has a gate of its own in the implementation sonicmoe")
    own_gate = functools.partial(kind._apply_gate, module)
    candidates = calls(module)
    for (variant, options), layout in itertools.product(candidates, LAYOUTS):
        call = gate(variant, layout, rounding, **options)
        if _agree(own_gate, call, lambda dtype: (_trial.rows(6, dtype),), rounding):
            break
    else:
        raise Unfusable(_other_than(candidates[0][0], rounding))
    changes = [Change(module, "_apply_gate", call)]
    eager = inspect.unwrap(kind.forward)
    if "_apply_gate" not in eager.__code__.co_names:
        fused = functools.partial(_forms.eager_experts, gate=call)
        small = functools.partial(_trial.small_experts, module)
        if not _agree(eager, fused, small, rounding):
            raise Unfusable("has an eager implementation of no known form")
        forward = functools.partial(_forms.experts, gate=call)
        changes.append(Change(module, _forward_attribute(module), forward))
    return _in_words(variant, "gate_up_proj", layout, **options), changes


def _fuse_own(module: nn.Module, rounding: str) -> Fused | None:
    """With the module's own forward, around an activation that waits for the other factor."""
    name = _forms.activation_of(module) or ""
    activation, weights = getattr(module, name, None), _trial.weights_of(module)
    if not weights or not isinstance(activation, nn.Module):
        return None
    unit = unit_of(activation)
    call = gate(unit, LAYOUTS[0], rounding)
    own = inspect.unwrap(type(module).forward)
    given = [p for p in inspect.signature(own).parameters.values() if p.default is p.empty]
    count = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in given) - 1  # without self
    products = 0

    def counted(*factors: Tensor) -> Tensor:
        nonlocal products
        products += 1
        return call(*factors)

    waiting = _trial.changed(activation)
    _classes.set_forward(waiting, functools.partial(deferred, gate=counted))

    def forward(module: nn.Module, *args: Any) -> Any:
        return own(_trial.changed(module, _modules={**module._modules, name: waiting}), *args)

    for named, others in itertools.product(weights, "IH"):
        products = 0
        small = functools.partial(_trial.small_own, module, named, others, count)
        try:
            fused = _trial.agree(own, forward, small, exactly=rounding == "eager")
        except Exception:  # it is not of this form
            continue
        if fused and products:
            method = functools.partial(deferred, gate=call)
            change = Change(activation, _forward_attribute(activation), method)
            return f"{unit} in place of {name}", [change]
    return None


def _agree(own: Any, fused: Any, arguments: Any, rounding: str) -> bool:
    try:
        return _trial.agree(own, fused, arguments, exactly=rounding == "eager")
    except Exception as error:
        raise Unfusable(f"cannot be tried: {type(error).__name__}: {error}") from error


def _other_than(variant: str, rounding: str) -> str:
    return f"does not compute {variant}" + (" bit for bit" if rounding == "eager" else "")


def _in_words(variant: str, *operands: str, **options: float) -> str:
    given = [f"{option}={value}" for option, value in options.items()]
    return f"{variant}({', '.join([*operands, *given])})"
