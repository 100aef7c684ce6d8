"""A weight for each row: values, its gradient from the same pass, and derivatives of any order."""

import pytest
import torch
from cases import (
    DEVICES,
    DTYPES,
    KINDS,
    ROWS,
    VARIANTS,
    operands,
    pack,
    random,
    rows_and_layouts,
    same_bits,
    to_device,
    widths,
)
from option_cases import (
    LIMITED,
    PARAMETRIC,
    biases,
    check_everything,
    fused,
    parameter,
    real,
)
from tolerances import CLOSE, WIDE_ROW_WEIGHT_LOST
from torch._dynamo.testing import CompileCounterWithBackend

import fused_acts
from fused_acts import reference


def weights(*rows: int, dtype: torch.dtype) -> torch.Tensor:
    return random(*rows, dtype=dtype, seed=11)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, layout", rows_and_layouts())
def test_against_the_oracle(name, layout, dtype, device):
    """Alone in float32 and in the dtype of the operands; with all else that a row may have."""
    for cols in widths(device):
        gate, up, grad_out = operands(3, 7, cols, dtype=dtype)
        own = weights(3, 7, dtype=real(dtype))
        check_everything(name, gate, up, {"weight": own}, grad_out, layout, device)
        options = {"weight": own.to(dtype)} | biases(name, cols, dtype)
        if name in PARAMETRIC:
            options |= parameter(name, random(cols, dtype=dtype, seed=5).abs() + 0.5)
        if name in LIMITED:
            options["limit"] = 1.25
        check_everything(name, gate, up, options, grad_out, layout, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows, cols", [(1, 1), (1, 4100), (300, 3), (5, 1024), (2, 1025)])
@pytest.mark.parametrize("name", KINDS)
def test_shapes(name, rows, cols, device):
    gate, up, grad_out = operands(rows, cols, dtype=torch.bfloat16)
    options = {"weight": weights(rows, dtype=torch.float32)}
    check_everything(name, gate, up, options, grad_out, device=device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", WIDE_ROW_WEIGHT_LOST)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gradient_of_wide_rows(variant, dtype, device):
    """Within a millionth of the sum of the sizes of what is added up."""
    gate, up, grad_out = operands(8, 4096, dtype=dtype)
    options = {"weight": weights(8, dtype=torch.float32)}
    grad = fused(variant, gate, up, options, grad_out, device=device).options["weight"]
    terms = reference.gated(gate.double(), up.double(), variant=variant) * grad_out.double()
    error = (grad.double() - terms.sum(-1)).abs() / terms.abs().sum(-1)
    assert error.max() <= WIDE_ROW_WEIGHT_LOST[dtype]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(0, 8), (3, 0), (0, 0)])
def test_nothing(shape, device):
    gate, up, grad_out = operands(*shape, dtype=torch.float32)
    options = {"weight": weights(shape[0], dtype=torch.float32)}
    called = fused("swiglu", gate, up, options, grad_out, device=device)
    assert called.out.shape == gate.shape
    assert (called.options["weight"] == 0).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_number_or_the_same_for_each_row(variant, device):
    gate, up, grad_out = operands(9, 70, dtype=torch.bfloat16)
    for number in (-0.75, 0.0):
        one = fused(variant, gate, up, {"weight": number}, grad_out, device=device)
        each = {"weight": torch.full((9,), number)}
        same = fused(variant, gate, up, each, grad_out, device=device)
        assert same_bits(one.out, same.out)
        assert all(map(same_bits, one.inputs, same.inputs))


