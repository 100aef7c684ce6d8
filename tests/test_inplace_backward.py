"""inplace_backward: the same gradients in the memory of gate and up, or an error in good time."""

import pytest
import torch
from cases import (
    DEVICES,
    DTYPES,
    LAYOUTS,
    PACKED,
    VARIANTS,
    as_inputs,
    operands,
    rows_and_layouts,
    same_bits,
    to_device,
)
from derivative_cases import computed
from option_cases import LIMITED, PARAMETRIC, parameter

import fused_acts


def option_sets(variant, cols):
    yield {}
    row = torch.linspace(-1.0, 1.0, cols)
    yield {"gate_bias": row, "up_bias": row.flip(0)}
    if variant in LIMITED:
        yield {"limit": 1.5}
    if variant in PARAMETRIC:
        yield parameter(variant, row + 0.3)
        yield parameter(variant, 0.4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant, layout", rows_and_layouts(VARIANTS))
def test_the_same_gradients(variant, layout, dtype, device):
    """To the last bit, those by biases and parameters too, and in the memory of the operands."""
    gate, up, grad_out = operands(7, 34, dtype=dtype)
    others = {} if layout == "separate" else {"layout": layout}
    real = torch.promote_types(dtype, torch.float32)
    for options in option_sets(variant, 34):
        results = []
        for inplace in (False, True):
            rows = {
                name: to_device(value.to(real), device).requires_grad_()
                for name, value in options.items()
                if isinstance(value, torch.Tensor)
            }
            pairs = [computed(tensor, device) for tensor in as_inputs(gate, up, layout)]
            inputs = [tensor for _, tensor in pairs]
            versions = [tensor._version for tensor in inputs]
            out = fused_acts.gated(
                *inputs,
                variant=variant,
                inplace_backward=inplace,
                **(options | rows),
                **others,
            )
            grads = torch.autograd.grad(out, [*inputs, *rows.values()], to_device(grad_out, device))
            results.append([grad.cpu() for grad in (out.detach(), *grads)])
            for tensor, grad, version in zip(inputs, grads, versions, strict=False):
                assert (grad.data_ptr() == tensor.data_ptr()) == inplace
                assert (tensor._version > version) == inplace
                assert same_bits(tensor.detach(), grad) == inplace
        assert all(map(same_bits, *results))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_allocates_nothing_for_the_gradients(layout):
    gate, up, grad_out = operands(64, 128, dtype=torch.bfloat16)
    others = {} if layout == "separate" else {"layout": layout}
    inputs = [computed(tensor)[1] for tensor in as_inputs(gate, up, layout)]
    out = fused_acts.swiglu(*inputs, inplace_backward=True, **others)
    with torch.profiler.profile(profile_memory=True) as profiler:
        torch.autograd.grad(out, inputs, grad_out)
    allocated = [
        event.nbytes()
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]" and event.nbytes() > 0
    ]
    assert sum(allocated) < gate.nbytes // 8


def test_through_a_block():
    """As a feed-forward block uses it: gate and up from one projection."""
    torch.manual_seed(0)
    into, back = torch.nn.Linear(16, 64), torch.nn.Linear(32, 16)
    x = torch.randn(5, 3, 16)

    def gradients(split, **options):
        leaf = x.clone().requires_grad_()
        hidden = into(leaf)
        inputs = hidden.chunk(2, -1) if split else (hidden,)
        out = back(fused_acts.swiglu(*inputs, **options))
        return torch.autograd.grad(out.sin().sum(), (leaf, *into.parameters(), *back.parameters()))

    for split in (False, True):
        expected, result = gradients(split), gradients(split, inplace_backward=True)
        assert all(map(same_bits, result, expected))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wanted", [0, 1])
def test_the_operand_without_gradient_is_left_alone(wanted, dtype, device):
    gate, up, grad_out = operands(7, 34, dtype=dtype)
    for variant in VARIANTS:
        inputs = [to_device(gate, device), to_device(up, device)]
        inputs[wanted] = computed(inputs[wanted], device)[1]
        kept = inputs[1 - wanted].clone()
        (expected,) = torch.autograd.grad(
            fused_acts.gated(*inputs, variant=variant), inputs[wanted], to_device(grad_out, device)
        )
        out = fused_acts.gated(*inputs, variant=variant, inplace_backward=True)
        (grad,) = torch.autograd.grad(out, inputs[wanted], to_device(grad_out, device))
        assert same_bits(grad, expected) and grad.data_ptr() == inputs[wanted].data_ptr()
        assert same_bits(inputs[1 - wanted], kept) and inputs[1 - wanted]._version == 0


