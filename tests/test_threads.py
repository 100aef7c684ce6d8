"""The number of threads, and so the way the work is split, changes no bit."""

import pytest
import torch
from cases import DTYPES, LAYOUTS, VARIANTS, as_inputs, operands, run, same_bits

# Around the sizes where one grain becomes two or more; rows that end inside a grain.
SHAPES = ((1, 16383), (1, 16385), (1, 32769), (7, 9973), (333, 211), (3, 2**16 + 3), (70001, 1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_and_two_threads_agree(dtype, layout, shape, threads):
    gate, up, grad_out = operands(*shape, dtype=dtype)
    inputs = as_inputs(gate, up, layout)
    for variant in VARIANTS:
        threads(1)
        expected = run(variant, inputs, grad_out, layout)
        for count in (2, 3):
            threads(count)
            assert all(map(same_bits, run(variant, inputs, grad_out, layout), expected))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_split_is_where_it_may_be(dtype, threads):
    """Strided rows, more than one grain: every element is computed, and once."""
    gate, up, grad_out = operands(61, 1999, dtype=dtype)
    padded = [torch.nn.functional.pad(tensor, (3, 2))[:, 3:-2] for tensor in (gate, up, grad_out)]
    for variant in VARIANTS:
        threads(1)
        expected = run(variant, (gate, up), grad_out)
        threads(2)
        assert all(map(same_bits, run(variant, padded[:2], padded[2]), expected))
