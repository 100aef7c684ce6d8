"""Gradients: values, what autograd asks for, and what is kept for it."""

import pytest
import torch
from cases import (
    DEVICES,
    DTYPES,
    FUNCTIONS,
    PACKED,
    ROWS,
    VARIANTS,
    as_inputs,
    exact,
    forward,
    forward_backward,
    gated,
    in_range,
    of_each_kind,
    operands,
    own_layout,
    pack,
    rows_and_layouts,
    same_bits,
    to_device,
    whole_range,
)
from tolerances import check, check_result, gradient_budget

import fused_acts


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, layout", rows_and_layouts())
def test_against_the_oracle(name, layout, dtype, device):
    gate, up, grad_out = operands(5, 3, 136, dtype=dtype)
    result = forward_backward(name, gate, up, grad_out, layout, device)
    assert {tensor.dtype for tensor in result.tensors()} == {dtype}
    assert result.out.is_contiguous() and (layout in PACKED or result.grad_gate.is_contiguous())
    check_result(name, result, exact(name, gate, up, grad_out))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ROWS)
def test_over_the_whole_range(name, dtype, device):
    gate = whole_range(dtype)[:: 1 if device == "cpu" else 5]
    gate = gate[in_range(name, gate)]
    up, grad_out = torch.full_like(gate, -1.7), torch.full_like(gate, 0.3)
    result = forward_backward(name, gate, up, grad_out, device=device)
    check_result(name, result, exact(name, gate, up, grad_out))


# By x in float64. Autograd has 1 - tanh(x)^2 and 1 + expm1(x), which cancel in the tails.
SLOPES = {"tanh": lambda x: 1 / x.cosh() ** 2, "elu": torch.exp, "softplus": torch.sigmoid}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name, by", [(name, by) for name in ROWS for by in (0, 1) if FUNCTIONS[name][by] in SLOPES]
)
def test_slopes_keep_their_tails(name, by, dtype, device):
    """Down to the smallest normal number, without a floor."""
    x = torch.linspace(-43.0, -0.125, 20_001, dtype=torch.float64).to(dtype)
    one = torch.ones_like(x)
    gate, up = (one * 40, x) if by else (x, one)  # the sigmoid of 40 is 1
    result = forward_backward(name, gate, up, one, device=device)
    slope = SLOPES[FUNCTIONS[name][by]](x.double())
    check(result[1 + by], slope, gradient_budget(name, by, dtype)[0])


@pytest.mark.parametrize("name, layout", rows_and_layouts())
def test_gradcheck(name, layout):
    gate, up, _ = operands(3, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *inputs: gated(name, inputs, layout),
        [tensor.requires_grad_() for tensor in as_inputs(gate, up, layout)],
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wanted", ["gate", "up"])
@pytest.mark.parametrize("variant", of_each_kind(VARIANTS))
def test_one_gradient_of_two(variant, wanted, dtype, device):
    """The one that is asked for is the same to the last bit; the other is not given."""
    gate, up, grad_out = operands(7, 133, dtype=dtype)
    both = forward_backward(variant, gate, up, grad_out, device=device)
    inputs = {"gate": to_device(gate, device), "up": to_device(up, device)}
    inputs[wanted].requires_grad_()
    out = fused_acts.gated(**inputs, variant=variant)
    (grad,) = torch.autograd.grad(out, inputs[wanted], to_device(grad_out, device))
    assert same_bits(grad.cpu(), getattr(both, f"grad_{wanted}"))


@pytest.mark.parametrize("name, layout", rows_and_layouts())
def test_saves_its_operands_and_nothing_else(name, layout):
    gate, up, _ = operands(8, 32, dtype=torch.float32)
    inputs = [tensor.requires_grad_() for tensor in as_inputs(gate, up, layout)]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        gated(name, inputs, layout)
    storages = {tensor.untyped_storage().data_ptr() for tensor in saved}
    assert storages == {operand.untyped_storage().data_ptr() for operand in inputs}


def test_saves_nothing_without_grad():
    gate, up, _ = operands(8, 32, dtype=torch.float32)
    packed = fused_acts.gated(pack(gate, up, "gate_up"))
    for out in (fused_acts.gated(gate, up), packed, fused_acts.gelu(gate)):
        assert not out.requires_grad and out.grad_fn is None
    with torch.no_grad():
        assert fused_acts.gated(gate.requires_grad_(), up).grad_fn is None
        assert fused_acts.gelu(gate).grad_fn is None


@pytest.mark.parametrize("name, layout", rows_and_layouts())
def test_operands_stay_as_they_were(name, layout):
    gate, up, grad_out = operands(9, 65, dtype=torch.float32)
    inputs = as_inputs(gate, up, layout)
    before = [tensor.clone() for tensor in (*inputs, grad_out)]
    leaves = [tensor.requires_grad_() for tensor in inputs]
    out = gated(name, leaves, layout)
    kept = out.detach().clone()
    for _ in range(2):  # a second pass over the same graph finds the same saved tensors
        torch.autograd.grad(out, leaves, grad_out, retain_graph=True)
    after = [tensor.detach() for tensor in (*leaves, grad_out)]
    assert all(map(same_bits, before, after)) and same_bits(out.detach(), kept)
    assert all(tensor._version == 0 for tensor in leaves)


@pytest.mark.parametrize("layout", PACKED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_packed_gradient_is_one_tensor(dtype, layout):
    gate, up, grad_out = operands(6, 34, dtype=dtype)
    x = pack(gate, up, layout).requires_grad_()
    (grad,) = torch.autograd.grad(fused_acts.gated(x, layout=layout), x, grad_out)
    assert grad.shape == x.shape and grad.is_contiguous()
    assert grad.untyped_storage().nbytes() == grad.nbytes


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_tensor_twice(variant):
    x, _, grad_out = operands(5, 40, dtype=torch.float64)
    x.requires_grad_()
    (grad,) = torch.autograd.grad(fused_acts.gated(x, x, variant=variant), x, grad_out)
    single = forward_backward(variant, x, x, grad_out)
    assert same_bits(grad, single.grad_gate + single.grad_up)


@pytest.mark.parametrize("name", ROWS)
def test_writing_over_a_saved_operand_is_noticed(name):
    layout = own_layout(name)
    gate, up, _ = operands(5, 40, dtype=torch.float32)
    inputs = as_inputs(gate.requires_grad_(), up, layout)
    out = gated(name, inputs, layout)
    with torch.no_grad():
        inputs[-1].add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_forward_value_does_not_depend_on_grad(dtype):
    gate, up, grad_out = operands(11, 77, dtype=dtype)
    for name in ROWS:
        with_grad = forward_backward(name, gate, up, grad_out).out
        assert same_bits(with_grad, forward(name, gate, up))
