"""The number of threads, and so the way the work is split, changes no bit."""

import pytest
import torch
from cases import (
    ACTIVATIONS,
    DTYPES,
    KINDS,
    LAYOUTS,
    ROWS,
    UNARY,
    VARIANTS,
    as_inputs,
    operands,
    own_layout,
    rows_and_layouts,
    run,
    same_bits,
)

EVERY_PAIR = [(name, layout) for name in VARIANTS for layout in LAYOUTS]
EVERY_PAIR += [(name, UNARY) for name in ACTIVATIONS]
# Around the sizes where one grain becomes two or more; rows that end inside a grain.
SHAPES = ((1, 16383), (1, 16385), (1, 32769), (7, 9973), (333, 211), (3, 2**16 + 3), (70001, 1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, layout", rows_and_layouts(KINDS))
def test_one_and_two_threads_agree(name, layout, dtype, shape, threads):
    gate, up, grad_out = operands(*shape, dtype=dtype)
    inputs = as_inputs(gate, up, layout)
    threads(1)
    expected = run(name, inputs, grad_out, layout)
    for count in (2, 3):
        threads(count)
        assert all(map(same_bits, run(name, inputs, grad_out, layout), expected))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, layout", [pair for pair in EVERY_PAIR if pair[0] not in KINDS])
def test_one_and_two_threads_agree_for_every_row(name, layout, dtype, threads):
    for shape in SHAPES:
        gate, up, grad_out = operands(*shape, dtype=dtype)
        inputs = as_inputs(gate, up, layout)
        threads(1)
        expected = run(name, inputs, grad_out, layout)
        threads(2)
        assert all(map(same_bits, run(name, inputs, grad_out, layout), expected))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_split_is_where_it_may_be(dtype, threads):
    """Strided rows, more than one grain: every element is computed, and once."""
    gate, up, grad_out = operands(61, 1999, dtype=dtype)
    padded = [torch.nn.functional.pad(tensor, (3, 2))[:, 3:-2] for tensor in (gate, up, grad_out)]
    for name in ROWS if dtype == torch.bfloat16 else KINDS:
        inputs = 2 if name in VARIANTS else 1
        threads(1)
        expected = run(name, as_inputs(gate, up, own_layout(name)), grad_out)
        threads(2)
        assert all(map(same_bits, run(name, padded[:inputs], padded[2]), expected))
