"""Operands without memory, at odd addresses or over each other: an error, or as torch."""

import re

import pytest
import torch
from cases import DEVICES, PACKED, as_inputs, operands, same_bits
from derivative_cases import computed

import fused_acts

OPS = torch.ops.fused_acts
ROWS, COLS = 5, 24
INF = float("inf")
SWIGLU = fused_acts.variants().index("swiglu")
ALONE = len(fused_acts.variants())


def freed(like):
    tensor = like.detach().clone()
    tensor.untyped_storage().resize_(0)
    return tensor


def operator_calls(device):
    """{operator and form: (arguments, names of the tensors among them by position)}"""
    gate, up, grad = (t.to(device) for t in operands(ROWS, COLS, dtype=torch.float32))
    row = gate[0].clone()
    winner = torch.zeros(ROWS, COLS, dtype=torch.uint8, device=device)
    stats = torch.ones(ROWS, 2, device=device)
    rows = (row, row, row, 1.0, 1.0, INF, 1.0, SWIGLU, 0)
    alone = (row, None, row, 1.0, 1.0, INF, 1.0, ALONE, 0)
    vectors = ("gate_bias", "up_bias", "parameter")
    return {
        "glu_forward": ((gate, up, SWIGLU, 0), ("gate", "up")),
        "glu_forward, packed": ((gate, None, SWIGLU, 0), ("x",)),
        "glu_forward_options": ((gate, up, *rows), ("gate", "up", *vectors)),
        "glu_forward_options, alone": (
            (gate, None, *alone),
            ("x", None, "bias", None, "parameter"),
        ),
        "glu_forward_out": (
            (gate, up, SWIGLU, 0, torch.zeros_like(gate), *rows[:5]),
            ("gate", "up", None, None, "out", *vectors),
        ),
        "glu_backward": ((grad, gate, up, SWIGLU, 0, 3), ("grad_out", "gate", "up")),
        "glu_backward_options": ((grad, gate, up, *rows, 31), ("grad_out", "gate", "up", *vectors)),
        "glu_backward_inplace": (
            (grad, gate, up, *rows, 31, True),
            ("grad_out", "gate", "up", *vectors),
        ),
        "glu_double_backward": (
            (grad, gate, up, grad, up, *rows, True, True),
            ("grad_out", "gate", "up", "gate_tangent", "up_tangent", *vectors),
        ),
        "maxout_forward": ((gate, 2), ("x",)),
        "maxout_backward": ((grad, winner, 2), ("grad_out", "winner")),
        "softmax_glu_forward": ((gate, up), ("gate", "up")),
        "softmax_glu_backward": (
            (grad, gate, up, stats, True, True),
            ("grad_out", "gate", "up", "stats"),
        ),
        "row_unit_forward": ((gate, up, row, None, 0, 1e-6, 1), ("x", "z", "weight")),
        "row_unit_forward, polynorm": (
            (gate, up, row[:3], row[:1], 4, 1e-6, 1),
            ("gate", "up", "coefficients", "bias"),
        ),
        "row_unit_backward": (
            (grad, gate, up, row, None, stats[:, :1], 0, 1e-6, 1, 7),
            ("grad_out", "x", "z", "weight", None, "stats"),
        ),
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("which", operator_calls("cpu"))
def test_freed_storage_is_named(which, device):
    arguments, names = operator_calls(device)[which]
    operator = getattr(OPS, which.split(",")[0])
    for i, name in enumerate(names):
        if name is None:
            continue
        given = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]
        before = [a.clone() if isinstance(a, torch.Tensor) else a for a in given]
        given[i] = freed(given[i])
        with pytest.raises(RuntimeError, match=f"^{name}: .*not allocated"):
            operator(*given)
        for j, (now, then) in enumerate(zip(given, before, strict=True)):
            assert i == j or not isinstance(then, torch.Tensor) or torch.equal(now, then)


def test_freed_storage_of_nothing_is_nothing():
    empty = freed(torch.ones(0, COLS))
    assert fused_acts.swiglu(empty, empty).shape == empty.shape
    assert fused_acts.gelu(empty, torch.ones(COLS)).shape == empty.shape


