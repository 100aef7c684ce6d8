"""Models whose activation is that of a unit of one's own, which patch knows by trial."""

import copy
import pickle
from functools import partial

import pytest
import torch
from define_cases import UNITS, define, forget, logish, sinlu
from own_follow_cases import run_pickled
from subprocess_runner import run_alone
from test_transformers_ungated import make as make_ungated
from torch import nn
from transformers_cases import FusedCalls, check_fused, check_kept, check_runs, make, mlp_with, run

from fused_acts.integrations import transformers as integration
from fused_acts.integrations.transformers import patch, unpatch


@pytest.fixture(scope="module", autouse=True)
def units(own_units):
    yield {name: define(name) for name in ("sinlu_glu", "logish")}
    forget(*UNITS)


class Sinlu(nn.Module):
    def forward(self, x):
        return sinlu(x, 0.125)


class Logish(nn.Module):
    def forward(self, x):
        return logish(x)


def mlp_of(activation):
    """Of a function, too."""
    mlp = mlp_with()
    del mlp.act_fn
    mlp.act_fn = activation
    return mlp


class Other(nn.Module):
    def forward(self, x):
        return sinlu(x, 0.25)


class Learned(nn.Module):
    def __init__(self, kept):
        super().__init__()
        self.a = kept

    def forward(self, x):
        return sinlu(x, self.a)


def loaded():
    module = Learned(None)
    del module.a
    module.register_buffer("a", torch.tensor(0.125))
    return module


class Slots:
    __slots__ = ()

    def __call__(self, x):
        return sinlu(x, 0.125)


class Unhashable:
    def __eq__(self, other):
        return True

    def __call__(self, x):
        return sinlu(x, 0.125)


@pytest.mark.parametrize("activation", [Sinlu(), lambda x: sinlu(x, 0.125), Slots(), Unhashable()])
def test_a_gated_mlp(activation):
    mlp = mlp_of(activation)
    check_fused(mlp, "sinlu_glu(gate_proj, up_proj)")
    assert torch.equal(copy.deepcopy(mlp)(torch.ones(2, 32)), mlp(torch.ones(2, 32)))


def test_a_whole_model():
    model = make("llama")
    for layer in model.model.layers:
        layer.mlp.act_fn = Sinlu()
    before = run(model, "llama")
    report = patch(model)
    assert {*report.fused.values()} == {"sinlu_glu(gate_proj, up_proj)"} and not report.kept
    check_runs(run(model, "llama"), before)
    unpatch(model)
    assert torch.equal(run(model, "llama")[0], before[0])


def test_experts():
    model = make("mixtral")
    for layer in model.model.layers:
        layer.mlp.experts.act_fn = Sinlu()
    before = run(model, "mixtral")
    report = patch(model)
    assert {*report.fused.values()} == {"sinlu_glu(gate_up_proj, gate_up), whole experts"}
    check_runs(run(model, "mixtral"), before)
    unpatch(model)
    assert all("_apply_gate" not in vars(module) for module in model.modules())


class Both(nn.Module):
    def forward(self, gate, up):
        return sinlu(gate, 0.125) * up


class OfBoth(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_up_proj, self.down_proj = nn.Linear(32, 96), nn.Linear(48, 32)
        self.act_fn = Both()

    def forward(self, x):
        return self.down_proj(self.act_fn(*self.gate_up_proj(x).chunk(2, -1)))


class Written(OfBoth):
    """With the activation in the code of the forward."""

    def __init__(self):
        super().__init__()
        del self.act_fn

    def forward(self, x):
        gate, up = self.gate_up_proj(x).chunk(2, -1)
        return self.down_proj(sinlu(gate, 0.125) * up)


def test_an_activation_of_both_and_one_in_a_forward():
    check_fused(OfBoth(), "sinlu_glu() in place of act_fn")
    check_fused(Written(), "sinlu_glu(gate_up_proj, gate_up)")


def test_without_a_gate():
    mlp = make_ungated("phi").model.layers[0].mlp
    mlp.activation_fn = Logish()
    check_fused(mlp, "logish(fc1)")


@pytest.mark.parametrize(
    "activation, reason",
    [
        (Other(), r"has the activation test_own_patch\.Other, which is not known"),
        (Logish(), "has a gate, and logish is an activation alone"),
        (nn.Softmax(-1), "has the activation .*Softmax, which is not known"),
        (torch.sin, "has the activation .*sin, which is not known"),
        (Learned(nn.Parameter(torch.tensor(0.125))), ".*Learned, which is not known"),
        (Learned(torch.tensor(0.125)), ".*Learned, which is not known"),
        (loaded(), ".*Learned, which is not known"),
        (partial(sinlu, a=nn.Parameter(torch.tensor(0.125))), ".*partial, which is not known"),
    ],
)
def test_what_is_left_as_it_is(activation, reason):
    check_kept(mlp_of(activation), reason)


@pytest.mark.slow
def test_a_patched_model_brings_the_definition_along(tmp_path):
    x = torch.ones(2, 32)
    gated, alone = mlp_with(Sinlu()), make_ungated("phi").model.layers[0].mlp
    alone.activation_fn = Logish()
    for name, module in (("gated", gated), ("alone", alone)):
        patch(module)
        with torch.no_grad():
            thing = module.requires_grad_(False), (x,), module(x), False
        (tmp_path / name).write_bytes(pickle.dumps(thing))
        run_alone(run_pickled, str(tmp_path / name))


def test_registered_experts():
    integration.register()
    results = []
    for implementation, expected in (("eager", 0), ("fused_acts", 2)):
        model = make("mixtral", experts_implementation=implementation)
        for layer in model.model.layers:
            layer.mlp.experts.act_fn = Sinlu()
        with FusedCalls() as calls:
            model(torch.ones(1, 4, dtype=torch.long))
        assert calls.count == expected
        results.append(run(model, "mixtral"))
    check_runs(*reversed(results))
