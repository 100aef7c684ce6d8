"""An activation in its place: one call in a product, and in anything else what it was."""

import copy
import warnings

import pytest
import torch
from tolerances import check_model
from torch import nn
from torch.nn import functional as F
from transformers_cases import FusedCalls, check_fused, mlp_with, transformers

from fused_acts.integrations.transformers import patch, unpatch

Llama = transformers.models.llama.modeling_llama.LlamaMLP

PRODUCTS = {
    "a * u": lambda a, u: a * u,
    "u * a": lambda a, u: u * a,
    "mul(a, u)": torch.mul,
    "mul(u, a)": lambda a, u: torch.mul(u, a),
    "a.mul(u)": lambda a, u: a.mul(u),
    "u.mul(a)": lambda a, u: u.mul(a),
    "a * u * u": lambda a, u: a * u * u,
}
OTHERS = {
    "a * 2": lambda a, u: a * 2,
    "2 * a": lambda a, u: 2 * a,
    "a * a row": lambda a, u: a * u.mean(-1, keepdim=True),
    "a column * a": lambda a, u: u[:1] * a,
    "a * u in another dtype": lambda a, u: a * u.float(),
    "u *= a": lambda a, u: u.clone().mul_(a),
    "mul into": lambda a, u: torch.mul(a, u, out=torch.empty_like(u)),
    "a + u": lambda a, u: a + u,
    "u - a": lambda a, u: u - a,
    "a / u": lambda a, u: a / u,
    "u @ a.T": lambda a, u: u @ a.T,
    "-a ** 2": lambda a, u: -(a**2),
    "a[:2]": lambda a, u: a[:2] * a[2:4],
    "rows": lambda a, u: torch.stack([row * 2 for row in a]),
    "a > u": lambda a, u: (a > u) + len(a),
    "clamp": lambda a, u: a.clamp(max=0.1) * u,
    "to": lambda a, u: (a.float() * u).to(a.dtype),
    "dropout": lambda a, u: F.dropout(a, 0.0) * u,
    "cat": lambda a, u: torch.cat([a, u, a]),
    "twice": lambda a, u: a + a,
}


def patched_activation():
    """That of an MLP, whose own forward stays because of its dropout."""
    mlp = mlp_with(mlp_class=Dropping)
    assert patch(mlp).fused
    return mlp.act_fn


class Dropping(Llama):
    def forward(self, x):
        return F.dropout(super().forward(x), 0.1, self.training)


@pytest.mark.parametrize("name", [*PRODUCTS, *OTHERS])
def test_operations(name):
    function = (PRODUCTS | OTHERS)[name]
    x, u = torch.randn(2, 6, 6).double()
    expected = function(F.silu(x), u)
    act = patched_activation()
    with FusedCalls() as calls:
        out = function(act(x), u)
    assert calls.count == (name in PRODUCTS)
    assert out.dtype == expected.dtype
    torch.testing.assert_close(out, expected)


def test_compiled():
    """All of them in one graph."""
    act, plain = patched_activation(), nn.SiLU()

    def functions(act, x, u):
        out = [function(act(x), u) for function in PRODUCTS.values()]
        return [*out, act(x).clamp(max=0.1) * u, u - act(x), torch.cat([act(x), u]), act(x)[:2]]

    x, u = torch.randn(2, 6, 6).double()
    torch._dynamo.reset()
    compiled = torch.compile(functions, fullgraph=True, backend="eager")(act, x, u)
    torch._dynamo.reset()
    torch.testing.assert_close(compiled, functions(plain, x, u))


class Scaled(Llama):
    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x) * 1.01) * self.up_proj(x))


class NearlyLlama(Llama):
    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x) * (1 + 1e-7)) * self.up_proj(x))


class Swapped(Llama):
    def forward(self, x):
        return self.down_proj(self.act_fn(self.up_proj(x)) * self.gate_proj(x))


class Clamped(Llama):
    def forward(self, x):
        up = self.up_proj(x).clamp(-100, 100)
        return self.down_proj(self.act_fn(self.gate_proj(x)) * up)


class Residual(Llama):
    def forward(self, x):
        return x + super().forward(x)


class TwoInputs(Llama):
    def forward(self, x, residual=1.0):
        return residual + super().forward(x)


@pytest.mark.parametrize(
    "kind", [Scaled, NearlyLlama, Swapped, Clamped, Dropping, Residual, TwoInputs]
)
def test_forwards_stay_as_they_are(kind):
    check_fused(mlp_with(mlp_class=kind).eval(), "swiglu in place of act_fn")


class Float32(Llama):
    def forward(self, x):
        product = self.act_fn(self.gate_proj(x).float()) * self.up_proj(x).float()
        return self.down_proj(product.to(x.dtype))


def test_float32_inside_is_one_rounding():
    check_fused(mlp_with(mlp_class=Float32), "swiglu(gate_proj, up_proj)")
    mlp, x = mlp_with(mlp_class=Float32).bfloat16(), torch.randn(5, 32).bfloat16()
    before = mlp(x)
    assert patch(mlp, rounding="eager") == {"": "swiglu in place of act_fn"}
    assert torch.equal(mlp(x), before)


@pytest.mark.parametrize(
    ("function", "unit"),
    [
        (F.silu, "swiglu"),
        (F.gelu, "geglu"),
        (lambda x: F.gelu(x, approximate="tanh"), "geglu_tanh"),
        (torch.sigmoid, "glu"),
        (lambda x: F.relu(x).square(), "squared_reglu"),
    ],
)
def test_activations_in_the_code(function, unit):
    class Written(transformers.models.lfm2.modeling_lfm2.Lfm2MLP):
        def forward(self, x):
            return self.w2(function(self.w1(x)) * self.w3(x))

    config = transformers.Lfm2Config(
        hidden_size=32, intermediate_size=48, block_auto_adjust_ff_dim=False
    )
    check_fused(Written(config), f"{unit}(w1, w3)")