def test_options_go_by_their_names():
    x, row = torch.ones(ROWS, COLS), torch.ones(COLS)
    for call, name in (
        (lambda t: fused_acts.gelu(x, t), "bias"),
        (lambda t: fused_acts.swish(x, beta=t), "beta"),
        (lambda t: fused_acts.leaky_relu(x, negative_slope=t), "negative_slope"),
        (lambda t: fused_acts.swiglu(x, x, beta=t), "beta"),
        (lambda t: fused_acts.swiglu(x, x, gate_bias=t), "gate_bias"),
        (lambda t: fused_acts.swiglu(torch.ones(ROWS, COLS // 2 * 2), bias=t), "bias"),
    ):
        with pytest.raises(RuntimeError, match=f"^{name}: .*not allocated"):
            call(freed(row))


def test_freed_between_forward_and_backward():
    for inplace in (False, True):
        _, gate = computed(torch.ones(ROWS, COLS))
        out = fused_acts.swiglu(gate, torch.ones(ROWS, COLS), inplace_backward=inplace)
        gate.untyped_storage().resize_(0)
        with pytest.raises(RuntimeError, match="^gate: .*not allocated"):
            out.sum().backward()


@pytest.mark.parametrize("grad", [True, False])
def test_freed_biases_of_modules(grad):
    nn = fused_acts.nn
    for module, owner, name in (
        (nn.GatedFFN(8, 16, bias=True), "gate_up_proj.", "bias"),
        (nn.GatedFFN(8, 16, bias=True, packed=False), "gate_proj.", "gate_bias"),
        (nn.GatedFFN(8, 16, bias=True, packed=False), "up_proj.", "up_bias"),
        (nn.GatedLinear(8, 16), "", "bias"),
        (nn.GatedLinear(8, 16, layout="interleaved"), "", "bias"),
        (nn.Activation("swish", bias=True, num_channels=8), "", "bias"),
    ):
        module.get_parameter(f"{owner}bias").untyped_storage().resize_(0)
        with torch.set_grad_enabled(grad), pytest.raises(RuntimeError) as raised:
            module(torch.ones(3, 8))
        assert re.match(f"{name}: .*not allocated", str(raised.value)), raised.value


def misaligned(tensor, by=1):
    """The same values at an address that is no multiple of the size of an element."""
    size = tensor.numel() * tensor.element_size()
    buffer = bytearray(size + 64)
    view = torch.frombuffer(buffer, dtype=tensor.dtype, count=tensor.numel(), offset=by)
    assert view.data_ptr() % tensor.element_size()
    return view.view(tensor.shape).copy_(tensor)


# the larger one streams past the caches
@pytest.mark.parametrize("shape", [(3, 40), (520, 1 << 13)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_any_address(dtype, shape):
    gate, up, _ = operands(*shape, dtype=dtype)
    bias = torch.linspace(-1.0, 1.0, shape[1]).to(dtype)
    for function, inputs, options in (
        (fused_acts.swiglu, (gate, up), {}),
        (fused_acts.swiglu, (gate, up), {"gate_bias": bias, "beta": bias}),
        (fused_acts.swiglu, (gate,), {"layout": "interleaved"}),
        (fused_acts.gelu, (gate,), {}),
        (fused_acts.gelu, (gate, bias), {}),
    ):
        expected = function(*inputs, **options)
        out = misaligned(torch.zeros_like(expected))
        assert same_bits(function(*inputs, **options, out=out), expected) and out.data_ptr() % 2
        moved = {n: misaligned(t) if n != "layout" else t for n, t in options.items()}
        odd = [misaligned(t) for t in inputs]
        assert same_bits(function(*odd, **moved), expected)
        assert same_bits(function(*odd, **moved, out=out.zero_()), expected)
        if expected.shape == odd[0].shape:
            assert same_bits(function(*odd, **moved, out=odd[0]), expected)
    x, grad = misaligned(gate).requires_grad_(), misaligned(up)
    actual = torch.autograd.grad(fused_acts.gelu(x), x, grad)[0]
    x = gate.clone().requires_grad_()
    assert same_bits(actual, torch.autograd.grad(fused_acts.gelu(x), x, up)[0])
    if shape[0] < 10:
        assert same_bits(fused_acts.maxout(misaligned(gate), 2), fused_acts.maxout(gate, 2))
        odd = fused_acts.softmax_glu(misaligned(gate), misaligned(up))
        assert same_bits(odd, fused_acts.softmax_glu(gate, up))
        odd = fused_acts.rms_norm_gated(misaligned(gate), misaligned(up), misaligned(gate[0]))
        assert same_bits(odd, fused_acts.rms_norm_gated(gate, up, gate[0]))


@pytest.mark.parametrize("shape", [(3, 40), (520, 1 << 13)])
@pytest.mark.parametrize("which", [(True, False), (False, True), (True, True)])
def test_any_address_in_place(which, shape):
    gate, up, grad = operands(*shape, dtype=torch.float32)
    numbers = (None, None, None, 1.0, 1.0, INF, 1.0, SWIGLU, 0)
    expected = OPS.glu_backward(grad, gate, up, SWIGLU, 0, 3)
    pair = [misaligned(t) if odd else t.clone() for t, odd in zip((gate, up), which, strict=True)]
    for product in (False, True):
        given = [pair[0].clone(), pair[1].clone()]
        given = [misaligned(t) if odd else t for t, odd in zip(given, which, strict=True)]
        seed = misaligned(grad)
        OPS.glu_backward_inplace(seed, *given, *numbers, 3, product)
        assert same_bits(given[0], expected[0]) and same_bits(given[1], expected[1])
        assert same_bits(seed, OPS.glu_forward(gate, up, SWIGLU, 0) if product else grad)
    whole = misaligned(gate)
    with pytest.raises(ValueError, match="common memory"):
        OPS.glu_backward_inplace(grad, whole, whole.view_as(whole), *numbers, 3, False)


def packed_rows(stride, layout):
    torch.manual_seed(0)
    leaf = torch.randn(60, requires_grad=True)
    return leaf, (leaf * 1).as_strided((3, 8), (stride, 1))


@pytest.mark.parametrize("layout", PACKED)
def test_rows_of_a_packed_x_that_overlap(layout):
    for stride in (1, 3, 4, 5, 7):
        _, x = packed_rows(stride, layout)
        before = x.detach().clone()
        out = fused_acts.swiglu(x, layout=layout, inplace_backward=True)
        for _ in range(2):  # the refusal is no claim
            with pytest.raises(ValueError, match=f"^x: expected rows of 8 .* {stride}"):
                out.sum().backward(retain_graph=True)
        assert same_bits(x.detach(), before)
        numbers = (None, None, None, 1.0, 1.0, INF, 1.0, SWIGLU, PACKED.index(layout))
        with pytest.raises(ValueError, match="^x: expected rows of 8"):
            OPS.glu_backward_inplace(torch.ones(3, 4), x.detach(), None, *numbers, 1, True)
    for stride in (8, 9):
        leaf, x = packed_rows(stride, layout)
        out = fused_acts.swiglu(x, layout=layout, inplace_backward=True)
        (written,) = torch.autograd.grad(out.sum(), leaf)
        leaf, x = packed_rows(stride, layout)
        (expected,) = torch.autograd.grad(fused_acts.swiglu(x, layout=layout).sum(), leaf)
        assert same_bits(written, expected)


@pytest.mark.parametrize("layout", PACKED)
def test_a_row_vector_in_what_is_written(layout):
    """Also in the columns behind those of gate."""
    x = torch.randn(3, 16)
    numbers = (1.0, 1.0, INF, 1.0, SWIGLU, PACKED.index(layout), 1, False)
    for first in (0, 4, 8):
        row = x[1, first : first + 8]
        for i, name in enumerate(("gate_bias", "up_bias", "parameter")):
            vectors = [None] * i + [row] + [None] * (2 - i)
            with pytest.raises(ValueError, match=f"^{name}: .*written"):
                OPS.glu_backward_inplace(torch.ones(3, 8), x, None, *vectors, *numbers)


def test_views_of_gate_and_up_that_overlap():
    leaf = torch.randn(64, requires_grad=True)
    for stride, distance in ((8, 3), (6, 4), (5, 2), (3, 8)):
        whole = leaf * 1
        gate = whole.as_strided((3, 4), (stride, 1))
        up = whole.as_strided((3, 4), (stride, 1), distance)
        out = fused_acts.swiglu(gate, up, inplace_backward=True)
        with pytest.raises(ValueError, match="common memory|^gate: expected rows"):
            out.sum().backward()


def test_a_refused_pass_can_be_mended():
    leaf, gate = computed(torch.randn(4, 6))
    up = gate.detach()  # the same memory
    out = fused_acts.swiglu(gate, up, inplace_backward=True)
    for _ in range(2):
        with pytest.raises(ValueError, match="common memory"):
            torch.autograd.grad(out.sum(), leaf, retain_graph=True)


@pytest.mark.parametrize("layout", ["separate", *PACKED])
def test_out_that_torch_writes_or_refuses(layout):
    gate, up, _ = operands(4, 6, dtype=torch.float32)
    inputs = as_inputs(gate, up, layout)
    options = {} if layout == "separate" else {"layout": layout}
    expected = fused_acts.swiglu(*inputs, **options)
    for more in ({}, {"gate_bias": torch.zeros(6)}, {"rounding": "eager"}):
        out = torch._neg_view(torch.zeros(4, 6))
        result = fused_acts.swiglu(*inputs, **options, **more, out=out)
        assert result is out and out.is_neg()
        torch.testing.assert_close(out.resolve_neg(), expected)
        with torch.inference_mode():
            inference = torch.full((4, 6), 7.25)
            torch.testing.assert_close(
                fused_acts.swiglu(*inputs, **options, **more, out=inference).clone(), expected
            )
            inference.fill_(7.25)
        with pytest.raises(RuntimeError, match="^out: .*inference"):
            fused_acts.swiglu(*inputs, **options, **more, out=inference)
        assert (inference == 7.25).all()
    for out in (
        torch.zeros(6).expand(4, 6),
        torch.zeros(4, 1).expand(4, 6),
        torch.zeros(()).expand(4, 6),
    ):
        with pytest.raises(ValueError, match="^out: .*apart"):
            fused_acts.swiglu(*inputs, **options, out=out)
        assert (out == 0).all()
