"""Values and gradients of rms_norm_gated, polynorm_glu and topk_geglu."""

import math

import pytest
import torch
from cases import CUDA, DEVICES, DTYPES, operands, same_bits, to_device
from row_unit_cases import UNITS, RowUnit, check_call, inputs_of, parameters_of, run

import fused_acts

OF_NORMS = [name for name, unit in UNITS.items() if unit.name == "rms_norm_gated"]
of_units = pytest.mark.parametrize("name", UNITS)
on_devices = pytest.mark.parametrize("device", DEVICES)


@on_devices
@pytest.mark.parametrize("cols", (1, 2, 7, 33, 128, 1000, 5001))
@pytest.mark.parametrize("dtype", DTYPES)
@of_units
def test_values_and_gradients(name, dtype, cols, device):
    check_call(UNITS[name], *inputs_of(UNITS[name], 5, cols, dtype=dtype), device)


@on_devices
@pytest.mark.parametrize("cols", (2**16 + 8, 2**17 - 1, 2**17))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("name", ("swish_norm", "polynorm", "topk"))
def test_long_rows(name, dtype, cols, device):
    check_call(UNITS[name], *inputs_of(UNITS[name], 2, cols, dtype=dtype), device)


@on_devices
@pytest.mark.parametrize("cols", (64, 2000))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("name", ("norm_swish", "sigmoid_norm", "polynorm"))
def test_gradients_of_parameters_over_many_rows(name, dtype, cols, device):
    rows = 700 if cols == 64 else 140
    check_call(UNITS[name], *inputs_of(UNITS[name], rows, cols, dtype=dtype), device)


@on_devices
@pytest.mark.parametrize("size", (1, 3, 16, 240))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OF_NORMS)
def test_groups(name, dtype, size, device):
    unit = UNITS[name]
    unit = unit._replace(options=unit.options | {"group_size": size})
    check_call(unit, *inputs_of(unit, 6, 240, dtype=dtype), device)


@on_devices
@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@pytest.mark.parametrize("name", ("norm_swish", "polynorm"))
def test_parameters_in_float32(name, dtype, device):
    inputs, grad_out = inputs_of(UNITS[name], 5, 72, dtype=dtype)
    inputs[2:] = parameters_of(UNITS[name], 72, torch.float32)
    check_call(UNITS[name], inputs, grad_out, device)


@on_devices
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
@of_units
def test_views(name, dtype, device):
    whole = operands(6, 80, dtype=dtype)
    for view in (
        lambda t: t[:, 1:65],
        lambda t: t[::2, 8:72],
        lambda t: t[:, 3:67].unflatten(0, (2, 3)),
        lambda t: t.t(),
        lambda t: t[:1].expand(4, -1),
    ):
        *inputs, grad_out = [view(t) for t in whole]
        parameters = [p[::2] for p in parameters_of(UNITS[name], 2 * grad_out.shape[-1], dtype)]
        if "coefficients" in UNITS[name].parameters:
            parameters = parameters_of(UNITS[name], 3, dtype)
        check_call(UNITS[name], [*inputs, *parameters], grad_out, device)


@on_devices
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_a_mean_far_from_zero(dtype, device):
    """Deviations that are small beside the mean."""
    gate, up, grad_out = operands(4, 300, dtype=dtype)
    check_call(UNITS["topk"], [(gate + 64).to(dtype), up], grad_out, device)


@on_devices
def test_equal_gates(device):
    """A deviation of 0 has no derivative, as in torch."""
    gate = torch.full((2, 24), 0.1)
    _, up, grad_out = operands(2, 24, dtype=torch.float32)
    out, by_gate, by_up = run(fused_acts.topk_geglu, [gate, up], grad_out, device)
    assert (out == 0).all() and (by_gate == 0).all() and (by_up == 0).all()


