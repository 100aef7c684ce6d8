"""Which calls a module may be waiting for, by its activation and its numbers."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from fused_acts._call import ROW_INDEX
from fused_acts._layouts import LAYOUTS
from fused_acts._rows import DEFINITIONS, OwnFunction
from fused_acts.functional import FUNCTIONS, gated
from fused_acts.integrations import _own
from fused_acts.integrations._forms import activation_of
from fused_acts.tables import ACTIVATIONS, VARIANTS

# The gated unit of an activation, by the type of a module or the name of a function.
UNITS = {
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
# The units tried where the activation is in the code of the forward.
WRITTEN = ("swiglu", "geglu", "geglu_tanh", "reglu", "glu", "squared_reglu")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Where a module has the options of its unit, by name.
_OPTIONS = {"alpha": ("alpha", "swiglu_alpha"), "limit": ("limit", "swiglu_limit")}
# And where an activation of two arguments has them.
_OPTIONS_OF_UNITS = {
    "beta": ("beta", "gate_softcap.softcap"),
    "linear_beta": ("linear_beta", "up_softcap.softcap"),
}


class Unfusable(Exception):
    """Why a module is left as it is."""


def name_of(activation: Any) -> str:
    """Of its type, or its own if it is a function."""
    named = not isinstance(activation, nn.Module) and hasattr(activation, "__qualname__")
    kind = activation if named else type(activation)
    return f"{kind.__module__}.{kind.__qualname__}"


def unit_of(activation: Any, hooked: bool = True) -> str:
    """hooked: whether hooks on the activation count."""
    name = name_of(activation)
    known = UNITS.get(name)
    if known is None:
        known = _own.unit_of(activation)
    elif getattr(activation, "approximate", "") == "tanh":
        known = "geglu_tanh"
    if known is None:
        raise Unfusable(f"has the activation {name}, which is not known")
    if hooked and any(getattr(activation, hooks, None) for hooks in _HOOKS):
        raise Unfusable("has hooks on its activation, which would not be called")
    return known


def alone(variant: str) -> str | None:
    """The activation of a unit's gate alone."""
    if variant in ACTIVATIONS:
        return variant
    unit = VARIANTS[variant]
    for name, row in ACTIVATIONS.items():
        if (row.f, row.parameters) == (unit.f, unit.parameters) and name != "prelu":
            return name
    return None


def calls(module: nn.Module) -> list[tuple[str, dict[str, float]]]:
    """(variant, options) that a module may compute, the likeliest first."""
    options = _options(module, _OPTIONS)
    found = [("swiglu_oai", options)] if "alpha" in options else []
    limit = {name: value for name, value in options.items() if name == "limit"}
    name = activation_of(module)
    written = [*WRITTEN, *_own.gated_units()]
    for unit in [unit_of(getattr(module, name))] if name else written:
        limited = [unit] if unit in VARIANTS and VARIANTS[unit].limits else []
        if unit == "swiglu":
            limited.append("swiglu_step")
        found += [(variant, limit) for variant in limited if limit]
        found.append((unit, {}))
    return found


def calls_of_unit(activation: nn.Module) -> list[tuple[str, dict[str, float]]]:
    """The same, of an activation of two arguments."""
    options = _options(activation, _OPTIONS_OF_UNITS)
    return [("situ_glu", options), *((unit, {}) for unit in _own.gated_units())]


def calls_of_experts(module: nn.Module) -> list[tuple[str, dict[str, float]]]:
    """The same, of experts, whose activation may be one of two arguments."""
    activation = getattr(module, activation_of(module) or "", None)
    if isinstance(activation, nn.Module) and arguments_of(type(activation).forward) == 2:
        return calls_of_unit(activation)
    return calls(module)


def arguments_of(function: Callable[..., Any]) -> int:
    """How many a method has to be given, without self."""
    given = inspect.signature(inspect.unwrap(function)).parameters.values()
    return sum(p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in given) - 1


def _options(module: nn.Module, places: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
    options: dict[str, float] = {}
    for option, names in places.items():
        for name in names:
            value: Any = module
            for step in name.split("."):
                value = getattr(value, step, None)
            if isinstance(value, (int, float)) and value != math.inf:
                options[option] = value
                break
    return options


def gate(variant: str, layout: str, rounding: str, **options: Any) -> functools.partial[Tensor]:
    """One that is given as few options as it can: those have a price on small tensors."""
    if variant in ACTIVATIONS:
        raise Unfusable(f"has a gate, and {variant} is an activation alone")
    if layout != LAYOUTS[0]:
        options["layout"] = layout
    if rounding != "single":
        options["rounding"] = rounding
    if ROW_INDEX[variant] in DEFINITIONS:  # its function is pickled with its definition
        return functools.partial(FUNCTIONS[variant], **options)
    return functools.partial(gated, variant=variant, **options)


def is_gate(function: Any) -> bool:
    """Whether `gate` made it."""
    called = getattr(function, "func", None)
    return called is gated or isinstance(called, OwnFunction)


def other_than(variant: str, rounding: str) -> str:
    """Why not, of what computes something else."""
    return f"does not compute {variant}" + (" bit for bit" if rounding == "eager" else "")


def in_words(variant: str, *operands: str, **options: float) -> str:
    given = [f"{option}={value}" for option, value in options.items()]
    return f"{variant}({', '.join([*operands, *given])})"
