"""nn.GatedActivation: parameters that it learns, and options that are numbers."""

import copy
import io
import pickle

import pytest
import torch
from cases import DEVICES, PACKED, ROWS, VARIANTS, as_inputs, operands, same_bits, to_device
from option_cases import PARAMETRIC, fused, numbers_for, parameter

import fused_acts

PARAMETRIC_VARIANTS = [name for name in VARIANTS if name in PARAMETRIC]
MODULES = [
    (variant, kind) for variant in PARAMETRIC_VARIANTS for kind in ("learned", "per_channel")
]


def module_of(variant, kind, **others):
    channels = {"num_channels": 33} if kind == "per_channel" else {}
    return fused_acts.nn.GatedActivation(variant, **parameter(variant, kind), **channels, **others)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant, kind", MODULES)
def test_module(variant, kind, device):
    module = module_of(variant, kind).to(device)
    row = ROWS[variant]
    every = dict(module.named_parameters())
    assert list(every) == list(row.parameters) == list(module.state_dict())
    for name, learned in every.items():
        assert learned.shape == ((33,) if kind == "per_channel" else (1,))
        assert (learned == row.parameters[name]).all() and learned.dtype == torch.float32

    gate, up, grad_out = (to_device(t, device) for t in operands(6, 33, dtype=torch.bfloat16))
    start = fused_acts.gated(gate, up, variant=variant)
    torch.testing.assert_close(module(gate, up), start)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    before = {name: learned.detach().clone() for name, learned in every.items()}
    (module(gate, up) * grad_out).sum().backward()
    optimizer.step()
    for name, learned in every.items():
        if variant == "fatreglu":  # which has no derivative by its threshold
            assert (learned == before[name]).all()
            learned.data += 1.0
        # that of a wide cap is smaller than it can take
        assert (
            (learned.grad != 0).all() if name == "linear_beta" else (learned != before[name]).all()
        )
    assert not torch.equal(module(gate, up), start)

    other = module_of(variant, kind).to(device)
    other.load_state_dict(module.state_dict())
    expected = module(gate, up)
    for copied in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert same_bits(copied(gate, up).detach(), expected.detach())
        assert repr(copied) == repr(module)
        assert [p.requires_grad for p in copied.parameters()] == [True] * len(every)
        for name, learned in copied.named_parameters():
            assert learned.data_ptr() != every[name].data_ptr()
            assert f"{name}='{kind}'" in repr(module)


def test_module_saved_by_torch():
    module = module_of("preglu", "per_channel")
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    loaded = module_of("preglu", "per_channel", dtype=torch.float64)
    loaded.load_state_dict(torch.load(file))
    assert loaded.slope.dtype == torch.float64 and (loaded.slope == 0.25).all()


def test_module_dtype_and_device():
    module = module_of("swiglu", "learned", device="meta", dtype=torch.bfloat16)
    assert module.beta.device.type == "meta" and module.beta.dtype == torch.bfloat16
    assert module.double().beta.dtype == torch.float64


@pytest.mark.parametrize("variant", [name for name in VARIANTS if numbers_for(name)])
def test_module_with_numbers(variant):
    gate, up, _ = operands(6, 33, dtype=torch.float32)
    for options in numbers_for(variant):
        module = fused_acts.nn.GatedActivation(variant, **options)
        assert same_bits(module(gate, up), fused(variant, gate, up, options).out)
        assert not list(module.parameters())
        assert all(f"{name}={value!r}" in repr(module) for name, value in options.items())


def test_module_checks_its_options_at_once():
    module = fused_acts.nn.GatedActivation
    for options, error, match in (
        ({"beta": "per_channel"}, ValueError, "^num_channels: "),
        ({"beta": "trained"}, TypeError, "^beta: "),
        ({"beta": torch.ones(3)}, TypeError, "^beta: "),
        ({"gate_bias": torch.ones(3)}, TypeError, "^gate_bias: "),
        ({"slope": "learned"}, TypeError, "^slope: "),
        ({"limit": -1.0}, ValueError, "^limit: "),
        ({"rounding": "half"}, ValueError, "^rounding: "),
    ):
        with pytest.raises(error, match=match):
            module("swiglu", **options)
    with pytest.raises(TypeError, match="^beta: "):
        module("glu", beta="learned")


@pytest.mark.parametrize("layout", PACKED)
@pytest.mark.parametrize("variant", VARIANTS)
def test_module_without_parameters(variant, layout):
    module = fused_acts.nn.GatedActivation(variant, layout=layout)
    (x,) = as_inputs(*operands(4, 8, dtype=torch.float32)[:2], layout)
    expected = fused_acts.gated(x, variant=variant, layout=layout)
    for copied in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert same_bits(copied(x), expected)
        assert repr(copied) == repr(module)
    assert variant in repr(module) and layout in repr(module)
    assert not list(module.parameters()) and not module.state_dict()
