"""Parameters of f that are tensors: values, gradients, and modules that learn them."""

import copy
import io
import pickle

import pytest
import torch
from cases import DEVICES, DTYPES, LAYOUTS, operands, random, same_bits, to_device
from option_cases import (
    LIMITED,
    PARAMETRIC,
    ROWS,
    check_call,
    check_sums,
    fused,
    numbers_for,
    oracle,
    parameter,
)

import fused_acts


def real(dtype):
    return torch.promote_types(dtype, torch.float32)


def values(cols, dtype, kind):
    """Parameters of a shape, all near 0.8; both signs where there is one for each channel."""
    if kind == "scalar":
        return torch.tensor(0.8, dtype=dtype)
    if kind == "single":
        return torch.tensor([0.8], dtype=dtype)
    return random(cols, dtype=dtype, seed=9) + 0.8


KINDS = ("scalar", "single", "per channel")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", PARAMETRIC)
def test_against_the_oracle(variant, dtype, layout, device):
    """With parameters in the dtype of the data and in float32, alone and with all the rest."""
    cols = 67
    gate, up, grad_out = operands(3, 13, cols, dtype=dtype)
    for own in {dtype, real(dtype)}:
        for kind in KINDS:
            given = values(cols, own, kind)
            rest = {
                "gate_bias": random(cols, dtype=own, seed=7),
                "up_bias": random(cols, dtype=own, seed=8),
            }
            if variant in LIMITED:
                rest["limit"] = 2.5
            for options in (parameter(variant, given), parameter(variant, given) | rest):
                result = fused(variant, gate, up, options, grad_out, layout, device)
                grad = result.options[ROWS[variant].parameter]
                assert grad.shape == given.shape and grad.dtype == own
                exact = oracle(variant, gate, up, options, grad_out)
                check_call(result, exact)
                check_sums(result, exact, cols)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", PARAMETRIC)
def test_a_tensor_is_as_good_as_a_number(variant, dtype, device):
    """The same bits, for any shape of the same value."""
    gate, up, grad_out = operands(9, 67, dtype=dtype)
    number = fused(variant, gate, up, parameter(variant, 0.75), grad_out, device=device)
    for shape in ((), (1,), (67,)):
        tensor = torch.full(shape, 0.75, dtype=real(dtype))
        result = fused(variant, gate, up, parameter(variant, tensor), grad_out, device=device)
        assert same_bits(result.out, number.out)
        assert all(map(same_bits, result.inputs, number.inputs))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [0, 1, 3, 257, 4097])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_over_rows(dtype, rows, kind, device, threads):
    """Right, and equal to the last bit whatever the number of threads and the strides."""
    cols = 37
    gate, up, grad_out = operands(rows, cols, dtype=dtype)
    for variant in PARAMETRIC if device == "cpu" and rows == 257 else PARAMETRIC[:1]:
        options = parameter(variant, values(cols, real(dtype), kind))
        results = []
        for layout in LAYOUTS:
            for number in (1, 2):
                threads(number)
                results.append(fused(variant, gate, up, options, grad_out, layout, device))
        wide = torch.full((3, rows, cols + 9), float("nan"), dtype=dtype)
        strided = [
            into[:, 5 : cols + 5].copy_(tensor)
            for into, tensor in zip(wide, (gate, up, grad_out), strict=True)
        ]
        results.append(fused(variant, *strided[:2], options, strided[2], device=device))
        check_sums(results[0], oracle(variant, gate, up, options, grad_out), cols)
        first, *others = (result.options[ROWS[variant].parameter] for result in results)
        assert all(same_bits(first, other) for other in others)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows, cols", [(1, 1), (5, 0), (0, 0), (3, 1), (8161, 2), (2, 5000)])
def test_odd_shapes(rows, cols, kind, device):
    gate, up, grad_out = operands(rows, cols, dtype=torch.float64)
    options = parameter("swiglu", values(cols, torch.float64, kind))
    result = fused("swiglu", gate, up, options, grad_out, device=device)
    exact = oracle("swiglu", gate, up, options, grad_out)
    assert result.options["beta"].shape == options["beta"].shape
    torch.testing.assert_close(result.options, exact.called.options, rtol=1e-10, atol=1e-12)
    check_call(result, exact)


