"""What patch fuses and what it leaves alone, with its reason and a warning."""

import warnings

import pytest
import torch
from tolerances import check_model
from torch import nn
from transformers_cases import check_fused, check_kept, inputs, make, mlp_with, transformers

from fused_acts.integrations.transformers import patch

Llama, Phi3 = (
    transformers.models.llama.modeling_llama.LlamaMLP,
    transformers.models.phi3.modeling_phi3.Phi3MLP,
)


class Sliced(Llama):
    def forward(self, x):
        return self.down_proj(torch.cat([x @ w.T for w in self.gate_proj.weight.split(24)], -1))


class Added(Llama):
    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) + self.up_proj(x))


class ByRow(Llama):
    def forward(self, x):
        up = self.up_proj(x).mean(-1, keepdim=True)
        return self.down_proj(self.act_fn(self.gate_proj(x)) * up)


@pytest.mark.parametrize("kind", [Sliced, Added, ByRow])
def test_other_forwards_with_the_same_attributes(kind):
    mlp = mlp_with(mlp_class=kind)
    state = torch.get_rng_state()
    check_kept(mlp, "does not compute swiglu|cannot be tried")
    assert torch.equal(torch.get_rng_state(), state)


def test_forwards_that_cannot_be_tried():
    class FourInputs(Llama):
        def forward(self, x, a, b, c):
            return super().forward(x) + a + b + c

    check_kept(mlp_with(mlp_class=FourInputs), "cannot be tried: TypeError")


def test_gemma3n_sparsity():
    config = transformers.Gemma3nTextConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        activation_sparsity_pattern=[0.9, 0.0],
    )
    kind = transformers.models.gemma3n.modeling_gemma3n.Gemma3nTextMLP
    check_fused(kind(config, layer_idx=0), "geglu_tanh in place of act_fn")
    check_fused(kind(config, layer_idx=1), "geglu_tanh(gate_proj, up_proj)")


class UpFirst(Phi3):
    def forward(self, x):
        up, gate = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(self.activation_fn(gate) * up)


class Interleaved(Phi3):
    def forward(self, x):
        packed = self.gate_up_proj(x)
        return self.down_proj(self.activation_fn(packed[..., ::2]) * packed[..., 1::2])


@pytest.mark.parametrize(
    ("kind", "layout"), [(Phi3, "gate_up"), (UpFirst, "up_gate"), (Interleaved, "interleaved")]
)
def test_the_forward_decides_on_the_layout(kind, layout):
    check_fused(mlp_with(kind="phi3", mlp_class=kind), f"swiglu(gate_up_proj, {layout})")


def test_t5_gemma_has_a_dropout():
    config = transformers.T5GemmaModuleConfig(
        hidden_size=32, intermediate_size=48, dropout_rate=0.0
    )
    mlp = transformers.models.t5gemma.modeling_t5gemma.T5GemmaMLP(config)
    check_fused(mlp, "geglu_tanh(gate_proj, up_proj)")
    mlp.dropout.p = 1.0
    assert not mlp(torch.randn(5, 32)).any()


def test_mlps_of_another_form():
    config = transformers.MptConfig(vocab_size=64, d_model=32, n_layers=2, n_heads=2)
    model = transformers.MptForCausalLM(config)
    match = r"blocks\.\*\.ffn \(2 times\): not fused: MptMLP is no MLP of a known form"
    with pytest.warns(UserWarning, match=match):
        report = patch(model)
    assert list(report) == ["transformer.blocks.0.ffn", "transformer.blocks.1.ffn"]
    with pytest.warns(UserWarning, match="no MLP or experts found"):
        assert patch(nn.Linear(2, 2)) == {}


def test_what_can_be_fused_is_fused_beside_the_rest():
    model = make("llama")
    model.model.layers[1].mlp.act_fn = nn.Mish()
    with pytest.warns(UserWarning, match="fused_acts: model.layers.*.mlp: not fused: LlamaMLP has"):
        report = patch(model)
    assert list(report.fused) == ["model.layers.0.mlp"]
    assert list(report.kept) == ["model.layers.1.mlp"]
    assert str(report).splitlines()[0] == "model.layers.*.mlp: swiglu(gate_proj, up_proj)"


