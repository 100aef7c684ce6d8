"""rounding="eager": bit for bit what torch's own composition gives."""

import pytest
import torch
import torch.nn.functional as F
from cases import (
    DEVICES,
    DTYPES,
    DTYPES_16,
    LAYOUTS,
    ROWS,
    VARIANTS,
    as_inputs,
    every_finite,
    factors_of,
    operands,
    random,
    rows_and_layouts,
    same_bits,
    to_device,
    unpack,
)
from option_cases import check_call, fused, oracle

import fused_acts

# As models write them, out of torch's own functions and of nothing that is in the tables: the
# library composes its eager rounding from what these have.
WRITTEN = {
    "glu": lambda gate, up: torch.sigmoid(gate) * up,
    "bilinear": lambda gate, up: gate * up,
    "reglu": lambda gate, up: F.relu(gate) * up,
    "geglu": lambda gate, up: F.gelu(gate) * up,
    "geglu_tanh": lambda gate, up: F.gelu(gate, approximate="tanh") * up,
    "swiglu": lambda gate, up: F.silu(gate) * up,
    "gtu": lambda gate, up: torch.sigmoid(gate) * torch.tanh(up),
    "tanh_glu": lambda gate, up: torch.tanh(gate) * up,
    "leaky_reglu": lambda gate, up: F.leaky_relu(gate) * up,
    "preglu": lambda gate, up: F.leaky_relu(gate, 0.25) * up,
    "elu_glu": lambda gate, up: F.elu(gate) * up,
    "squared_reglu": lambda gate, up: F.relu(gate).square() * up,
    "quick_geglu": lambda gate, up: gate * torch.sigmoid(1.702 * gate) * up,
    "glu_relu": lambda gate, up: torch.sigmoid(gate) * F.relu(up),
    "situ_glu": lambda gate, up: (
        4.0 * torch.tanh(gate / 4.0) * torch.sigmoid(gate) * (25.0 * torch.tanh(up / 25.0))
    ),
    "swiglu_step": lambda gate, up: F.silu(gate).clamp(max=7.0) * up.clamp(-7.0, 7.0),
    "swiglu_oai": lambda gate, up: (
        gate.clamp(max=7.0) * torch.sigmoid(gate.clamp(max=7.0) * 1.702) * (up.clamp(-7.0, 7.0) + 1)
    ),
}


def composition(variant):
    """As written above; of a newer variant, with what its row says torch has in the place of f."""
    row = ROWS[variant]
    values = [*row.parameters.values()]

    def composed(gate, up):
        f, g = factors_of(row, gate, up, values, row.limit, row.eager)
        return f * g

    return WRITTEN.get(variant, composed)


WITH_OPTIONS = [
    ("swiglu", {"beta": 1.3}, lambda gate, up: gate * torch.sigmoid(1.3 * gate) * up),
    (
        "swiglu",
        {"limit": 2.5},
        lambda gate, up: F.silu(gate.clamp(max=2.5)) * up.clamp(-2.5, 2.5),
    ),
    (
        "geglu_tanh",
        {"limit": 1.0},
        lambda gate, up: F.gelu(gate.clamp(max=1.0), approximate="tanh") * up.clamp(-1.0, 1.0),
    ),
    ("leaky_reglu", {"negative_slope": 0.2}, lambda gate, up: F.leaky_relu(gate, 0.2) * up),
    ("elu_glu", {"alpha": 0.7}, lambda gate, up: F.elu(gate, 0.7) * up),
    (
        "swiglu_oai",
        {"limit": None},
        lambda gate, up: gate * torch.sigmoid(gate * 1.702) * (up + 1),
    ),
]


