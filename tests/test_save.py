"""save="fp8_block128": the same result, and the gradients of what is kept of gate and up."""

import pytest
import torch
from cases import ACTIVATIONS, VARIANTS, operands, random, same_bits
from expert_row_cases import DESCRIPTORS, own_values, poisoned
from ffn_cases import Calls
from option_cases import biases
from save_cases import DTYPES, SAVE, Exchanged, kept_by, packed_stands_for, stands_for
from torch import Tensor

import fused_acts
from fused_acts import _ops
from fused_acts.nn import Activation, GatedActivation, GatedLinear

ROWS, COLS = 3, 264  # groups of 128 and 8 columns
LAYOUTS = [("gate_up", 1), ("up_gate", 1), ("interleaved", 1), ("interleaved", 4)]


def pair(*shape: int, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """gate, up and grad_out, with columns of all sizes."""
    gate, up, grad_out = operands(*shape, dtype=dtype)
    sizes = random(shape[-1], dtype=dtype, seed=9, scale=2.0).exp()
    return [gate * sizes, up * sizes.flip(0), grad_out]


def gradients(function, tensors, options, grad_out) -> list[Tensor]:
    """[out, gradient by each of the tensors, and by each option that is one of numbers]"""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    learned = {
        name: value.detach().requires_grad_()
        for name, value in options.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    out = function(*leaves, **options | learned)
    return [out.detach(), *torch.autograd.grad(out, [*leaves, *learned.values()], grad_out)]


def check(function, tensors, options, grad_out, exchange=stands_for) -> None:
    """The bits of a backward pass that finds what is kept in the place of gate and up."""
    with Exchanged(tensors[0].shape, len(tensors), exchange):
        expected = gradients(function, tensors, options, grad_out)
    actual = gradients(function, tensors, options | SAVE, grad_out)
    for a, e in zip(actual, expected, strict=True):
        assert same_bits(a, e)


@pytest.mark.parametrize("name", [*VARIANTS, *ACTIVATIONS])
def test_every_unit(name):
    gate, up, grad_out = pair(ROWS, COLS)
    tensors = (gate, up) if name in VARIANTS else (gate,)
    check(getattr(fused_acts, name), tensors, biases(name, COLS, gate.dtype), grad_out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("layout", "block"), LAYOUTS)
def test_packed(layout, block, dtype):
    gate, up, grad_out = pair(2, ROWS, COLS, dtype=dtype)
    x = torch.cat((gate, up), -1)
    options = {"layout": layout, "block": block, "beta": random(COLS, dtype=dtype, seed=5)}
    for each in (x, torch.cat((x, x), -1)[..., : 2 * COLS]):
        check(fused_acts.swiglu, (each,), options, grad_out, packed_stands_for(layout, block))


def test_what_is_kept_matters():
    gate, up, grad_out = pair(ROWS, COLS)
    exact = gradients(fused_acts.swiglu, (gate, up), {}, grad_out)
    kept = gradients(fused_acts.swiglu, (gate, up), SAVE, grad_out)
    assert same_bits(kept[0], exact[0])
    assert not any(map(same_bits, kept[1:], exact[1:]))


@pytest.mark.parametrize("rows", DESCRIPTORS.values(), ids=DESCRIPTORS.keys())
def test_rows_of_experts(rows):
    """Padding may be NaN, and has no gradient."""
    gate, up, grad_out = (poisoned(t, rows) for t in pair(*rows.shape, 136, dtype=torch.bfloat16))
    weight = poisoned(random(*rows.shape, dtype=torch.float32, seed=6), rows)
    options = rows.options | own_values("swiglu", 136, gate.dtype) | {"weight": weight}
    options["padding"] = "zero"
    check(fused_acts.swiglu, (gate, up), options, grad_out)
    x = torch.stack((gate, up), -1).flatten(-2)
    options["layout"] = "interleaved"
    check(fused_acts.swiglu, (x,), options, grad_out, packed_stands_for("interleaved"))
    by_x, *_ = gradients(fused_acts.swiglu, (x,), options | SAVE, grad_out)[1:]
    assert not by_x[rows.owner < 0].any()


def test_other_dimensions():
    gate, up, grad_out = pair(2, 4, COLS)
    x = torch.cat((gate, up), 1)  # what is flattened from there on is a row

    def exchange(x: Tensor) -> Tensor:
        return packed_stands_for("gate_up")(x.flatten(1)).view_as(x)

    leaf = x.requires_grad_()
    out = fused_acts.swiglu(leaf, dim=1, **SAVE)
    (actual,) = torch.autograd.grad(out, leaf, grad_out)
    other = exchange(x.detach()).requires_grad_()
    (expected,) = torch.autograd.grad(fused_acts.swiglu(other, dim=1), other, grad_out)
    assert same_bits(actual, expected)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (5,), (2, 1, 130)], ids=str)