class Limited(Llama):
    limit = 0.5

    def forward(self, x):
        gate, up = self.gate_proj(x).clamp(max=self.limit), self.up_proj(x)
        return self.down_proj(self.act_fn(gate) * up.clamp(-self.limit, self.limit))


class LimitedAfter(Limited):
    def forward(self, x):
        gate, up = self.act_fn(self.gate_proj(x)).clamp(max=self.limit), self.up_proj(x)
        return self.down_proj(gate * up.clamp(-self.limit, self.limit))


def test_limits():
    check_fused(mlp_with(mlp_class=Limited), "swiglu(gate_proj, up_proj, limit=0.5)")
    mlp = mlp_with(mlp_class=LimitedAfter)
    mlp.limit = float("inf")
    check_fused(mlp, "swiglu(gate_proj, up_proj)")


def test_copies_run_their_own_weights():
    mlp = mlp_with(mlp_class=Residual)
    patch(mlp)
    other, x = copy.deepcopy(mlp), torch.randn(5, 32)
    nn.init.zeros_(other.down_proj.weight)
    with FusedCalls() as calls:
        assert torch.equal(other(x), x + other.down_proj.bias)
        assert not torch.equal(mlp(x), x + mlp.down_proj.bias)
    assert calls.count == 2
    unpatch(other)
    with FusedCalls() as calls:
        other(x), mlp(x)
    assert calls.count == 1
    assert type(other.act_fn) is type(mlp_with().act_fn)


def test_step_and_inkling():
    """A limit behind the activation, and an activation of two arguments."""
    check_fused(mlp_with(mlp_class=LimitedAfter), "swiglu_step(gate_proj, up_proj, limit=0.5)")
    config = transformers.Inkling2TextConfig(
        hidden_size=32, moe_intermediate_size=48, n_routed_experts=4
    )
    config._experts_implementation = "eager"
    experts = transformers.models.inkling2.modeling_inkling2.Inkling2Experts(config)
    for parameter in experts.parameters():
        nn.init.normal_(parameter)
    args = torch.randn(5, 32), torch.tensor([[0, 1]] * 5), torch.rand(5, 2)
    before = experts(*args)
    call = "situ_glu(gate_up_proj, gate_up, beta=4.0, linear_beta=25.0)"
    assert patch(experts) == {"": f"{call}, whole experts"}
    check_model(experts(*args), before)


class Shared(nn.Module):
    """Two modules with one activation, of which one returns what it makes."""

    def __init__(self, mlp, other):
        super().__init__()
        self.mlp, self.other = mlp, other
        other.act_fn = mlp.act_fn


class Bare(nn.Module):
    def forward(self, x):
        return self.act_fn(x)


def test_an_activation_of_others_stays():
    model, x = Shared(mlp_with(mlp_class=Residual), Bare()), torch.randn(5, 32)
    before = model.other(x)
    with pytest.warns(UserWarning, match="shares its activation"):
        assert not patch(model).fused
    assert torch.equal(model.other(x), before)


def test_one_activation_of_two_is_given_back():
    model = Shared(mlp_with(mlp_class=Residual), mlp_with(mlp_class=Residual))
    own, x = type(model.mlp.act_fn), torch.randn(5, 32)
    before = [part(x) for part in (model.mlp, model.other)]
    for _ in range(2):
        assert len(patch(model).fused) == 2
    for part, expected in zip((model.mlp, model.other), before, strict=True):
        check_model(part(x), expected)
    unpatch(model)
    assert type(model.mlp.act_fn) is own


class Counting(Residual):
    def forward(self, x):
        h = self.act_fn(self.gate_proj(x))
        self.dead, self.none = h == 0, bool((h == 0).all())
        self.text = f"{h.sum():.3f} {(h // 1).sum()}"
        return self.down_proj(h * self.up_proj(x)) + x


def test_what_else_is_done_with_an_activation():
    mlp, x = mlp_with(mlp_class=Counting), torch.randn(5, 32)
    mlp(x)
    before = mlp.dead, mlp.none, mlp.text
    patch(mlp)
    with FusedCalls() as calls:
        mlp(x)
    assert calls.count == 1
    assert torch.equal(mlp.dead, before[0]) and (mlp.none, mlp.text) == before[1:]


class InEvaluation(type(mlp_with())):
    def forward(self, x):
        h = self.act_fn(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(h if self.training else h.clamp(-0.01, 0.01))


class WithoutBias(type(mlp_with())):
    def forward(self, x):
        gate = F.linear(x, self.gate_proj.weight)
        return self.down_proj(self.act_fn(gate) * self.up_proj(x))


@pytest.mark.parametrize("mlp_class", [InEvaluation, WithoutBias])
def test_a_trial_sees_evaluation_and_biases(mlp_class):
    mlp, x = mlp_with(mlp_class=mlp_class), torch.randn(5, 32)
    for training in (True, False):
        mlp.train(training)
        before = mlp(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patch(mlp)
        check_model(mlp(x), before)
        unpatch(mlp)


@pytest.mark.parametrize("eps, fused", [(-1e-6, True), (-1e-5, False), (-1e-3, False)])
def test_xielu(eps, fused):
    """As it is, and in other dtypes than that of x."""
    activation = transformers.activations.XIELUActivation(eps=eps, dtype=torch.float32)
    x = torch.randn(5, 32)
    before = activation(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert bool(patch(activation).fused) == fused
    check_model(activation(x), before)
    assert activation(x.bfloat16()).dtype == torch.float32
