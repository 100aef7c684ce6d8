"""Every operator under torch.library.opcheck, and what each does with wrong arguments."""

import pytest
import torch
from cases import (
    ACTIVATIONS,
    NOTHING,
    PACKED,
    ROWS,
    UNARY,
    VARIANTS,
    as_inputs,
    call_numbers,
    forward,
    operands,
    random,
    same_bits,
)

OPS = torch.ops.fused_acts
INF = float("inf")
INDEX = {name: index for index, name in enumerate((*VARIANTS, *ACTIVATIONS))}


def sample_calls(dtype, variant):
    """(operator, arguments) for every operator and layout, with views among the operands."""
    gate, up, grad_out = operands(3, 8, dtype=dtype)
    yield OPS.glu_forward, (gate, up, variant, 0)
    yield OPS.glu_forward, (gate[:, 1:], up[:, :-1], variant, 0)
    yield OPS.glu_forward, (gate[:0], up[:0], variant, 0)
    yield OPS.glu_forward_out, (gate, up, variant, 0, torch.zeros_like(gate))
    for needs in range(4):
        yield OPS.glu_backward, (grad_out, gate, up, variant, 0, needs)
    yield OPS.glu_backward, (grad_out[:1].expand(3, -1), gate, up, variant, 0, 3)
    for layout, name in enumerate(PACKED):
        (x,) = as_inputs(gate, up, name)
        yield OPS.glu_forward, (x, None, variant, layout)
        yield OPS.glu_forward_out, (x, None, variant, layout, torch.zeros_like(gate))
        yield OPS.glu_backward, (grad_out, x, None, variant, layout, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype):
    for operator, arguments in sample_calls(dtype, len(VARIANTS) - 1):
        results = torch.library.opcheck(operator, arguments)
        assert set(results.values()) == {"SUCCESS"}


def number(value):
    return torch.tensor(value, dtype=torch.float64)


ONE = number(1.0)


def sample_calls_with_options(dtype):
    """(operator, arguments) for the operators with options, with rows in either dtype."""
    gate, up, grad_out = operands(3, 8, dtype=dtype)
    variant = VARIANTS.index("swiglu")
    for kind in {dtype, torch.float32}:
        bias, beta = (random(8, dtype=kind, seed=seed) for seed in (4, 5))
        for rows in (
            (None, None, None),
            (bias, None, None),
            (bias, bias + 1.0, beta),
            (None, bias, beta[0]),
        ):
            wanted = 3 + 4 * (rows[0] is not None) + 8 * (rows[1] is not None)
            wanted += 16 * (rows[2] is not None)
            for layout, name in ((0, "separate"), *enumerate(PACKED)):
                inputs = as_inputs(gate, up, name)
                both = (*inputs, None)[:2]
                moves = (*(tensor.cos() for tensor in inputs), None)[:2]
                numbers = (1.5, 1.0, 2.0, 1.25, variant, layout)
                tensors = (*map(number, numbers[:4]), variant, layout)
                unlimited = (number(1.5), number(1.0), None, number(1.0), variant, layout)
                yield OPS.glu_forward_options, (*both, *rows, *numbers)
                yield OPS.gated, (*both, *rows, *numbers)
                for given in (tensors, unlimited):
                    yield OPS.glu_forward_numbers, (*both, *rows, *given)
                out = (variant, layout, torch.zeros_like(gate))
                yield OPS.glu_forward_out, (*both, *out, *rows, *numbers[:4])
                for needs in (wanted, wanted & ~3):
                    yield OPS.glu_backward_options, (grad_out, *both, *rows, *numbers, needs)
                    yield OPS.glu_backward_numbers, (grad_out, *both, *rows, *tensors, needs)
                for product in (True, False):
                    inplace = (grad_out, *both, *rows, *numbers, wanted, product)
                    yield OPS.glu_backward_inplace, inplace
                for seed, along in ((grad_out, moves), (None, moves), (grad_out, (None, None))):
                    for needs in ((True, True), (False, True)):
                        yield (
                            OPS.glu_double_backward,
                            (seed, *both, *along, *rows, *numbers, *needs),
                        )