def values(dtype):
    """Every finite gate of a 16-bit dtype, against a few values of up."""
    if dtype in DTYPES_16:
        gate = every_finite(dtype)
    else:
        gate = random(100_000, dtype=dtype, seed=1, scale=20.0)
    yield gate, torch.full_like(gate, -1.7)
    yield gate, random(gate.numel(), dtype=dtype, seed=2, scale=3.0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_gate(variant, dtype, device):
    for gate, up in values(dtype):
        gate, up = to_device(gate, device), to_device(up, device)
        expected = composition(variant)(gate, up)
        assert same_bits(fused_acts.gated(gate, up, variant=variant, rounding="eager"), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", range(len(WITH_OPTIONS)))
def test_with_options(case, dtype, device):
    variant, options, composition = WITH_OPTIONS[case]
    for gate, up in values(dtype):
        gate, up = to_device(gate, device), to_device(up, device)
        result = fused_acts.gated(gate, up, variant=variant, rounding="eager", **options)
        assert same_bits(result, composition(gate, up))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_with_tensors(dtype, device):
    gate, up, _ = (to_device(t, device) for t in operands(16, 33, dtype=dtype))
    bias, other, beta = (to_device(random(33, dtype=dtype, seed=s), device) for s in (4, 5, 6))
    rows = {"gate_bias": bias, "up_bias": other}
    for variant in VARIANTS:
        result = fused_acts.gated(gate, up, variant=variant, rounding="eager", **rows)
        assert same_bits(result, composition(variant)(gate + bias, up + other))
    for value in (beta, beta[0], beta[:1]):
        result = fused_acts.swiglu(gate, up, beta=value, rounding="eager")
        assert same_bits(result, gate * torch.sigmoid(value * gate) * up)
        result = fused_acts.preglu(gate, up, slope=value, rounding="eager")
        assert same_bits(result, F.prelu(gate, value.reshape(-1)) * up)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(dtype, layout):
    """As of the views that a model takes of a packed tensor: torch rounds these in its own way."""
    gate, up, _ = operands(3, 5, 34, dtype=dtype)
    inputs = as_inputs(gate, up, layout)
    others = {} if layout == "separate" else {"layout": layout}
    if layout != "separate":
        gate, up = unpack(*inputs, layout)
    for variant in VARIANTS:
        out = fused_acts.gated(*inputs, variant=variant, rounding="eager", **others)
        assert same_bits(out, composition(variant)(gate, up))
        assert out.is_contiguous()


def test_it_is_another_rounding():
    """Otherwise these tests would prove nothing."""
    gate, up, _ = operands(64, 64, dtype=torch.bfloat16)
    assert not same_bits(fused_acts.swiglu(gate, up, rounding="eager"), fused_acts.swiglu(gate, up))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant, layout", rows_and_layouts(VARIANTS))
def test_the_backward_is_the_fused_one(variant, layout, dtype, device):
    gate, up, grad_out = operands(3, 5, 34, dtype=dtype)
    single = fused(variant, gate, up, {}, grad_out, layout, device)
    eager = fused(variant, gate, up, {"rounding": "eager"}, grad_out, layout, device)
    assert all(map(same_bits, eager.inputs, single.inputs))
    check_call(single, oracle(variant, gate, up, {}, grad_out))
    bias = {"gate_bias": torch.full((34,), 0.3, dtype=dtype)}
    single = fused(variant, gate, up, bias, grad_out, layout, device)
    eager = fused(variant, gate, up, bias | {"rounding": "eager"}, grad_out, layout, device)
    assert all(map(same_bits, eager.inputs, single.inputs))
    assert same_bits(eager.options["gate_bias"], single.options["gate_bias"])


def test_it_saves_what_the_fused_one_saves():
    gate, up, _ = operands(8, 32, dtype=torch.bfloat16)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        fused_acts.geglu(gate.requires_grad_(), up.requires_grad_(), rounding="eager")
    assert {t.data_ptr() for t in saved} == {gate.data_ptr(), up.data_ptr()}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_out(dtype, device):
    gate, up, _ = (to_device(t, device) for t in operands(6, 33, dtype=dtype))
    for variant in VARIANTS:
        expected = composition(variant)(gate, up)
        out = torch.full((6, 40), 7.25, dtype=dtype, device=device)
        view = out[:, 3:36]
        assert fused_acts.gated(gate, up, variant=variant, rounding="eager", out=view) is view
        assert same_bits(view, expected)
        assert (out[:, :3] == 7.25).all() and (out[:, 36:] == 7.25).all()
        over = gate.clone()
        fused_acts.gated(over, up, variant=variant, rounding="eager", out=over)
        assert same_bits(over, expected)


def test_out_refuses():
    gate, up, _ = operands(6, 34, dtype=torch.float32)
    leaf = gate.clone().requires_grad_()
    for inputs, out, error in (
        ((gate, up), torch.zeros(6, 33), ValueError),
        ((gate, up), torch.zeros(6, 34).double(), TypeError),
        ((gate, up), torch.zeros(6, 34, device="meta"), ValueError),
        ((leaf, up), torch.zeros(6, 34), RuntimeError),
    ):
        before = out.clone()
        with pytest.raises(error, match="^out: "):
            fused_acts.swiglu(*inputs, rounding="eager", out=out)
        assert out.device.type == "meta" or same_bits(out, before)


def test_out_may_overlap_an_operand():
    """Because the result is there before anything is written."""
    gate, up, _ = operands(6, 34, dtype=torch.float32)
    buffer = torch.zeros(6 * 34 + 1)
    buffer[:-1] = gate.flatten()
    fused_acts.swiglu(buffer[:-1].view(6, 34), up, rounding="eager", out=buffer[1:].view(6, 34))
    assert same_bits(buffer[1:].view(6, 34), composition("swiglu")(gate, up))