@pytest.mark.parametrize("device", DEVICES)
def test_zero_infinite_and_nan(device):
    """A row's weight is a factor like any other, and touches no other row."""
    gate, up, grad_out = operands(6, 70, dtype=torch.float32)
    weight = torch.tensor([0.0, 1.0, torch.inf, torch.nan, -torch.inf, -0.0])
    called = fused("swiglu", gate, up, {"weight": weight}, grad_out, device=device)
    right = reference.gated(gate, up) * weight.unsqueeze(-1)
    assert torch.equal(called.out.isnan(), right.isnan())
    assert torch.equal(called.out.isinf(), right.isinf())
    assert (called.out[0] == 0).all() and (called.out[5] == 0).all()
    expected = fused("swiglu", gate, up, {"weight": torch.ones(6)}, grad_out, device=device)
    assert same_bits(called.options["weight"], expected.options["weight"])  # whatever its value


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("wanted", ["gate", "up", "weight"])
def test_only_the_gradients_that_are_needed(wanted, device):
    gate, up, grad_out = operands(9, 300, dtype=torch.bfloat16)
    tensors = {"gate": gate, "up": up, "weight": weights(9, dtype=torch.float32)}
    every = fused("geglu", gate, up, {"weight": tensors["weight"]}, grad_out, device=device)
    expected = dict(zip(("gate", "up"), every.inputs, strict=True)) | every.options
    tensors = {name: to_device(tensor, device) for name, tensor in tensors.items()}
    leaf = tensors[wanted].requires_grad_()
    out = fused_acts.geglu(**tensors)
    (grad,) = torch.autograd.grad(out, leaf, to_device(grad_out, device))
    assert same_bits(grad.cpu(), expected[wanted])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["separate", "gate_up", "interleaved"])
def test_out_and_in_place(layout, device):
    gate, up, grad_out = operands(9, 70, dtype=torch.bfloat16)
    options = {"weight": weights(9, dtype=torch.float32)}
    expected = fused("swiglu", gate, up, options, grad_out, layout, device)
    there = {name: to_device(value, device) for name, value in options.items()}
    out = to_device(torch.full_like(gate, torch.nan), device)
    inputs = (gate, up) if layout == "separate" else (pack(gate, up, layout),)
    kind = {} if layout == "separate" else {"layout": layout}
    fused_acts.swiglu(*(to_device(x, device) for x in inputs), out=out, **there, **kind)
    assert same_bits(out.cpu(), expected.out)

    leaves = [to_device(x, device).requires_grad_() for x in inputs]
    weight = there["weight"].clone().requires_grad_()
    moved = [leaf.view(leaf.shape).clone() for leaf in leaves]
    result = fused_acts.swiglu(*moved, weight=weight, inplace_backward=True, **kind)
    grads = torch.autograd.grad(result, [*leaves, weight], to_device(grad_out, device))
    assert same_bits(grads[-1].cpu(), expected.options["weight"])
    by_inputs = expected.inputs
    if layout != "separate":
        by_inputs = [pack(*by_inputs, layout)]
    assert all(same_bits(a.cpu(), b) for a, b in zip(grads[:-1], by_inputs, strict=True))


@pytest.mark.parametrize("name", ROWS)
def test_derivatives_of_any_order(name):
    """Against the oracle's own in float64: reverse over reverse, forward over reverse, forward."""
    gate, up, grad_out = operands(3, 4, dtype=torch.float64)
    weight = weights(3, dtype=torch.float64)
    inputs = (gate,) if name in fused_acts.activations() else (gate, up)

    def unit(module):
        def function(*tensors):
            *of_rows, w = tensors
            if len(of_rows) == 1:
                return module.activation(of_rows[0], name, weight=w)
            return module.gated(*of_rows, variant=name, weight=w)

        return function

    def values(function):
        def loss(*tensors):
            return (function(*tensors) * grad_out).sum()

        given = (*inputs, weight)
        every = tuple(range(len(given)))
        tangents = tuple(torch.ones_like(t) for t in given)
        yield torch.func.jvp(function, given, tangents)[1]
        yield from torch.func.jvp(torch.func.grad(loss, every), given, tangents)[1]
        hessian = torch.func.grad(lambda *t: sum(g.sum() for g in torch.func.grad(loss, every)(*t)))
        yield hessian(*given)
        stacked = tuple(torch.stack((t, 2 * t)) for t in given)
        yield torch.vmap(function)(*stacked)
        yield from torch.vmap(torch.func.grad(loss, every))(*stacked)
        yield torch.vmap(function, (*[0] * len(inputs), None))(*stacked[:-1], weight)

    for ours, right in zip(values(unit(fused_acts)), values(unit(reference)), strict=True):
        torch.testing.assert_close(ours, right, **CLOSE)


