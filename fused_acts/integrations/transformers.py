"""Fuses the MLPs and experts of Hugging Face transformers models where they stand.

No model is known here by its name: see _forms.py and _chains.py for what is fused, and _trial.py
for how that is made sure.
"""

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator

from torch import nn

from fused_acts._call import ROUNDINGS, unknown
from fused_acts.integrations import _classes, _experts, _fuse
from fused_acts.integrations._calls import Unfusable, is_gate

DISABLE = "FUSED_ACTS_DISABLE"  # in the environment: 1 to leave every model as it is
_NAMED_MLP = re.compile("MLP|Mlp|FeedForward|FFN|GLU|Experts|ActDense")


class Report(dict[str, str]):
    """{name of each MLP: the fused call, or why there is none}; `fused` and `kept` are its parts.

    Printed, layers that differ only by number share a line. `disabled` is why nothing was tried.
    """

    def __init__(self, fused: dict[str, str], kept: dict[str, str], disabled: str = "") -> None:
        super().__init__({**fused, **kept})
        self.fused, self.kept, self.disabled = fused, kept, disabled

    def __str__(self) -> str:
        if self.disabled:
            return self.disabled
        lines = [f"{name}: {text}" for name, text in _by_layers(self.fused)]
        lines += [f"{name}: not fused: {text}" for name, text in _by_layers(self.kept)]
        return "\n".join(lines) or "no MLP or experts found"


def _by_layers(part: dict[str, str]) -> Iterator[tuple[str, str]]:
    layers = Counter((re.sub(r"\b\d+\b", "*", name), text) for name, text in part.items())
    for (name, text), count in layers.items():
        yield (name or "model") + (f" ({count} times)" if count > 1 else ""), text


def patch(model: nn.Module, rounding: str = "single") -> Report:
    """Fuses activation(gate) * up in every gated MLP and in all experts of a transformers model.

    And activation(up(x) + bias) in MLPs without a gate. Experts are one block, as with `register`,
    whichever of torch's implementations they have: the routed weight is multiplied by in the call
    of the gate, before the product with down_proj. Projections, dropouts and parameters stay the
    model's own. The fused calls belong to the modules until `unpatch`, through copy.deepcopy
    and pickle too; checkpoints do not show them. A model that is patched already is patched anew.
    Patch before torch.compile.

    Args:
        model: a model, or a part of one.
        rounding: as in `fused_acts.gated`. With "eager" the outputs are bit for bit what they were,
            and activations that a model composes of several operations are left alone, such as the
            gelu_new of T5, and so are MLPs without a gate; experts keep their own forward, around
            a fused gate.

    Returns a Report. Warns, before it changes anything, of modules that look like an MLP and cannot
    be fused, and where there are none at all. With FUSED_ACTS_DISABLE=1 in the environment it fuses
    nothing, and warns of that.

    Raises TypeError if model is no module, ValueError for an unknown rounding.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if rounding not in ROUNDINGS:
        raise unknown("rounding", rounding, ROUNDINGS)
    if os.environ.get(DISABLE) == "1":
        report = Report({}, {}, f"nothing is patched, as {DISABLE} is 1")
        warnings.warn(f"fused_acts: {report}", stacklevel=2)
        return report
    unpatch(model)
    fused, kept = {}, {}
    made: dict[str, list[_fuse.Change]] = {}
    modules = dict(model.named_modules())
    for name, expected in _mlps(modules).items():
        module = modules[name]
        try:
            _check_called(name, model)
            fused[name], made[name] = _fuse.fuse(module, rounding)
        except Unfusable as reason:
            if expected:
                kept[name] = f"{type(module).__name__} {reason}"
        except Exception as error:  # whatever a module is, it is no reason to stop here
            why = f"cannot be read: {type(error).__name__}: {error}"
            kept[name] = f"{type(module).__name__} {why}"
    for name in _sharing(modules, made):
        del fused[name], made[name]
        kept[name] = f"{type(modules[name]).__name__} shares its activation with another module"
    around = {outer for name in fused for outer in _outer(name)}
    kept = {n: r for n, r in kept.items() if n not in around and not fused.keys() & _outer(n)}
    if kept or not fused:
        warnings.warn(f"fused_acts: {Report({}, kept)}", stacklevel=2)
    for module, attribute, method in (change for each in made.values() for change in each):
        if attribute == "_apply_gate":
            setattr(module, attribute, method)
            continue
        _classes.set_forward(module, method)
        if attribute == "_old_forward":
            setattr(module, attribute, _classes.fused_forward(module))
    return Report(fused, kept)


def register() -> None:
    """Adds the experts implementation "fused_acts" to those of transformers.

    It is then chosen as any other, by `experts_implementation="fused_acts"` in from_pretrained or a
    configuration, or by model.set_experts_implementation: sort by expert, a grouped product, the
    gate with the routed weight in one call, a grouped product, the sum over the experts of a token,
    as one autograd Function (see `fused_acts.nn.GatedExperts`, recompute="product"). Which unit the
    gate is, is tried as `patch` does, when experts are first called. No model has to be patched.

    A ValueError then says of experts that compute something else what they are and why: choose
    another implementation for those.

    Raises ImportError without transformers.
    """
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(_experts.NAME, _experts.implementation)


def unpatch(model: nn.Module) -> None:
    """Gives every module that `patch` changed its own methods back."""
    for module in model.modules():
        _classes.restore_forward(module)
        if is_gate(vars(module).get("_apply_gate")):
            delattr(module, "_apply_gate")


def _mlps(modules: dict[str, nn.Module]) -> dict[str, bool]:
    """The names of all that may be fused: whether it surely is an MLP or experts.

    That are modules of a known form, and those named like an MLP that hold none of all these.
    """
    sure = {name for name, module in modules.items() if _fuse.is_known(module)}
    like = {name for name, module in modules.items() if _fuse.may_be_known(module)}
    named = {name for name, m in modules.items() if _NAMED_MLP.search(type(m).__name__)}
    named -= {outer for name in sure | named for outer in _outer(name)}
    return {name: name in sure | named for name in modules if name in sure | named | like}


def _sharing(modules: dict[str, nn.Module], made: dict[str, list[_fuse.Change]]) -> list[str]:
    """The names of those whose activation, which changes, is that of a module that is not fused."""
    holders: dict[int, set[int]] = {}
    for module in modules.values():
        for child in module._modules.values():
            holders.setdefault(id(child), set()).add(id(module))
    changed: dict[int, set[int]] = {}
    for name, changes in made.items():
        for change in changes:
            changed.setdefault(id(change.module), set()).add(id(modules[name]))
    return [
        name
        for name, changes in made.items()
        for change in changes
        if change.module is not modules[name]
        and not holders.get(id(change.module), set()) <= changed[id(change.module)]
    ]


def _outer(name: str) -> set[str]:
    """The names of the modules around that of this name: "a.b" is in "" and in "a"."""
    return {name[: dot.start()] for dot in re.finditer(r"\.", name)} | ({""} if name else set())


def _check_called(name: str, model: nn.Module) -> None:
    """Kernels of the Hugging Face hub compute a layer whole, without the modules in it."""
    for outer in map(model.get_submodule, _outer(name)):
        if hasattr(type(outer), "kernel_layer_name") and "forward" in vars(outer):
            raise Unfusable("is not called by the hub kernel around it")
