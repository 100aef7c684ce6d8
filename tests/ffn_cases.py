"""Feed-forward blocks to test, and the same composed of torch's operations."""

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

import fused_acts
from fused_acts.nn import GatedFFN

D_MODEL, D_FF = 24, 40
LEVELS = ("none", "product", "all")


def block(device: str = "cpu", dtype: torch.dtype = torch.float64, **options) -> GatedFFN:
    torch.manual_seed(0)
    return GatedFFN(D_MODEL, D_FF, dtype=dtype, **options).to(device)


def tokens(*shape: int, device: str = "cpu", dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(*(shape or (7,)), D_MODEL, dtype=torch.float64).to(device, dtype)


def composed(ffn: GatedFFN, x: Tensor) -> Tensor:
    """Of the reference, from the parameters of a block; biases are added by the projections."""
    hidden = [linear(x, p.weight, p.bias) for p in ffn.projections]
    gate, up = hidden if len(hidden) == 2 else hidden[0].chunk(2, -1)
    product = fused_acts.reference.gated(gate, up, variant=ffn.variant, **ffn.options)
    return linear(product, ffn.down_proj.weight, ffn.down_proj.bias)


def gradients(function, ffn: GatedFFN, x: Tensor, grad_y: Tensor) -> list[Tensor]:
    """[y, gradient by x, by each parameter that requires grad]"""
    x = x.detach().requires_grad_()
    wanted = [x, *(p for p in ffn.parameters() if p.requires_grad)]
    y = function(x)
    return [y.detach(), *torch.autograd.grad(y, wanted, grad_y)]


class Calls(TorchDispatchMode):
    """The operators that compute something, in order, and the largest tensor that any made."""

    KINDS = {"mm", "addmm", "sum"}

    def __init__(self):
        super().__init__()
        self.names: list[str] = []
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func._opname in self.KINDS or func.namespace == "fused_acts":
            self.names.append(func._opname)
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return result
