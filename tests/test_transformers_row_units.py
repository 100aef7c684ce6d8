"""nn.RMSNormGated, nn.PolyNormGLU and nn.TopKGEGLU in the place of the classes of models."""

import pytest
import torch
from cases import operands
from tolerances import check_model
from torch import Tensor, nn

from fused_acts.nn import PolyNormGLU, RMSNormGated, TopKGEGLU

models = pytest.importorskip("transformers.models")
COLS = 48


def their(path: str) -> type[nn.Module]:
    module, name = path.split(".")
    name = f"transformers.models.{module}.modeling_{module}", name
    return getattr(__import__(name[0], fromlist=[name[1]]), name[1])


BEHIND = {"norm_before_gate": False, "group_size": 16}
NORMS = {
    "qwen3_next.Qwen3NextRMSNormGated": ({}, {}),
    "qwen3_5.Qwen3_5RMSNormGated": ({}, {}),
    "kimi_linear.KimiLinearRMSNormGated": ({}, {"gate": "sigmoid"}),
    "mamba2.MambaRMSNormGated": ({"group_size": 16}, BEHIND),
    "nemotron_h.NemotronHRMSNormGated": ({"group_size": 16}, BEHIND),
    "zamba2.Zamba2RMSNormGated": ({"group_size": 16}, BEHIND),
    "bamba.BambaRMSNormGated": ({"group_size": 16}, BEHIND),
    "granitemoehybrid.GraniteMoeHybridRMSNormGated": ({"group_size": 16}, BEHIND),
    "falcon_h1.FalconH1RMSNormGated": ({"n_groups": 3}, {"group_size": 16}),
}


class Motif(nn.Module):
    """PolyNorm as Motif's own code has it, which is in no release of transformers."""

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3) / 3)
        self.bias = nn.Parameter(torch.zeros(1))
        self.eps = eps

    def norm(self, x: Tensor) -> Tensor:
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)

    def forward(self, gate: Tensor, up: Tensor) -> Tensor:
        norms = [self.norm(gate**n) for n in (3, 2, 1)]
        return (sum(w * n for w, n in zip(self.weight, norms, strict=True)) + self.bias) * up


class Gemma(nn.Module):
    def __init__(self, sparsity: float) -> None:
        super().__init__()
        config = models.gemma3n.Gemma3nTextConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1,
            num_kv_shared_layers=0, activation_sparsity_pattern=[sparsity],
        )  # fmt: skip
        self.mlp = their("gemma3n.Gemma3nTextMLP")(config)

    def forward(self, gate: Tensor, up: Tensor) -> Tensor:
        if self.mlp.activation_sparsity > 0.0:
            gate = self.mlp._gaussian_topk(gate)
        return self.mlp.act_fn(gate) * up

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def parameters(self, recurse: bool = True) -> list[nn.Parameter]:
        return []


def compare(theirs: nn.Module, ours: nn.Module, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, 1.0, 0.5, generator=generator)
    ours.load_state_dict(theirs.state_dict())
    first, second, grad_out = operands(2, 5, COLS, dtype=dtype)
    results = []
    for module in (theirs.to(dtype), ours.to(dtype)):
        leaves = [t.clone().requires_grad_() for t in (first, second)]
        out = module(*leaves)
        results.append([out, *torch.autograd.grad(out, [*leaves, *module.parameters()], grad_out)])
    for theirs_one, ours_one in zip(*results, strict=True):
        assert ours_one.dtype == theirs_one.dtype
        check_model(ours_one, theirs_one)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("path", NORMS)
def test_norms(path, dtype):
    options, own = NORMS[path]
    compare(their(path)(COLS, **options), RMSNormGated(COLS, **own), dtype)


@pytest.mark.parametrize("path", ["mamba2.MambaRMSNormGated"])
def test_a_norm_without_its_gate(path):
    theirs, ours = their(path)(COLS, group_size=16), RMSNormGated(COLS, **BEHIND)
    x = operands(2, 5, COLS, dtype=torch.float32)[0]
    check_model(ours(x), theirs(x))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_polynorm(dtype):
    compare(Motif(), PolyNormGLU(), dtype)


@pytest.mark.parametrize("sparsity", (0.95, 0.5, 0.0))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_topk(dtype, sparsity):
    compare(Gemma(sparsity), TopKGEGLU(sparsity), dtype)