def test_compiled():
    """One graph for several numbers of rows; gradients too."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def function(x, w):
        return fused_acts.geglu_tanh(x, weight=w)

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=counter)
    for rows in (5, 9, 17):
        x = random(rows, 40, dtype=torch.bfloat16, seed=1).requires_grad_()
        w = weights(rows, dtype=torch.float32).requires_grad_()
        for out, right in ((compiled(x, w), function(x, w)),):
            assert same_bits(out, right)
            seed = torch.ones_like(out)
            ours, theirs = (torch.autograd.grad(o, (x, w), seed) for o in (out, right))
            assert all(map(same_bits, ours, theirs))
    assert counter.frame_count == 1


def test_recorded():
    """A program of torch.export has the weight's gradient too."""

    class Unit(torch.nn.Module):
        def forward(self, x, w):
            return fused_acts.swiglu(x, weight=w)

    x, w = random(5, 8, dtype=torch.float32, seed=1), weights(5, dtype=torch.float32)
    program = torch.export.export(Unit(), (x, w)).module()
    leaves = x.clone().requires_grad_(), w.clone().requires_grad_()
    out, right = program(*leaves), Unit()(*leaves)
    assert same_bits(out, right)
    ours, theirs = (torch.autograd.grad(o, leaves, torch.ones_like(o)) for o in (out, right))
    assert all(map(same_bits, ours, theirs))
    batched = torch.vmap(lambda a, b: torch.ops.fused_acts.gated(a, None, *_plain(), b))
    stacked = torch.stack((x, 2 * x)), torch.stack((w, 3 * w))
    for ours, a, b in zip(batched(*stacked), *stacked, strict=True):
        assert same_bits(ours, fused_acts.swiglu(a, weight=b))


def _plain():
    index = list(fused_acts.variants()).index("swiglu")
    return None, None, None, 1.0, 1.0, None, 1.0, index, 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_eager_rounding(variant, dtype):
    """Bit for bit what torch's operations give, one after the other."""
    gate, up, _ = operands(5, 33, dtype=dtype)
    for own in {dtype, torch.float32}:
        weight = weights(5, dtype=own)
        out = fused_acts.gated(gate, up, variant=variant, weight=weight, rounding="eager")
        before = fused_acts.gated(gate, up, variant=variant, rounding="eager")
        assert same_bits(out, (before * weight.unsqueeze(-1)).to(dtype))


@pytest.mark.parametrize("device", DEVICES)
def test_strides_and_another_dimension(device):
    x = to_device(random(4, 10, 6, dtype=torch.float32, seed=2), device)
    weight = to_device(weights(6, 4, dtype=torch.float32), device)
    out = fused_acts.swiglu(x, dim=1, weight=weight.t())
    right = fused_acts.swiglu(x.movedim(1, -1).contiguous(), weight=weight.t().contiguous())
    assert same_bits(out.cpu(), right.movedim(-1, 1).cpu())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "weight, error, message",
    [
        (torch.ones(4), ValueError, "weight: expected a number or a value for each row"),
        (torch.ones(3, 8), ValueError, "weight: expected a number or a value for each row"),
        (torch.ones(()), ValueError, "weight: expected a number or a value for each row"),
        (torch.ones(3, dtype=torch.float64), TypeError, "weight: expected"),
        (torch.ones(3, dtype=torch.int32), TypeError, "weight: expected"),
        ([1.0, 2.0, 3.0], TypeError, "weight: expected a number, got list"),
    ],
)
def test_refusals(weight, error, message, device):
    gate, up, _ = operands(3, 8, dtype=torch.float32)
    if isinstance(weight, torch.Tensor):
        weight = to_device(weight, device)
    for function in (fused_acts.swiglu, fused_acts.gated):
        with pytest.raises(error, match=message):
            function(to_device(gate, device), to_device(up, device), weight=weight)
    with pytest.raises(error, match=message):
        fused_acts.gelu(to_device(gate, device), weight=weight)


def test_a_number_and_one_for_each_row():
    """An operator takes one of them, whose gradient would be by a product."""
    gate, up, _ = operands(5, 8, dtype=torch.float32)
    *options, _, index, layout = _plain()
    with pytest.raises(ValueError, match="weight: expected a number or one for each row"):
        torch.ops.fused_acts.gated(gate, up, *options, 0.5, index, layout, torch.ones(5))


def test_out_over_the_weight():
    gate, up, _ = operands(8, 8, dtype=torch.float32)
    memory = torch.zeros(8, 8)
    with pytest.raises(ValueError, match="weight: expected none of the memory"):
        fused_acts.swiglu(gate, up, weight=memory[0], out=memory)
