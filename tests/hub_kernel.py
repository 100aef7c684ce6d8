"""Checks of the Hub kernel, in a process that has no other of its operators; see test_hub.py."""

import importlib
import importlib.util
import inspect
import json
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKAGE = Path(__file__).resolve().parent.parent / "torch-ext" / "fused_acts"
OPS = """
import torch
ops = torch.ops.{name}
def add_op_namespace_prefix(op_name: str):
    return "{name}::" + op_name
"""
METADATA = {
    "name": "fused-acts",
    "id": "loaded_from_the_hub",
    "version": 0,
    "license": "Apache-2.0",
    "python-depends": [],
    "backend": {"type": "cpu"},
}
EXPECTED = {
    "SiluAndMul": lambda x: F.silu(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1],
    "GeluAndMul": lambda x: F.gelu(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1],
    "GeluTanhAndMul": lambda x: F.gelu(x.chunk(2, -1)[0], approximate="tanh") * x.chunk(2, -1)[1],
    "Silu": F.silu,
    "Gelu": F.gelu,
    "GeluTanh": lambda x: F.gelu(x, approximate="tanh"),
    "QuickGELU": lambda x: x * torch.sigmoid(1.702 * x),
}


MLPS = {"SwiGLUMLP": F.silu, "GeGLUMLP": partial(F.gelu, approximate="tanh")}


class LlamaMLP(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.act_fn = MLPS[name]
        self.gate_proj, self.up_proj = (nn.Linear(8, 12, dtype=torch.float64) for _ in range(2))
        self.down_proj = nn.Linear(12, 8, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


def same(function, expected, x: Tensor) -> None:
    """Values and gradients."""
    results = []
    for each in (function, expected):
        leaf = x.clone().requires_grad_()
        out = each(leaf)
        results.append((out, *torch.autograd.grad(out.square().sum(), leaf)))
    torch.testing.assert_close(*results)


def check(library: str, namespace: str, beside_the_package: bool = False) -> None:
    """library: the operators, registered as torch.ops.<namespace>."""
    torch.ops.load_library(library)
    if beside_the_package:
        importlib.import_module("fused_acts")
    with tempfile.TemporaryDirectory() as folder:
        # as the Hub's loader does: from any folder, by a name of its own
        copy = shutil.copytree(PACKAGE, Path(folder, METADATA["id"]))
        (copy / "_ops.py").write_text(OPS.format(name=namespace))
        (copy / "metadata.json").write_text(json.dumps(METADATA))
        if importlib.util.find_spec("kernels"):
            kernel = importlib.import_module("kernels").get_local_kernel(copy)
            check_mapping(copy)
        else:
            sys.path.insert(0, folder)
            kernel = importlib.import_module(METADATA["id"])
    check_layers(kernel.layers)
    check_functions(kernel)
    check_operators(getattr(torch.ops, namespace))


def check_mapping(repository: Path) -> None:
    """That `kernels` puts the layers of a repository into models."""
    from kernels import (
        LocalLayerRepository,
        Mode,
        kernelize,
        replace_kernel_forward_from_hub,
        use_kernel_mapping,
    )

    for name in MLPS:
        kind = type("LlamaMLP", (LlamaMLP,), {})
        replace_kernel_forward_from_hub(kind, name)
        mlp = kind(name)
        repo = LocalLayerRepository(repository, layer_name=name)
        with use_kernel_mapping({name: {"cpu": repo}}):
            kernelize(mlp, mode=Mode.TRAINING | Mode.TORCH_COMPILE, device="cpu")
        assert mlp.forward.__func__.__qualname__ == f"{name}.forward"
        same(mlp, partial(LlamaMLP.forward, mlp), torch.randn(3, 8, dtype=torch.float64))


def check_layers(layers) -> None:
    x = torch.randn(3, 8, dtype=torch.float64)
    found = {n: c for n, c in vars(layers).items() if inspect.isclass(c) and n != "Tensor"}
    assert found.keys() == {*EXPECTED, *MLPS}
    members = {name for name, _ in inspect.getmembers(nn.Module)}
    for layer in found.values():
        assert layer.__init__ is nn.Module.__init__
        more = {name for name, _ in inspect.getmembers(layer)} - members
        assert more <= {"can_torch_compile", "has_backward"}, more
    for name, expected in EXPECTED.items():
        same(found[name](), expected, x)
    for name in ("SiluAndMul", "Gelu"):  # packed, and alone
        compiled = torch.compile(found[name](), fullgraph=True, backend="aot_eager")
        same(compiled, EXPECTED[name], x)
    for name in MLPS:
        mlp = LlamaMLP(name)
        same(partial(found[name].forward, mlp), mlp, x)


def check_functions(kernel) -> None:
    assert {*EXPECTED, "gated", "swiglu_oai"} & {*kernel.__all__} == {"gated", "swiglu_oai"}
    x = torch.randn(3, 8, dtype=torch.float64) * 5
    gate, up = x.chunk(2, -1)
    for name, f in {
        "glu": torch.sigmoid,
        "bilinear": lambda x: x,
        "reglu": torch.relu,
        "geglu": F.gelu,
        "swiglu": F.silu,
    }.items():
        function = getattr(kernel, name)
        same(lambda u, function=function: function(gate, u), lambda u, f=f: f(gate) * u, up)
        same(lambda g, function=function: function(g, up), lambda g, f=f: f(g) * up, gate)

    def oai(x: Tensor) -> Tensor:
        g, u = x[..., ::2].clamp(max=7.0), x[..., 1::2].clamp(-7.0, 7.0)
        return g * torch.sigmoid(1.702 * g) * (u + 1)

    same(kernel.swiglu_oai, oai, x)
    same(lambda x: kernel.swish(x, 2.0), lambda x: x * torch.sigmoid(2 * x), x)
    same(kernel.squared_relu, lambda x: torch.relu(x).square(), x)


def check_operators(ops) -> None:
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    row = [line.split()[0] for line in ops.info_variants().splitlines()].index("swiglu")
    torch.library.opcheck(
        ops.gated.default, (x, None, None, None, None, 1.0, 1.0, None, 1.0, row, 0)
    )