def test_nothing_is_changed_when_the_warning_is_an_error():
    model = make("llama")
    model.model.layers[1].mlp.act_fn = nn.Mish()
    with warnings.catch_warnings(), pytest.raises(UserWarning):
        warnings.simplefilter("error")
        patch(model)
    assert "forward" not in vars(model.model.layers[0].mlp)


def test_replaced_forwards():
    mlp = mlp_with()
    mlp.forward = lambda x: x
    check_kept(mlp, "has another forward than its class")


def test_below_hub_kernels(monkeypatch):
    model = make("gpt_oss")
    layer = model.model.layers[0].mlp
    monkeypatch.setattr(type(layer), "kernel_layer_name", "MegaBlocksMoeMLP", raising=False)
    layer.forward = lambda x: (x, None)
    with pytest.warns(UserWarning, match="GptOssExperts is not called by the hub kernel around it"):
        report = patch(model)
    assert list(report.fused) == ["model.layers.1.mlp.experts"]


def experts(family="mixtral", **changes):
    module = make(family).model.layers[0].mlp.experts
    for name, value in changes.items():
        setattr(module, name, value)
    return module


def test_experts_left_alone():
    check_kept(experts(act_fn=nn.Mish()), "has the activation")
    other = experts()
    other.config._experts_implementation = "sonicmoe"
    check_kept(other, "has kernels of its own in the implementation sonicmoe")

    class Other(type(other)):
        def _apply_gate(self, gate_up):
            return super()._apply_gate(gate_up) * 2

    assert patch(experts(__class__=Other)) == {"": "swiglu in place of act_fn"}

    class OtherLoop(type(other)):
        def forward(self, hidden_states, top_k_index, top_k_weights):
            return self.act_fn(hidden_states)

    check_kept(experts(__class__=OtherLoop), "has an eager implementation of no known form")


def hy_v4_experts(kind=None):
    config = transformers.HYV4Config(
        hidden_size=32, moe_intermediate_size=48, num_local_experts=4, swiglu_limit=0.5
    )
    config._experts_implementation = "eager"
    module = (kind or transformers.models.hy_v4.modeling_hy_v4.HYV4Experts)(config)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def test_experts_with_an_activation_in_their_code():
    module = hy_v4_experts()
    args = torch.randn(5, 32), torch.tensor([[0, 1]] * 5), torch.rand(5, 2)
    before = module(*args)
    call = "swiglu(gate_up_proj, gate_up, limit=0.5)"
    assert patch(module) == {"": f"{call}, whole experts"}
    check_model(module(*args), before)

    class Other(type(hy_v4_experts())):
        def _apply_gate(self, gate_up):
            gate, up = gate_up.chunk(2, dim=-1)
            return nn.functional.mish(gate) * up

    check_kept(hy_v4_experts(Other), "does not compute swiglu")


def test_what_cannot_be_read_is_a_row_of_the_report():
    module = experts()
    del module.config
    check_kept(module, "cannot be read: AttributeError")
    check_kept(mlp_with_no_activation(), "has the activation builtins.NoneType, which is not known")


def mlp_with_no_activation():
    mlp = mlp_with()
    mlp.act_fn = None
    return mlp


def test_limits_of_experts():
    model = make("gpt_oss")
    for layer in model.model.layers:
        layer.mlp.experts.limit, layer.mlp.experts.alpha = 0.25, 1.5
    before = model(**inputs("gpt_oss")).logits
    report = patch(model)
    call = "swiglu_oai(gate_up_proj, interleaved, alpha=1.5, limit=0.25)"
    assert set(report.values()) == {f"{call}, whole experts"}
    check_model(model(**inputs("gpt_oss")).logits, before)


def test_limits_by_other_names():
    """The experts of MiniMax M3, which are those of gpt-oss with packed halves."""
    config = transformers.MiniMaxM3VLTextConfig(
        hidden_size=32, intermediate_size=48, num_local_experts=4, experts_implementation="eager"
    )
    module = transformers.models.minimax_m3_vl.modeling_minimax_m3_vl.MiniMaxM3VLExperts(config)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    args = torch.randn(5, 32), torch.tensor([[0, 1]] * 5), torch.rand(5, 2)
    before = module(*args)
    call = "swiglu_oai(gate_up_proj, gate_up, alpha=1.702, limit=7.0)"
    assert patch(module) == {"": f"{call}, whole experts"}
    check_model(module(*args), before)
