"""What surrounds a call: autocast, and the sharding rules of DTensors."""

import importlib
import sys

import torch
from torch import Tensor


def autocasts(gate: Tensor) -> bool:
    if not torch._C._is_any_autocast_enabled():  # in a tenth of the time
        return False
    device = gate.device.type
    return device != "meta" and torch.is_autocast_enabled(device)


def promoted(gate: Tensor, up: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """gate and up in the wider of their dtypes."""
    if up is None or gate.dtype == up.dtype:
        return gate, up
    dtype = torch.promote_types(gate.dtype, up.dtype)
    return gate.to(dtype), up.to(dtype)


def promoted_operands(
    gate: Tensor, up: Tensor | None, *vectors: Tensor | None
) -> tuple[Tensor | None, ...]:
    """As autocast wants it: gate and up in the wider of their dtypes, the rest to go with them."""
    gate, up = promoted(gate, up)
    real = torch.promote_types(gate.dtype, torch.float32)
    return (
        gate,
        up,
        *(
            v if v is None or v.dtype in (gate.dtype, real, torch.int32) else v.to(real)
            for v in vectors
        ),
    )


def import_sharding_rules() -> bool:
    """Imports the sharding rules if a DTensor may need them now; whether it did."""
    rules = "fused_acts.distributed"
    if rules in sys.modules or "torch.distributed.tensor" not in sys.modules:
        return False
    importlib.import_module(rules)
    return True
