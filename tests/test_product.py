"""glu_backward_inplace: gradients over gate and up, and the product over grad_out, in one pass."""

import pytest
import torch
from cases import (
    DEVICES,
    DTYPES,
    LAYOUTS,
    NOTHING,
    PACKED,
    VARIANTS,
    as_inputs,
    call_numbers,
    operands,
    rows_and_layouts,
    to_device,
    unpack,
)
from option_cases import LIMITED, PARAMETRIC, Called, check_call, check_sums, oracle

import fused_acts

OPS = torch.ops.fused_acts
INF = float("inf")
NUMBERS = NOTHING[3:]


def run(variant, tensors, layout="separate", rows=(None, None, None), needs=3, device="cpu"):
    """(product, gradients of the inputs and of the rows), from copies of (grad_out, *inputs)."""
    row = fused_acts.reference.VARIANTS[variant]
    limit = INF if row.limit is None else row.limit
    grad_out, *inputs = (to_device(tensor, device) for tensor in tensors)
    gate, up = (*inputs, None)[:2]
    rows = [None if r is None else to_device(r, device) for r in rows]
    index = PACKED.index(layout) if layout != "separate" else 0
    numbers = (*call_numbers(row), limit, 1.0, VARIANTS.index(variant), index)
    by_rows = OPS.glu_backward_inplace(grad_out, gate, up, *rows, *numbers, needs, True)
    return grad_out.cpu(), [tensor.cpu() for tensor in inputs], [grad.cpu() for grad in by_rows]


def check(variant, gate, up, grad_out, layout, device, options=None, place=lambda tensor: tensor):
    options = options or {}
    rows = [options.get(name) for name in ("gate_bias", "up_bias")]
    rows.append(
        next(
            (options[n] for n in fused_acts.reference.VARIANTS[variant].parameters if n in options),
            None,
        )
    )
    needs = 3 + sum(4 << i for i, row in enumerate(rows) if row is not None)
    tensors = [place(tensor) for tensor in (grad_out, *as_inputs(gate, up, layout))]
    product, grads, by_rows = run(variant, tensors, layout, rows, needs, device)
    if layout != "separate":
        grads = unpack(grads[0], layout)
    present = [grad for grad, row in zip(by_rows[:3], rows, strict=True) if row is not None]
    sums = dict(zip(options, present, strict=True))
    exact = oracle(variant, gate, up, options, grad_out)
    actual = Called(product, [grad.contiguous() for grad in grads], sums)
    check_call(actual, exact)
    if options:
        check_sums(actual, exact, gate.shape[-1])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant, layout", rows_and_layouts(VARIANTS))
def test_product_and_gradients(variant, layout, dtype, device):
    """At widths that vectors fill, that leave columns behind them, and that end in the middle."""
    for rows, cols in ((3, 64), (1, 1037), (5, 7)):
        check(variant, *operands(rows, cols, dtype=dtype), layout, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", ["swiglu", "gtu"])
def test_any_place_in_memory(variant, dtype, device):
    """Rows further apart than they are long, and bases that fit narrower accesses only."""

    def moved(offset, gap):
        def place(tensor):
            rows, width = tensor.shape
            whole = torch.zeros(offset + rows * (width + gap), dtype=dtype)
            view = whole[offset:].unflatten(0, (rows, width + gap))[:, :width]
            return view.copy_(tensor)

        return place

    for offset, gap in ((0, 64), (1, 0), (2, 6), (4, 3)):
        for layout in ("separate", "gate_up", "interleaved"):
            tensors = operands(4, 96, dtype=dtype)
            check(variant, *tensors, layout, device, place=moved(offset, gap))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", ["swiglu", "preglu", "swiglu_oai", "geglu"])
def test_options(variant, dtype, layout, device):
    cols = 40
    options = {name: torch.randn(cols) for name in ("gate_bias", "up_bias")}
    if variant in PARAMETRIC and variant not in LIMITED:
        options["slope"] = torch.tensor([0.3])
    check(variant, *operands(70, cols, dtype=dtype), layout, device, options)


def test_what_is_not_wanted_is_not_written():
    gate, up, grad_out = operands(3, 64, dtype=torch.bfloat16)
    for needs in (0, 1, 2, 3):
        product, grads, _ = run("swiglu", (grad_out, gate, up), needs=needs)
        assert torch.equal(product, fused_acts.swiglu(gate, up))
        assert torch.equal(grads[0], gate) != bool(needs & 1)
        assert torch.equal(grads[1], up) != bool(needs & 2)


def test_bad_operands():
    gate, up, grad_out = operands(4, 8, dtype=torch.float32)
    for tensors, message in (
        ((grad_out[:1].expand(4, -1), gate, up), "grad_out: expected rows"),
        ((grad_out.T.contiguous().T, gate, up), "grad_out: expected dense"),
        ((grad_out[:2], gate, up), "grad_out: expected shape"),
        ((grad_out.half(), gate, up), "grad_out: expected the dtype"),
    ):
        before = [tensor.clone() for tensor in tensors]
        with pytest.raises((TypeError, ValueError), match=message):
            OPS.glu_backward_inplace(*tensors, *NOTHING, 0, 0, 3, True)
        assert all(map(torch.equal, tensors, before))
    with pytest.raises(ValueError, match="common memory"):
        OPS.glu_backward_inplace(gate, gate, up, *NOTHING, 0, 0, 3, True)


def test_opcheck():
    gate, up, grad_out = operands(3, 8, dtype=torch.bfloat16)
    bias = torch.randn(8)
    for inputs in ((gate, up), (torch.cat((gate, up), -1), None)):
        for rows, needs in (((None, None, None), 3), ((bias, bias + 1, None), 15)):
            arguments = (grad_out, *inputs, *rows, *NUMBERS, VARIANTS.index("swiglu"), 0, needs)
            results = torch.library.opcheck(OPS.glu_backward_inplace, (*arguments, True))
            assert set(results.values()) == {"SUCCESS"}
