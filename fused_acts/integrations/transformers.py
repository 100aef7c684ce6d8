"""Fuses the MLPs and experts of Hugging Face transformers models where they stand.

No model is known here by its name: see _forms.py and _chains.py for what is fused, and how that is
made sure.
"""

import contextlib
import functools
import inspect
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from fused_acts._call import ROUNDINGS, unknown
from fused_acts._layouts import LAYOUTS
from fused_acts.functional import gated
from fused_acts.integrations import _chains, _classes, _forms

# By the attribute of the module that they go into; a forward is given the module.
Methods = dict[str, Callable[..., Any]]

# The gated unit of an activation, by the type of a module or the name of a function.
ACTIVATIONS = {
    "diffusers.models.activations.ApproximateGELU": "quick_geglu",
    "diffusers.models.activations.GEGLU": "geglu",
    "diffusers.models.activations.GELU": "geglu",  # or geglu_tanh, as its `approximate` says
    "timm.layers.activations.GELU": "geglu",
    "timm.layers.activations.GELUTanh": "geglu_tanh",
    "timm.layers.activations.QuickGELU": "quick_geglu",
    "timm.layers.activations.Sigmoid": "glu",
    "timm.layers.activations.Swish": "swiglu",
    "timm.layers.activations.Tanh": "tanh_glu",
    "torch._C._nn.gelu": "geglu",
    "torch.nn.functional.relu": "reglu",
    "torch.nn.functional.silu": "swiglu",
    "torch.nn.modules.activation.GELU": "geglu",  # or geglu_tanh, as its `approximate` says
    "torch.nn.modules.activation.ReLU": "reglu",
    "torch.nn.modules.activation.SiLU": "swiglu",
    "torch.nn.modules.activation.Sigmoid": "glu",
    "torch.nn.modules.activation.Tanh": "tanh_glu",
    "transformers.activations.AccurateGELUActivation": "geglu_tanh",
    "transformers.activations.FastGELUActivation": "geglu_tanh",
    "transformers.activations.GELUActivation": "geglu",
    "transformers.activations.GELUTanh": "geglu_tanh",
    "transformers.activations.LinearActivation": "bilinear",
    "transformers.activations.NewGELUActivation": "geglu_tanh",
    "transformers.activations.QuickGELUActivation": "quick_geglu",
    "transformers.activations.ReLUSquaredActivation": "squared_reglu",
    "transformers.activations.SiLUActivation": "swiglu",
}
_NAMED_MLP = re.compile("MLP|Mlp|FeedForward|FFN|GLU|Experts|ActDense")


class Report(dict[str, str]):
    """{name of each MLP: the fused call, or why there is none}; `fused` and `kept` are its parts.

    Printed, layers that differ only by number share a line.
    """

    def __init__(self, fused: dict[str, str], kept: dict[str, str]) -> None:
        super().__init__({**fused, **kept})
        self.fused, self.kept = fused, kept

    def __str__(self) -> str:
        lines = [f"{name}: {text}" for name, text in _by_layers(self.fused)]
        lines += [f"{name}: not fused: {text}" for name, text in _by_layers(self.kept)]
        return "\n".join(lines) or "no MLP or experts found"


def _by_layers(part: dict[str, str]) -> Iterator[tuple[str, str]]:
    layers = Counter((re.sub(r"\b\d+\b", "*", name), text) for name, text in part.items())
    for (name, text), count in layers.items():
        yield (name or "model") + (f" ({count} times)" if count > 1 else ""), text


class _Unfusable(Exception):
    """Why a module is left as it is."""