def check_operators(calls, count):
    """The schema and the fake implementation for all; the slower checks for one of each."""
    seen = set()
    for operator, arguments in calls:
        tests = ["test_schema", "test_faketensor"]
        if operator not in seen:
            tests += ["test_autograd_registration", "test_aot_dispatch_dynamic"]
            seen.add(operator)
        results = torch.library.opcheck(operator, arguments, test_utils=tests)
        assert set(results.values()) == {"SUCCESS"}, (operator, arguments, results)
    assert len(seen) == count


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck_with_options(dtype):
    check_operators(sample_calls_with_options(dtype), 8)


def sample_calls_of_activations(dtype, variant):
    """(operator, arguments) for the operators that activations alone have."""
    x, _, grad_out = operands(3, 8, dtype=dtype)
    bias, value = (random(8, dtype=torch.float32, seed=seed) for seed in (4, 5))
    yield OPS.glu_forward, (x, None, variant, 0)
    yield OPS.glu_forward, (x[:, 1:], None, variant, 0)
    yield OPS.glu_forward, (x[:0], None, variant, 0)
    yield OPS.glu_backward, (grad_out[:1].expand(3, -1), x, None, variant, 0, 1)
    for rows in (
        (None, None, None),
        (bias, None, None),
        (bias, None, value),
        (None, None, value[0]),
    ):
        numbers = (1.5, 1.0, INF, 1.0, variant, 0)
        wanted = 1 + 4 * (rows[0] is not None) + 16 * (rows[2] is not None)
        tensors = (number(1.5), number(1.0), None, number(1.0), variant, 0)
        yield OPS.glu_forward_options, (x, None, *rows, *numbers)
        yield OPS.gated, (x, None, *rows, *numbers)
        yield OPS.glu_forward_numbers, (x, None, *rows, *tensors)
        out = (variant, 0, torch.zeros_like(x))
        yield OPS.glu_forward_out, (x, None, *out, *rows, *numbers[:4])
        for needs in (wanted, wanted & ~1):
            yield OPS.glu_backward_options, (grad_out, x, None, *rows, *numbers, needs)
            yield OPS.glu_backward_numbers, (grad_out, x, None, *rows, *tensors, needs)
        yield OPS.glu_backward_inplace, (grad_out, x, None, *rows, *numbers, wanted, False)
        for seed, along in ((grad_out, x.cos()), (None, x.cos()), (grad_out, None)):
            for needs in ((True, True), (False, True)):
                yield OPS.glu_double_backward, (seed, x, None, along, None, *rows, *numbers, *needs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck_of_activations(dtype):
    check_operators(sample_calls_of_activations(dtype, INDEX["elu"]), 10)


def test_fakes_have_the_strides_of_the_results():
    """Where these are not contiguous: of an activation of a dense x in another order."""
    x = random(2, 3, 4, 5, dtype=torch.float32, seed=1).to(memory_format=torch.channels_last)
    rest = (INDEX["swish"], 0)
    for operator, arguments in (
        (OPS.glu_forward, rest),
        (OPS.glu_forward_options, (None, None, None, 1.5, 1.0, None, 1.0, *rest)),
        (OPS.gated, (None, None, None, 1.5, 1.0, None, 1.0, *rest)),
        (OPS.glu_forward_numbers, (None, None, None, number(1.5), ONE, None, ONE, *rest)),
    ):
        torch.library.opcheck(operator, (x, None, *arguments), test_utils="test_faketensor")
        assert operator(x, None, *arguments).stride() == x.stride(), operator


def ops_called_wrongly():
    gate, up, grad_out = operands(4, 6, dtype=torch.float32)
    return {
        "variant": (lambda: OPS.glu_forward(gate, up, 99, 0), ValueError, "variant"),
        "negative variant": (lambda: OPS.glu_forward(gate, up, -1, 0), ValueError, "variant"),
        "block": (lambda: OPS.glu_forward(gate, None, 0, 3), ValueError, "x"),
        "negative layout": (lambda: OPS.glu_forward(gate, None, 0, -1), ValueError, "layout"),
        "variant, packed": (
            lambda: OPS.glu_backward(grad_out[:, :3], gate, None, 99, 0, 1),
            ValueError,
            "variant",
        ),
        "grad_out shape": (
            lambda: OPS.glu_backward(grad_out[:, 1:], gate, up, 0, 0, 3),
            ValueError,
            "grad_out",
        ),
        "grad_out dtype": (
            lambda: OPS.glu_backward(grad_out.double(), gate, up, 0, 0, 3),
            ValueError,
            "grad_out",
        ),
        "grad_out shape, packed": (
            lambda: OPS.glu_backward(grad_out, gate, None, 0, 0, 1),
            ValueError,
            "grad_out",
        ),
        "up shape": (
            lambda: OPS.glu_backward(grad_out, gate, up[1:], 0, 0, 3),
            ValueError,
            "up",
        ),
    }


def activations_called_wrongly():
    x, up, grad_out = operands(4, 6, dtype=torch.float32)
    gelu = INDEX["gelu"]
    rest = (*NOTHING, gelu, 0)
    return {
        "up": (lambda: OPS.glu_forward(x, up, gelu, 0), "up"),
        "layout": (lambda: OPS.glu_forward(x, None, gelu, 2), "layout"),
        "variant": (lambda: OPS.glu_forward(x, None, 99, 0), "variant"),
        "two tensors": (lambda: OPS.glu_backward(grad_out, x, up, gelu, 0, 3), "up"),
        "grad_out": (lambda: OPS.glu_backward(grad_out[:, 1:], x, None, gelu, 0, 1), "grad_out"),
        "two tensors, options": (
            lambda: OPS.glu_backward_options(grad_out, x, up, *rest, 3),
            "up",
        ),
        "options": (lambda: OPS.glu_forward_options(x, up, *rest), "up"),
    }


@pytest.mark.parametrize("what", ops_called_wrongly())
def test_operators_check_for_themselves(what):
    call, error, argument = ops_called_wrongly()[what]
    with pytest.raises(error, match=f"^{argument}: "):
        call()


@pytest.mark.parametrize("what", activations_called_wrongly())
def test_operators_check_activations(what):
    call, argument = activations_called_wrongly()[what]
    with pytest.raises(ValueError, match=f"^{argument}: "):
        call()


def test_layouts_and_rows_are_in_the_order_of_the_operators():
    gate, up, _ = operands(3, 4, dtype=torch.float32)
    for name, row in ROWS.items():
        limit = getattr(row, "limit", None)
        numbers = (*call_numbers(row), INF if limit is None else limit, 1.0, INDEX[name])
        for index, layout in enumerate(PACKED) if name in VARIANTS else [(0, UNARY)]:
            (x,) = as_inputs(gate, up, layout)
            expected = forward(name, gate, up)
            nothing = (None,) * 4
            assert same_bits(OPS.glu_forward_options(x, *nothing, *numbers, index), expected)
            if limit is None and set(row.parameters.values()) <= {1.0}:
                assert same_bits(OPS.glu_forward(x, None, INDEX[name], index), expected)


@pytest.mark.parametrize("needs", [1, 2])
@pytest.mark.parametrize("variant", range(len(VARIANTS)))
def test_a_gradient_not_needed_is_not_computed(variant, needs):
    gate, up, grad_out = operands(4, 6, dtype=torch.float32)
    grads = OPS.glu_backward(grad_out, gate, up, variant, 0, needs)
    assert [g.shape for g in grads] == [gate.shape if needs & bit else (0,) for bit in (1, 2)]
