"""Modules with a forward of ours: instances of a class derived from their own.

Whatever copies a module, copy.copy and nn.DataParallel too, keeps its class, so that a copy runs
with its own weights. A function bound to the module and stored in it would run the original's.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

_FORWARD = "_fused_acts_forward"  # the attribute with what to call, which is given the module


def set_forward(module: nn.Module, function: Callable[..., Any]) -> None:
    module.__class__ = _fused_class(own_class(module))
    setattr(module, _FORWARD, function)


def restore_forward(module: nn.Module) -> None:
    """Takes back set_forward."""
    vars(module).pop(_FORWARD, None)
    module.__class__ = own_class(module)
    for name in ("forward", "_old_forward"):  # bound by accelerate, or by whoever hooks as it does
        method = vars(module).get(name)
        if not hasattr(getattr(method, "__func__", None), "fused_acts_base"):
            continue
        delattr(module, name)
        if name != "forward":
            setattr(module, name, own_forward(module))


def own_class(module: nn.Module) -> type[nn.Module]:
    """The class of the module without set_forward."""
    kind = type(module)
    base: type[nn.Module] = vars(kind).get("_fused_acts_base", kind)
    return base


def own_function(module: nn.Module) -> Any:
    """The forward of its class without set_forward, in a class derived since then, too."""
    forward: Any = own_class(module).forward
    while (base := getattr(forward, "fused_acts_base", None)) is not None:
        forward = base.forward
    return forward


def own_forward(module: nn.Module) -> Any:
    return own_function(module).__get__(module)


def fused_forward(module: nn.Module) -> Any:
    """The bound method of a module after set_forward, for hooks that hold the one before."""
    return type(module).forward.__get__(module)


def _fused_class(base: type[nn.Module]) -> type[nn.Module]:
    for known in base.__subclasses__():
        if vars(known).get("_fused_acts_base") is base:
            return known

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Absent if another class was derived from this one, and the module then unpatched.
        function = self.__dict__.get(_FORWARD)
        if function is None:
            return base.forward(self, *args, **kwargs)
        return function(self, *args, **kwargs)

    def reduce(self: Any, protocol: Any) -> Any:
        reduced: Any = base.__reduce_ex__(self, protocol)
        make, args, *rest = reduced
        if type(self) is kind and args and args[0] is kind:
            return _new, (base, *args[1:]), *rest
        return make, args, *rest

    forward.fused_acts_base = base  # type: ignore[attr-defined]
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__}
    members = {"forward": forward, "__reduce_ex__": reduce, "_fused_acts_base": base}
    make: Any = type(base)
    kind: type[nn.Module] = make(base.__name__, (base,), {**names, **members})
    return kind


def _new(base: type[nn.Module], *args: Any) -> nn.Module:
    kind = _fused_class(base)
    return kind.__new__(kind, *args)
