"""The parameters of experts in the checkpoints of others, both ways.

`module` is a GatedExperts. Its own names are of packed matrices; others have them transposed, or
apart for each expert.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fused_acts._call import resolve, unknown
from fused_acts._layouts import pack, unpack

Form = Literal["packed", "transposed", "separate"]
FORMS: tuple[Form, ...] = get_args(Form)

NAMES = ("gate_proj", "up_proj", "down_proj")
_OTHER_NAMES = (NAMES, ("w1", "w3", "w2"))  # Mixtral's
_MATRICES = ("gate_up_proj", "down_proj")


def take(module: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Gives the parameters of a checkpoint the names, and the packing, that they have here."""
    for names in _OTHER_NAMES:
        for kind, ending in (("weight", ""), ("bias", "_bias")):
            _gather(module, state, prefix, [f"{name}.{kind}" for name in names], ending)
    found = {name: state[prefix + name] for name in _MATRICES if prefix + name in state}
    if _are_transposed(module, prefix, found):
        for name, matrix in found.items():
            state[prefix + name] = matrix.transpose(1, 2)


def _gather(
    module: Any, state: dict[str, Tensor], prefix: str, names: list[str], ending: str
) -> None:
    """Puts what is apart for each expert together; nothing, unless all of it is there."""
    keys = [[f"{prefix}{e}.{name}" for e in range(module.num_experts)] for name in names]
    if not all(key in state for each in keys for key in each):
        return
    gate, up, down = (torch.stack([state.pop(key) for key in each]) for each in keys)
    state[prefix + _MATRICES[0] + ending] = _packed(module, gate, up)
    state[prefix + _MATRICES[1] + ending] = down


def _layout(module: Any) -> int:
    return resolve(module._row, module.layout, module.options).layout


def _packed(module: Any, gate: Tensor, up: Tensor) -> Tensor:
    """Along dimension 1: [experts, 2 * d_ff, d_model] or [experts, 2 * d_ff]."""
    return pack(gate.movedim(1, -1), up.movedim(1, -1), _layout(module)).movedim(-1, 1)


def _are_transposed(module: Any, prefix: str, found: dict[str, Tensor]) -> bool:
    """By their shapes, of which one may be square."""
    shapes = {
        "gate_up_proj": (2 * module.d_ff, module.d_model),
        "down_proj": (module.d_model, module.d_ff),
    }
    for name, matrix in found.items():
        rows, cols = shapes[name]
        if rows != cols:
            return matrix.dim() == 3 and matrix.shape[1:] == (cols, rows)
    for name in found:
        raise ValueError(
            f"{prefix}{name}: expected no square matrices alone, which may be transposed or not"
        )
    return False


def give(module: Any, form: Form, names: tuple[str, str, str], prefix: str) -> dict[str, Tensor]:
    """state_dict(prefix=prefix) in one of the forms."""
    if form not in FORMS:
        raise unknown("form", form, FORMS)
    own = {name: value.detach() for name, value in module.named_parameters(recurse=False)}
    if form == "packed":
        return {prefix + name: value for name, value in own.items()}
    if form == "transposed":
        return {
            prefix + name: value.transpose(1, 2).contiguous() if value.dim() == 3 else value
            for name, value in own.items()
        }
    state: dict[str, Tensor] = {}
    for kind, ending in (("weight", ""), ("bias", "_bias")):
        if _MATRICES[0] + ending in own:
            both = own[_MATRICES[0] + ending].movedim(1, -1)
            gate, up = (part.movedim(-1, 1) for part in unpack(both, _layout(module)))
            parts = gate, up, own[_MATRICES[1] + ending]
            for e in range(module.num_experts):
                for name, part in zip(names, parts, strict=True):
                    state[f"{prefix}{e}.{name}.{kind}"] = part[e].contiguous()
    return state