def patch(model: nn.Module, rounding: str = "single") -> Report:
    """Fuses activation(gate) * up in every gated MLP and in all experts of a transformers model.

    And activation(up(x) + bias) in MLPs without a gate. Projections, dropouts and parameters stay
    the model's own. The fused calls belong to the modules until `unpatch`, through copy.deepcopy
    and pickle too; checkpoints do not show them. A model that is patched already is patched anew.
    Patch before torch.compile.

    Args:
        model: a model, or a part of one.
        rounding: as in `fused_acts.gated`. With "eager" the outputs are bit for bit what they were,
            and activations that a model composes of several operations are left alone, such as the
            gelu_new of T5, and so are MLPs without a gate.

    Returns a Report. Warns, before it changes anything, of modules that look like an MLP and cannot
    be fused, and where there are none at all.

    Raises TypeError if model is no module, ValueError for an unknown rounding.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if rounding not in ROUNDINGS:
        raise unknown("rounding", rounding, ROUNDINGS)
    unpatch(model)
    fused, kept, changes = {}, {}, []
    for name, module in _mlps(model):
        try:
            _check_called(name, model)
            fuse = _fuse_experts if _are_experts(module) else _fuse_mlp
            fused[name], methods = fuse(module, rounding)
            changes += [(module, attribute, method) for attribute, method in methods.items()]
        except _Unfusable as reason:
            kept[name] = f"{type(module).__name__} {reason}"
        except Exception as error:  # whatever a module is, it is no reason to stop here
            kept[name] = f"{type(module).__name__} cannot be read: {_in_words(error)}"
    if kept or not fused:
        warnings.warn(f"fused_acts: {Report({}, kept)}", stacklevel=2)
    for module, attribute, method in changes:
        if attribute == "_apply_gate":
            setattr(module, attribute, method)
            continue
        _classes.set_forward(module, method)
        if attribute == "_old_forward":
            setattr(module, attribute, _classes.fused_forward(module))
    return Report(fused, kept)


def unpatch(model: nn.Module) -> None:
    """Gives every module that `patch` changed its own methods back."""
    for module in model.modules():
        _classes.restore_forward(module)
        if getattr(vars(module).get("_apply_gate"), "func", None) is gated:
            delattr(module, "_apply_gate")


def _mlps(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules of a known form, experts, and those named like an MLP that hold none of all these."""
    modules = dict(model.named_modules())
    sure = {n for n, m in modules.items() if _forms.form_of(m) or _chain_of(m) or _are_experts(m)}
    named = {name for name, m in modules.items() if _NAMED_MLP.search(type(m).__name__)}
    holders = {outer for name in sure | named for outer in _outer(name)}
    return ((name, m) for name, m in modules.items() if name in sure | (named - holders))


def _outer(name: str) -> set[str]:
    """The names of the modules around that of this name: "a.b" is in "" and in "a"."""
    return {name[: dot.start()] for dot in re.finditer(r"\.", name)} | ({""} if name else set())


def _are_experts(module: nn.Module) -> bool:
    return hasattr(type(module), "_apply_gate")


def _check_called(name: str, model: nn.Module) -> None:
    """Kernels of the Hugging Face hub compute a layer whole, without the modules in it."""
    for outer in map(model.get_submodule, _outer(name)):
        if hasattr(type(outer), "kernel_layer_name") and "forward" in vars(outer):
            raise _Unfusable("is not called by the hub kernel around it")


def _forward_attribute(module: nn.Module) -> str:
    """Where the module's own forward is: the hooks of accelerate move it."""
    attribute = "_old_forward" if "_old_forward" in vars(module) else "forward"
    if vars(module).get(attribute, own := _classes.own_forward(module)) != own:
        raise _Unfusable("has another forward than its class")
    return attribute


def _fuse_mlp(module: nn.Module, rounding: str) -> tuple[str, Methods]:
    """The fused call in words, and the methods that make it."""
    form, attribute = _forms.form_of(module), _forward_attribute(module)
    if form is None:
        return _fuse_chain(module, attribute, rounding)
    variant = _variant(getattr(module, form.activation))
    small = functools.partial(_forms.small_mlp, module, form)
    for layout in LAYOUTS if form.up is None else LAYOUTS[:1]:
        gate = _gate(variant, layout, rounding)
        forward = functools.partial(_forms.mlp, form=form, gate=gate)
        if _agree(type(module).forward, forward, small, rounding):
            return f"{variant}({form.gate}, {form.up or layout})", {attribute: forward}
    raise _Unfusable(_other_than(variant, rounding))


def _chain_of(module: nn.Module) -> _chains.Chain | None:
    return _chains.chain_of(module, ACTIVATIONS)


