"""Mixtures of experts to test, and the same as a loop over experts."""

import torch
from torch import Tensor
from torch.nn.functional import linear

import fused_acts
from fused_acts.nn import GatedExperts

EXPERTS, D_MODEL, D_FF, K = 5, 24, 40, 2
LEVELS = ("none", "product", "all")


def experts(dtype: torch.dtype = torch.float64, **options) -> GatedExperts:
    torch.manual_seed(0)
    return GatedExperts(EXPERTS, D_MODEL, D_FF, dtype=dtype, **options)


def tokens(count: int = 7, dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(count, D_MODEL, dtype=torch.float64).to(dtype)


def routed(
    count: int = 7, k: int = K, dtype: torch.dtype = torch.float64, lowest: int = 0
) -> tuple[Tensor, Tensor]:
    """(ids, weights) as of a router, with ids from `lowest` to as far beyond the last expert."""
    torch.manual_seed(2)
    scores = torch.rand(count, EXPERTS - 2 * lowest)
    return scores.topk(k).indices + lowest, torch.rand(count, k, dtype=torch.float64).to(dtype)


def _routings() -> dict[str, Tensor]:
    ids, _ = routed()
    return {
        "as of a router": ids,
        "one expert each": ids[:, :1],
        "all experts": torch.rand(7, EXPERTS).argsort(1),
        "one takes all": torch.full((7, 1), 3),
        "experts without tokens": torch.where(ids % 2 == 0, ids, 1),
        "the same twice": ids[:, :1].expand(-1, 2),
        "some of no expert": routed(lowest=-2)[0],
        "all of no expert": torch.full((7, 2), EXPERTS),
        "no tokens": ids[:0],
        "no experts": ids[:, :0],
        "int32": ids.int(),
    }


ROUTINGS = _routings()


def looped(module: GatedExperts, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Of the reference, one expert after the other."""
    y = torch.zeros_like(x)
    for e in range(module.num_experts):
        token, slot = torch.where(ids == e)
        up, down = (
            None if bias is None else bias[e]
            for bias in (module.gate_up_proj_bias, module.down_proj_bias)
        )
        hidden = linear(x[token], module.gate_up_proj[e], up)
        product = fused_acts.reference.gated(
            hidden, variant=module.variant, layout=module.layout, **module.options
        )
        out = linear(product, module.down_proj[e], down) * weights[token, slot].unsqueeze(1)
        y = y.index_add(0, token, out.to(y.dtype))
    return y


def gradients(function, module: GatedExperts, x, ids, weights, grad_y) -> list[Tensor]:
    """[y, gradient by x, by weights, by each parameter that requires grad]"""
    x, weights = x.detach().requires_grad_(), weights.detach().requires_grad_()
    wanted = [x, weights, *(p for p in module.parameters() if p.requires_grad)]
    y = function(x, ids, weights)
    return [y.detach(), *torch.autograd.grad(y, wanted, grad_y)]


def close(actual, expected, **tolerances) -> None:
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, **tolerances)
