"""What comes along with a unit of one's own that is stored."""

import copy
import importlib
import pickle

import pytest
import torch
import torch.nn.functional as F
from define_cases import define, forget, sinlu, unpickled
from subprocess_runner import run_alone
from tolerances import close

import fused_acts
from fused_acts import nn
from fused_acts.definitions import Reference


def test_modules_bring_their_definition_along(own_units, tmp_path):
    define("sinlu_glu")
    module = nn.GatedFFN(4, 6, variant="sinlu_glu")
    x = torch.randn(2, 4)
    assert torch.equal(copy.deepcopy(module)(x), module(x))
    (tmp_path / "module").write_bytes(pickle.dumps((module, x, module(x))))
    run_alone(unpickled, str(tmp_path / "module"))
    forget("sinlu_glu")


def test_a_lambda_does_not_come_along(own_units, tmp_path):
    reference = lambda x, a: sinlu(x, a)  # noqa: E731
    function = define("sinlu_glu", name="nameless_glu", reference=reference)
    stored = pickle.dumps(function)
    forget("nameless_glu")
    again = pickle.loads(stored)
    gate, up = torch.randn(2, 3, 37, dtype=torch.float64, requires_grad=True)
    first = torch.autograd.grad(again(gate, up).sum(), gate, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), gate, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="without its reference.*call fused_acts.define"):
        torch.autograd.grad(second.sum(), gate)
    with pytest.raises(ValueError, match="reference: nameless_glu differs"):
        define("sinlu_glu", name="nameless_glu", reference=lambda x, a: sinlu(x, a) + 1)
    assert again.definition.reference.function is None
    assert define("sinlu_glu", name="nameless_glu") is again
    torch.autograd.grad(second.sum(), gate)
    forget("nameless_glu")


@pytest.mark.parametrize("function", [torch.tanh, torch.sin, F.gelu, F.softplus, F.silu, sinlu])
def test_references_that_come_along(function):
    module, name = Reference("unit", function).place
    assert getattr(importlib.import_module(module), name) is function
    assert module in ("torch", "torch.nn.functional", sinlu.__module__)


def test_composed_units_come_along(own_units, monkeypatch, tmp_path):
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    fused_acts.define("lost_glu", "tanh(x)", reference=torch.tanh, fallback="torch")
    x = torch.randn(3, 8)
    modules = [nn.GatedActivation("lost_glu"), nn.GatedFFN(8, 4, "lost_glu", bias=True)]
    outs = [module(x) for module in modules]
    close(outs[0], x[:, :4].tanh() * x[:, 4:])
    gate, up = modules[1].gate_up_proj(x).chunk(2, -1)
    close(outs[1], modules[1].down_proj(gate.tanh() * up))
    stored = pickle.dumps(modules)
    forget("lost_glu")
    for module, out in zip(pickle.loads(stored), outs, strict=True):
        assert torch.equal(module(x), out)
    routed = torch.zeros(3, 1, dtype=torch.long), torch.ones(3, 1)
    for call in (
        lambda: fused_acts.gated_quantized(x, variant="lost_glu", format="fp8_row"),
        lambda: fused_acts.gated(x, variant="lost_glu", save="fp8_block128"),
        lambda: nn.GatedExperts(2, 8, 4, "lost_glu")(x, *routed),
    ):
        with pytest.raises(RuntimeError, match="lost_glu is composed .*there was no compiler"):
            call()
    forget("lost_glu")