@on_devices
@pytest.mark.parametrize("cols", (9, 64, 3000))
@pytest.mark.parametrize("dtype", DTYPES)
@of_units
def test_infinities_and_nan(name, dtype, cols, device):
    inputs, grad_out = inputs_of(UNITS[name], 6, cols, dtype=dtype)
    first, second = inputs[:2]
    first[0, cols // 2] = math.inf
    first[1, cols - 1] = math.nan
    first[2, 0] = math.nan
    second[3, cols // 2] = math.nan
    results = run(UNITS[name].ours(), inputs, grad_out, device)
    wide = [t.double() for t in inputs]
    exact = run(UNITS[name].oracle(), wide, grad_out.double())
    for one, other in zip(results, exact, strict=True):
        assert torch.equal(one.isnan(), other.isnan())
    assert not results[0][5].isnan().any() and results[0][1:4].isnan().any(-1).all()


@on_devices
@pytest.mark.parametrize("shape", ((0, 4), (3, 0), (2, 0, 8)))
@of_units
def test_empty(name, shape, device):
    inputs, grad_out = inputs_of(UNITS[name], *shape, dtype=torch.float32)
    out, *grads = run(UNITS[name].ours(), inputs, grad_out, device)
    assert out.shape == shape
    assert [g.shape for g in grads] == [t.shape for t in inputs]
    assert all((g == 0).all() for g in grads[2:])


@on_devices
@of_units
def test_some_gradients_alone(name, device):
    inputs, grad_out = inputs_of(UNITS[name], 3, 40, dtype=torch.float32)
    both = run(UNITS[name].ours(), inputs, grad_out, device)[1:]
    for i, grad in enumerate(both):
        leaves = [t.to(device).requires_grad_(i == k) for k, t in enumerate(inputs)]
        out = UNITS[name].ours()(*leaves)
        (one,) = torch.autograd.grad(out, leaves[i : i + 1], grad_out.to(device))
        assert same_bits(one.cpu(), grad)


@pytest.mark.parametrize("device", [CUDA])
@of_units
def test_a_row_has_the_same_bits_in_any_batch(name, device):
    inputs, grad_out = inputs_of(UNITS[name], 9, 2816, dtype=torch.bfloat16)
    whole = run(UNITS[name].ours(), inputs, grad_out, device)[:3]
    for row in (0, 8):
        part = slice(row, row + 1)
        alone = [t[part] for t in inputs[:2]] + inputs[2:]
        results = run(UNITS[name].ours(), alone, grad_out[part], device)[:3]
        assert all(same_bits(a, w[part]) for a, w in zip(results, whole, strict=True))


@pytest.mark.parametrize("shape", ((200, 1001), (3, 20_000)))
@of_units
def test_threads(name, shape, threads):
    inputs, grad_out = inputs_of(UNITS[name], *shape, dtype=torch.float32)
    threads(1)
    expected = run(UNITS[name].ours(), inputs, grad_out)
    threads(2)
    results = run(UNITS[name].ours(), inputs, grad_out)
    assert all(map(same_bits, results, expected))


@of_units
def test_what_is_saved(name):
    unit: RowUnit = UNITS[name]
    inputs, _ = inputs_of(unit, 4, 8, dtype=torch.bfloat16)
    inputs = [t.requires_grad_() for t in inputs]
    out = unit.ours()(*inputs)
    saved = [t for t in out.grad_fn.saved_tensors if t is not None]
    assert [t.data_ptr() for t in saved[:-1]] == [t.data_ptr() for t in inputs]
    count = {"polynorm_glu": 3, "topk_geglu": 2}.get(unit.name, 1)
    assert saved[-1].shape == (4, count) and saved[-1].dtype == torch.float32


def test_no_sparsity_cuts_nothing():
    gate, up, _ = operands(3, 40, dtype=torch.float32)
    assert same_bits(fused_acts.topk_geglu(gate, up, 0.0), fused_acts.geglu_tanh(gate, up))


@pytest.mark.parametrize("sparsity", (0.2, 0.5, 0.99))
def test_sparsity(sparsity):
    gate, up, grad_out = operands(3, 400, dtype=torch.float64)
    unit = UNITS["topk"]._replace(options={"sparsity": sparsity})
    results = run(unit.ours(), [gate, up], grad_out)
    exact = run(unit.oracle(), [gate, up], grad_out)
    torch.testing.assert_close(results, exact)
    assert abs((results[0] == 0).double().mean() - sparsity) < 0.1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("place", [0, 1, -1])
def test_one_gate_far_from_all_others(place, device):
    """Wherever it is, the deviation keeps its digits."""
    gate = torch.randn(2, 16384, generator=torch.Generator().manual_seed(0))
    gate[:, place] = 1000.0
    up = torch.ones_like(gate)
    out = fused_acts.topk_geglu(to_device(gate, device), to_device(up, device), 0.1).cpu()
    exact = fused_acts.reference.topk_geglu(gate.double(), up.double(), 0.1)
    torch.testing.assert_close(out.double(), exact, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("eps", [True, -1.0, float("nan"), None, torch.tensor(0.5)])
def test_eps_is_a_number(eps):
    x = torch.ones(2, 3)
    with pytest.raises((TypeError, ValueError), match="^eps: expected a number"):
        fused_acts.rms_norm_gated(x, x, torch.ones(3), eps)
    with pytest.raises((TypeError, ValueError), match="^eps: expected a number"):
        fused_acts.polynorm_glu(x, x, torch.ones(3), torch.ones(1), eps)


@pytest.mark.parametrize("sparsity", [None, "a", True, torch.tensor(0.5)])
def test_sparsity_is_a_number(sparsity):
    x = torch.ones(2, 3)
    with pytest.raises(TypeError, match="^sparsity: expected a number"):
        fused_acts.topk_geglu(x, x, sparsity)
    with pytest.raises(TypeError, match="^sparsity: expected a number"):
        fused_acts.nn.TopKGEGLU(sparsity)