def _fuse_chain(module: nn.Module, attribute: str, rounding: str) -> tuple[str, Methods]:
    chain = _chain_of(module)
    if chain is None:
        raise _Unfusable("is no MLP of a known form")
    inside = chain.activation is not None
    variant = _variant(getattr(module, str(chain.activation)) if inside else module, hooked=inside)
    name = _chains.alone(variant, chain)
    tried: list[tuple[str, bool, Any]] = []  # the call in words, whether fc1 makes both, forward
    if name is not None and rounding == "single":  # the bias is added after a rounding
        forward = functools.partial(_chains.ungated_chain, chain=chain, name=name)
        tried.append((f"{name}({chain.projections[0]})", False, forward))
    two = len(chain.projections) == 2
    for layout in LAYOUTS[:1] if two else LAYOUTS:
        gate = _gate(variant, layout, rounding)
        forward = functools.partial(_chains.gated_chain, chain=chain, gate=gate)
        names = chain.projections if two else (chain.projections[0], layout)
        tried.append((f"{variant}({', '.join(names)})", not two, forward))
    for text, packed, forward in tried:
        small = functools.partial(_chains.small, module, chain, packed)
        with contextlib.suppress(_Unfusable):  # of a forward that wants other widths
            if _agree(type(module).forward, forward, small, rounding):
                return text, {attribute: forward}
    raise _Unfusable(_other_than(variant, rounding))


def _fuse_experts(module: Any, rounding: str) -> tuple[str, Methods]:
    kind, attribute = type(module), _forward_attribute(module)
    if not getattr(module, "has_gate", True):
        raise _Unfusable("has no gate")
    if module.config._experts_implementation == "sonicmoe":
        raise _Unfusable("has a gate of its own in the implementation sonicmoe")
    options = {
        option: getattr(module, name)
        for option in ("alpha", "limit")
        for name in (option, f"swiglu_{option}")
        if getattr(module, name, None) is not None
    }
    if hasattr(module, "act_fn") and "alpha" not in options:
        variant = _variant(module.act_fn)
    else:  # their gate has the activation in its code
        variant = "swiglu_oai" if "alpha" in options else "swiglu"
    own_gate = functools.partial(kind._apply_gate, module)
    for layout in LAYOUTS:
        gate = _gate(variant, layout, rounding, **options)
        if _agree(own_gate, gate, lambda dtype: (_forms.rows(6, dtype),), rounding):
            break
    else:
        raise _Unfusable(_other_than(variant, rounding))
    methods: Methods = {"_apply_gate": gate}
    eager = inspect.unwrap(kind.forward)
    if "_apply_gate" not in eager.__code__.co_names:
        fused = functools.partial(_forms.eager_experts, gate=gate)
        small = functools.partial(_forms.small_experts, module)
        if not _agree(eager, fused, small, rounding):
            raise _Unfusable("has an eager implementation of no known form")
        methods[attribute] = functools.partial(_forms.experts, gate=gate)
    given = [f"{option}={value}" for option, value in options.items()]
    return f"{variant}({', '.join(['gate_up_proj', layout, *given])})", methods


def _agree(own: Any, fused: Any, arguments: Any, rounding: str) -> bool:
    try:
        return _forms.agree(own, fused, arguments, exactly=rounding == "eager")
    except Exception as error:
        raise _Unfusable(f"cannot be tried: {_in_words(error)}") from error


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _other_than(variant: str, rounding: str) -> str:
    return f"does not compute {variant}" + (" bit for bit" if rounding == "eager" else "")


def _variant(activation: Any, hooked: bool = True) -> str:
    """hooked: whether hooks on the activation count."""
    named = not isinstance(activation, nn.Module) and hasattr(activation, "__qualname__")
    kind = activation if named else type(activation)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name not in ACTIVATIONS:
        raise _Unfusable(f"has the activation {name}, which is not known")
    for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        if hooked and getattr(activation, hooks, None):
            raise _Unfusable("has hooks on its activation, which would not be called")
    return "geglu_tanh" if getattr(activation, "approximate", "") == "tanh" else ACTIVATIONS[name]


def _gate(variant: str, layout: str, rounding: str, **options: Any) -> functools.partial[Tensor]:
    """One that is given as few options as it can: those have a price on small tensors."""
    if layout != LAYOUTS[0]:
        options["layout"] = layout
    if rounding != "single":
        options["rounding"] = rounding
    return functools.partial(gated, variant=variant, **options)
