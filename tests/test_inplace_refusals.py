"""inplace_backward: an error in good time where memory is shared or needed again."""

import pytest
import torch
from cases import (
    LAYOUTS,
    as_inputs,
    operands,
    same_bits,
)
from derivative_cases import computed

import fused_acts

MODIFIED = "modified by an inplace operation"


@pytest.mark.parametrize("how", ["retained", "freed"])
def test_a_second_backward(how):
    gate, up, grad_out = operands(7, 34, dtype=torch.float32)
    leaf, gate = computed(gate)
    out = fused_acts.swiglu(gate, up, inplace_backward=True)
    out.backward(grad_out, retain_graph=how == "retained")
    first = leaf.grad.clone()
    with pytest.raises(RuntimeError, match="inplace_backward: .* cannot be run backward again"):
        out.backward(grad_out)
    assert same_bits(leaf.grad, first)


def test_create_graph():
    gate, up, grad_out = operands(7, 34, dtype=torch.float32)
    leaf, gate = computed(gate)
    kept = gate.detach().clone()
    out = fused_acts.swiglu(gate, up, inplace_backward=True)
    with pytest.raises(RuntimeError, match="inplace_backward: .*create_graph"):
        torch.autograd.grad(out, leaf, grad_out, create_graph=True)
    assert same_bits(gate.detach(), kept)
    with pytest.raises(RuntimeError, match="inplace_backward: .*create_graph"):
        torch.func.grad(lambda gate: fused_acts.swiglu(gate * 1, up, inplace_backward=True).sum())(
            kept
        )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_leaf(layout):
    inputs = as_inputs(*operands(7, 34, dtype=torch.float32)[:2], layout)
    others = {} if layout == "separate" else {"layout": layout}
    for i, tensor in enumerate(inputs):
        leaf = tensor.clone().requires_grad_()
        for refused in (leaf, leaf[:], leaf.view(7, -1)):
            given = [*inputs[:i], refused, *inputs[i + 1 :]]
            with pytest.raises(ValueError, match="^inplace_backward: .*leaf"):
                fused_acts.swiglu(*given, inplace_backward=True, **others)
            with torch.no_grad():
                fused_acts.swiglu(*given, inplace_backward=True, **others)
        parameter = torch.nn.Parameter(tensor)
        with pytest.raises(ValueError, match="^inplace_backward: .*leaf"):
            given = [*inputs[:i], parameter, *inputs[i + 1 :]]
            fused_acts.swiglu(*given, inplace_backward=True, **others)


def test_gate_and_up_in_the_same_memory():
    gate, _, grad_out = operands(7, 34, dtype=torch.float32)
    _, x = computed(gate)
    with pytest.raises(ValueError, match="^inplace_backward: .*same"):
        fused_acts.swiglu(x, x, inplace_backward=True)
    kept = x.detach().clone()
    for other in (x.view(7, 34), x.detach(), x[:, :].clone().set_(x.detach())):
        out = fused_acts.swiglu(x, other, inplace_backward=True)
        with pytest.raises(ValueError, match="^inplace_backward: .*common memory"):
            out.backward(grad_out)
        assert same_bits(x.detach(), kept)


SAVERS = {
    "sigmoid of it": lambda gate: (gate.sigmoid() * 2.0, True),
    "square": lambda gate: (gate * gate, False),
    "square of a view": lambda gate: (gate.view(-1) * gate.view(-1), False),
    "silu": lambda gate: (torch.nn.functional.silu(gate), False),
    "another gated unit": lambda gate: (fused_acts.geglu(gate, torch.ones_like(gate)), False),
}


@pytest.mark.parametrize("first", ["the other", "ours"])
@pytest.mark.parametrize("what", SAVERS)
def test_shared_with_another_operation(what, first):
    """Its gradients are right, or it raises; they are never those of a gate written over."""
    gate, up, grad_out = operands(7, 34, dtype=torch.float32)
    leaf, gate = computed(gate)
    other, saves_its_result = SAVERS[what](gate)
    (expected,) = torch.autograd.grad(other.sum(), leaf, retain_graph=True)
    ours = fused_acts.swiglu(gate, up, inplace_backward=True)
    if first == "the other":
        assert same_bits(torch.autograd.grad(other.sum(), leaf, retain_graph=True)[0], expected)
        return
    ours.backward(grad_out, retain_graph=True)
    if saves_its_result:
        assert same_bits(torch.autograd.grad(other.sum(), leaf)[0], expected)
    else:
        with pytest.raises(RuntimeError, match=MODIFIED):
            torch.autograd.grad(other.sum(), leaf)


@pytest.mark.parametrize("order", [1, -1])
def test_shared_within_one_graph(order):
    """The engine runs the later operation first: then ours finds gate unchanged, or it raises."""
    gate, up, _ = operands(7, 34, dtype=torch.float32)

    def gradient(inplace):
        leaf, shared = computed(gate)
        parts = [
            lambda: fused_acts.swiglu(shared, up, inplace_backward=inplace),
            lambda: shared * shared,
        ]
        one, two = (part() for part in parts[::order])
        return torch.autograd.grad((one * two).sum(), leaf)[0]

    try:
        result = gradient(True)
    except RuntimeError as error:
        assert MODIFIED in str(error)
    else:
        assert same_bits(result, gradient(False))


def test_one_tensor_in_two_calls():
    gate, up, grad_out = operands(7, 34, dtype=torch.float32)
    leaf, gate = computed(gate)
    outs = [fused_acts.swiglu(gate, up + i, inplace_backward=True) for i in (0, 1)]
    with pytest.raises(RuntimeError, match=MODIFIED):
        torch.autograd.grad(outs, leaf, [grad_out, grad_out])


def test_two_halves_of_one_tensor_in_two_calls():
    """Written one after the other; as they share a version, that is refused."""
    x = operands(7, 68, dtype=torch.float32)[0]
    _, x = computed(x)
    a, b, c, d = x.chunk(4, -1)
    out = fused_acts.swiglu(a, b, inplace_backward=True) * fused_acts.swiglu(
        c, d, inplace_backward=True
    )
    with pytest.raises(RuntimeError, match="has been modified inplace"):
        out.sum().backward()


def test_an_operand_changed_before_the_backward():
    gate, up, grad_out = operands(7, 34, dtype=torch.float32)
    _, gate = computed(gate)
    out = fused_acts.swiglu(gate, up, inplace_backward=True)
    up.add_(1.0)
    with pytest.raises(RuntimeError, match=MODIFIED):
        out.backward(grad_out)


@pytest.mark.parametrize("which", ["one row for all", "windows", "columns first"])
def test_what_cannot_be_written_in_place(which):
    _, whole = computed(torch.randn(7 * 34 + 300))
    gate = {
        "one row for all": lambda: whole[:34].expand(7, 34),
        "windows": lambda: whole.as_strided((7, 34), (3, 1)),
        "columns first": lambda: whole[: 7 * 34].view(34, 7).T,
    }[which]()
    kept = whole.detach().clone()
    out = fused_acts.swiglu(gate, torch.ones(7, 34), inplace_backward=True)
    with pytest.raises(ValueError, match="expected .*rows"):
        out.sum().backward()
    assert same_bits(whole.detach(), kept)
