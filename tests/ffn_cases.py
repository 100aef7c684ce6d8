"""Feed-forward blocks to test, and the same composed of torch's operations."""

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

import fused_acts
from fused_acts.nn import FFN, GatedFFN

D_MODEL, D_FF = 24, 40
LEVELS = ("none", "product", "all")


def block(
    device: str = "cpu", dtype: torch.dtype = torch.float64, kind=GatedFFN, **options
) -> GatedFFN | FFN:
    torch.manual_seed(0)
    return kind(D_MODEL, D_FF, dtype=dtype, **options).to(device)


def relative(actual, expected) -> list[float]:
    """The largest error of each tensor, in parts of its largest element."""
    return [
        ((a.double() - e.double()).abs().max() / e.abs().max()).item()
        for a, e in zip(actual, expected, strict=True)
    ]


def tokens(*shape: int, device: str = "cpu", dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(*(shape or (7,)), D_MODEL, dtype=torch.float64).to(device, dtype)


def composed(ffn: GatedFFN | FFN, x: Tensor) -> Tensor:
    """Of the reference, from the parameters of a block; biases are added by the projections."""
    hidden = [linear(x, p.weight, p.bias) for p in ffn.projections]
    if isinstance(ffn, FFN):
        product = fused_acts.reference.activation(*hidden, ffn.activation, **ffn.options)
    else:
        gate, up = hidden if len(hidden) == 2 else hidden[0].chunk(2, -1)
        product = fused_acts.reference.gated(gate, up, variant=ffn.variant, **ffn.options)
    return linear(product, ffn.down_proj.weight, ffn.down_proj.bias)


def gradients(function, ffn: torch.nn.Module, x: Tensor, grad_y: Tensor) -> list[Tensor]:
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


class Held(TorchDispatchMode):
    """The memory that operators have made and somebody still refers to, however it is kept."""

    def __init__(self, others: set[int]):
        super().__init__()
        self.others = others  # addresses that do not count, of which there are views
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.others:
                    reference = StorageWeakRef(storage)
                    self.storages[reference.cdata] = reference, storage.nbytes()
        return result

    def nbytes(self) -> int:
        return sum(size for reference, size in self.storages.values() if not reference.expired())


def measured(function, x: Tensor, others: list[Tensor]) -> tuple[int, int]:
    """Bytes a token that autograd saves, and that are really held; views once, others not."""
    own = {tensor.untyped_storage().data_ptr() for tensor in others}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor), Held(own) as held:
        y = function(x.clone())  # made here, and held by nobody else
    kept = held.nbytes() - y.untyped_storage().nbytes()
    return sum(saved.values()) // x.shape[0], kept // x.shape[0]