@pytest.mark.parametrize("variant", PARAMETRIC)
def test_gradcheck(variant):
    gate, up, _ = operands(3, 5, dtype=torch.float64)
    for kind in KINDS:
        given = values(5, torch.float64, kind)
        assert torch.autograd.gradcheck(
            lambda gate, up, given: fused_acts.gated(
                gate, up, variant=variant, **parameter(variant, given)
            ),
            [tensor.requires_grad_() for tensor in (gate, up, given)],
            check_forward_ad=True,
            check_batched_grad=True,
        )


@pytest.mark.parametrize("variant", PARAMETRIC)
def test_no_gradient_where_none_is_wanted(variant):
    gate, up, grad_out = operands(6, 33, dtype=torch.float32)
    given = values(33, torch.float32, "per channel")
    wanted = fused(variant, gate, up, parameter(variant, given), grad_out)
    gate.requires_grad_()
    fused_acts.gated(gate, up, variant=variant, **parameter(variant, given)).backward(grad_out)
    assert given.grad is None and same_bits(gate.grad, wanted.inputs[0])
    gate = gate.detach()
    given.requires_grad_()
    fused_acts.gated(gate, up, variant=variant, **parameter(variant, given)).backward(grad_out)
    assert gate.grad is None and same_bits(given.grad, wanted.options[ROWS[variant].parameter])


def test_a_parameter_changed_after_the_forward_pass_is_noticed():
    gate, up, _ = operands(6, 33, dtype=torch.float32)
    beta = torch.ones((), requires_grad=True)
    out = fused_acts.swiglu(gate, up, beta=beta)
    with torch.no_grad():
        beta.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_gradients_of_one_call_do_not_share_memory():
    gate, up, grad_out = operands(6, 33, dtype=torch.float32)
    rows = [torch.ones(33, requires_grad=True) for _ in range(3)]
    out = fused_acts.swiglu(gate, up, gate_bias=rows[0], up_bias=rows[1], beta=rows[2])
    grads = torch.autograd.grad(out, rows, grad_out)
    assert len({grad.untyped_storage().data_ptr() for grad in grads}) == 3
    assert all(grad.untyped_storage().nbytes() == grad.nbytes for grad in grads)


MODULES = [(variant, kind) for variant in PARAMETRIC for kind in ("learned", "per_channel")]


def module_of(variant, kind, **others):
    channels = {"num_channels": 33} if kind == "per_channel" else {}
    return fused_acts.nn.GatedActivation(variant, **parameter(variant, kind), **channels, **others)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant, kind", MODULES)
def test_module(variant, kind, device):
    module = module_of(variant, kind).to(device)
    row = ROWS[variant]
    ((name, learned),) = module.named_parameters()
    assert name == row.parameter and list(module.state_dict()) == [name]
    assert learned.shape == ((33,) if kind == "per_channel" else ())
    assert (learned == row.default).all() and learned.dtype == torch.float32

    gate, up, grad_out = (to_device(t, device) for t in operands(6, 33, dtype=torch.bfloat16))
    start = fused_acts.gated(gate, up, variant=variant)
    torch.testing.assert_close(module(gate, up), start)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    before = learned.detach().clone()
    (module(gate, up) * grad_out).sum().backward()
    optimizer.step()
    assert (learned != before).all()
    assert not torch.equal(module(gate, up), start)

    other = module_of(variant, kind).to(device)
    other.load_state_dict(module.state_dict())
    expected = module(gate, up)
    for copied in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert same_bits(copied(gate, up).detach(), expected.detach())
        assert repr(copied) == repr(module)
        assert [p.requires_grad for p in copied.parameters()] == [True]
        assert next(copied.parameters()).data_ptr() != learned.data_ptr()
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


@pytest.mark.parametrize("variant", [name for name in ROWS if numbers_for(name)])
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


@pytest.mark.parametrize("device", DEVICES)
def test_one_value_expanded_to_the_columns(device):
    """Its columns share an address, and each still has a gradient of its own."""
    gate, up, grad_out = (to_device(t, device) for t in operands(33, 6, dtype=torch.float64))
    beta = to_device(torch.tensor([1.5], dtype=torch.float64), device)
    grads = []
    for row in (beta.expand(6), to_device(torch.full((6,), 1.5, dtype=torch.float64), device)):
        leaf = row.detach().requires_grad_()
        out = fused_acts.swiglu(gate, up, beta=leaf)
        grads.append(torch.autograd.grad(out, leaf, grad_out)[0].cpu())
    assert same_bits(*grads)