def test_shapes(shape):
    gate, up, grad_out = pair(*shape)
    check(fused_acts.geglu, (gate, up), {}, grad_out)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_kept(dtype):
    gate, up, _ = (tensor.requires_grad_() for tensor in pair(ROWS, 256, dtype=dtype))
    for inputs in ((gate, up), (torch.cat((gate, up), -1),)):
        _, kept = kept_by(lambda inputs=inputs: fused_acts.swiglu(*inputs, **SAVE))
        assert kept == {torch.float8_e4m3fn: 2 * ROWS * 256, torch.float32: 2 * ROWS * 2 * 4}


def test_nothing_is_quantised_where_nothing_is_kept(monkeypatch):
    monkeypatch.delattr(_ops.direct, "quantize_blocks")
    gate, up, _ = pair(ROWS, COLS)
    fused_acts.swiglu(gate, up, **SAVE)
    with torch.no_grad():
        fused_acts.swiglu(gate.requires_grad_(), up, **SAVE)
        fused_acts.swiglu(gate, up, out=torch.empty_like(gate), **SAVE)
        with Calls() as calls:
            fused_acts.swiglu(gate, up, **SAVE)
    assert calls.names == ["glu_forward"]


def test_a_graph_runs_backward_again():
    gate, up, grad_out = pair(ROWS, COLS)
    leaves = gate.requires_grad_(), up.requires_grad_()
    out = fused_acts.swiglu(*leaves, **SAVE)
    first = torch.autograd.grad(out, leaves, grad_out, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(out, leaves, grad_out), strict=True):
        assert same_bits(a, b)


def test_a_gradient_that_nobody_needs():
    gate, up, grad_out = pair(ROWS, COLS)
    whole = gradients(fused_acts.swiglu, (gate, up), SAVE, grad_out)
    out = fused_acts.swiglu(gate, up.requires_grad_(), **SAVE)
    (by_up,) = torch.autograd.grad(out, up, grad_out)
    assert same_bits(by_up, whole[2])


def test_nested():
    gate, up, grad_out = pair(5, COLS)
    whole = gradients(fused_acts.swiglu, (gate, up), SAVE, grad_out)
    offsets = torch.tensor([0, 2, 5])
    leaves = gate.requires_grad_(), up.requires_grad_()
    nested = [torch.nested.nested_tensor_from_jagged(leaf, offsets) for leaf in leaves]
    out = fused_acts.swiglu(*nested, **SAVE).values()
    for a, e in zip(torch.autograd.grad(out, leaves, grad_out), whole[1:], strict=True):
        assert same_bits(a, e)


def test_autocast():
    """gate and up are kept as they are promoted."""
    gate, up, grad_out = pair(ROWS, COLS)
    whole = gradients(fused_acts.swiglu, (gate.float(), up.float()), SAVE, grad_out.float())
    leaves = gate.requires_grad_(), up.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = fused_acts.swiglu(*leaves, **SAVE)
    by_gate, by_up = torch.autograd.grad(out, leaves, grad_out.float())
    assert same_bits(by_gate, whole[1].bfloat16()) and same_bits(by_up, whole[2])


def test_modules():
    gate, up, grad_out = pair(ROWS, COLS)
    by_function = gradients(fused_acts.swiglu, (gate, up), SAVE | {"beta": 2.0}, grad_out)
    unit = GatedActivation("swiglu", beta=2.0, **SAVE)
    for a, e in zip(gradients(unit, (gate, up), {}, grad_out), by_function, strict=True):
        assert same_bits(a, e)
    by_function = gradients(fused_acts.mish, (gate,), SAVE, grad_out)
    actual = gradients(Activation("mish", **SAVE), (gate,), {}, grad_out)
    for a, e in zip(actual, by_function, strict=True):
        assert same_bits(a, e)
    torch.manual_seed(0)
    linear = GatedLinear(24, 128, "geglu", dtype=torch.bfloat16, **SAVE)
    exact = GatedLinear(24, 128, "geglu", dtype=torch.bfloat16)
    exact.load_state_dict(linear.state_dict())
    assert all("save='fp8_block128'" in repr(module) for module in (unit, linear))
    x = random(ROWS, 24, dtype=torch.bfloat16, seed=1).requires_grad_()
    with Exchanged((ROWS, 256), 1, packed_stands_for("gate_up")):
        expected = exact(x)
    wanted = [(x, *module.parameters()) for module in (linear, exact)]
    actual = torch.autograd.grad(linear(x), wanted[0], grad_out[:, :128])
    expected = torch.autograd.grad(expected, wanted[1], grad_out[:, :128])
    for a, e in zip(actual, expected, strict=True):
        assert same_bits(a, e)