@pytest.mark.parametrize("layout", ["separate", "interleaved"])
def test_gradients_by_a_bias_alone_write_over_nothing(layout):
    gate, up, grad_out = operands(7, 34, dtype=torch.float32)
    others = {} if layout == "separate" else {"layout": layout}
    inputs = as_inputs(gate, up, layout)
    kept = [tensor.clone() for tensor in inputs]
    bias = torch.zeros(34, requires_grad=True)
    grads = [
        torch.autograd.grad(
            fused_acts.swiglu(*inputs, gate_bias=bias, inplace_backward=inplace, **others),
            bias,
            grad_out,
        )[0]
        for inplace in (False, True)
    ]
    assert same_bits(*grads) and all(map(same_bits, inputs, kept))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", PACKED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_strided(dtype, layout, device):
    """Rows apart from each other are written where they lie, and nothing between them."""
    gate, up, grad_out = operands(7, 34, dtype=dtype)
    inputs = (gate, up) if layout == "up_gate" else as_inputs(gate, up, layout)
    others = {} if layout == "up_gate" else {"layout": layout}
    leaves = [to_device(torch.nn.functional.pad(t, (3, 2)), device) for t in inputs]
    pairs = [computed(leaf, device) for leaf in leaves]
    views = [tensor[:, 3:-2] for _, tensor in pairs]
    expected = torch.autograd.grad(
        fused_acts.swiglu(*views, **others), views, to_device(grad_out, device)
    )
    out = fused_acts.swiglu(*views, inplace_backward=True, **others)
    grads = torch.autograd.grad(out, views, to_device(grad_out, device))
    for (_, whole), view, grad, right in zip(pairs, views, grads, expected, strict=True):
        assert same_bits(grad, right) and grad.data_ptr() == view.data_ptr()
        assert not whole[:, :3].any() and not whole[:, -2:].any()


def test_expanded_grad_out_and_empty_tensors():
    gate, up, _ = operands(7, 34, dtype=torch.float32)
    for rows in (7, 0):
        results = []
        for inplace in (False, True):
            pairs = [computed(tensor[:rows]) for tensor in (gate, up)]
            out = fused_acts.swiglu(*(t for _, t in pairs), inplace_backward=inplace)
            out.sum().backward()
            results.append([leaf.grad for leaf, _ in pairs])
        assert all(map(same_bits, *results))


def test_saved_tensor_hooks():
    """What the hooks give back is written over, not what they were given."""
    gate, up, grad_out = operands(7, 34, dtype=torch.float32)
    leaf, gate = computed(gate)
    kept = gate.detach().clone()
    (expected,) = torch.autograd.grad(
        fused_acts.swiglu(gate, up), leaf, grad_out, retain_graph=True
    )
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        out = fused_acts.swiglu(gate, up, inplace_backward=True)
    (grad,) = torch.autograd.grad(out, leaf, grad_out)
    assert same_bits(grad, expected) and same_bits(gate.detach(), kept)


def test_checkpoint():
    gate, up, grad_out = operands(7, 34, dtype=torch.float32)
    leaves = [tensor.requires_grad_() for tensor in (gate, up)]

    def block(gate, up, inplace=True):
        return fused_acts.swiglu(gate * 2.0, up * 2.0, inplace_backward=inplace)

    expected = torch.autograd.grad(block(*leaves, inplace=False), leaves, grad_out)
    out = torch.utils.checkpoint.checkpoint(block, *leaves, use_reentrant=False)
    assert all(map(same_bits, torch.autograd.grad(out, leaves, grad_out), expected))


def test_forward_mode_is_as_without():
    gate, up, _ = operands(7, 34, dtype=torch.float64)

    def along(**options):
        return torch.func.jvp(
            lambda gate: fused_acts.swiglu(gate, up, **options), (gate,), (gate.cos(),)
        )

    assert all(map(same_bits, along(inplace_backward=True), along()))


def test_ignored_under_compile():
    torch._dynamo.reset()
    gate, up, grad_out = operands(7, 34, dtype=torch.float32)
    leaves = [tensor.requires_grad_() for tensor in (gate, up)]

    def block(gate, up):
        return fused_acts.swiglu(gate * 2.0, up * 2.0, inplace_backward=True).sin()

    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    expected, result = (
        torch.autograd.grad(function(*leaves), leaves, grad_out) for function in (block, compiled)
    )
    assert all(map(same_bits, expected, result))
