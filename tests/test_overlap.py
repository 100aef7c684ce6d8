"""Memory that calls with out= and in place share: exactly what would be wrong is refused."""

import itertools
import random as chance

import pytest
import torch
from cases import same_bits

import fused_acts

SIZE = 80


def view(buffer, drawn):
    shape, strides, offset = drawn
    return buffer.as_strided(shape, strides, offset)


def places(drawn):
    shape, strides, offset = drawn
    return [
        offset + sum(i * stride for i, stride in zip(index, strides, strict=True))
        for index in itertools.product(*map(range, shape))
    ]


def draw(generator, shape, step=None):
    while True:
        strides = tuple(generator.randrange(1, 14) for _ in shape[1:])
        strides = (*strides, generator.randrange(1, 14) if step is None else step)
        drawn = shape, strides, generator.randrange(20)
        if max(places(drawn)) < SIZE:
            return drawn


def test_out_of_any_strides():
    """Written if its elements are apart, which torch leaves to the caller, else refused."""
    generator, seen = chance.Random(0), [0, 0]
    for _ in range(1500):
        shape = generator.choice([(3, 4), (2, 3, 4), (5, 3), (2, 2, 2, 2), (12,)])
        drawn = draw(generator, shape)
        apart = len(set(places(drawn))) == len(places(drawn))
        seen[apart] += 1
        buffer, x = torch.zeros(SIZE), torch.linspace(-1, 1, len(places(drawn))).view(shape)
        if apart:
            assert same_bits(fused_acts.swish(x, out=view(buffer, drawn)), fused_acts.swish(x))
            assert set(buffer.nonzero().flatten().tolist()) <= set(places(drawn))
        else:
            with pytest.raises(ValueError, match="^out: expected elements apart"):
                fused_acts.swish(x, out=view(buffer, drawn))
            assert (buffer == 0).all()
    assert min(seen) > 200


def test_out_beside_operands():
    """Rows woven into those of an operand, which torch takes, too."""
    generator, seen = chance.Random(1), [0, 0]
    while min(seen) < 200:
        shape = generator.choice([(3, 4), (4, 3), (5, 2), (6, 4)])
        gate, out = draw(generator, shape, 1), draw(generator, shape, 1)
        if len(set(places(out))) < len(places(out)):
            continue
        buffer, up = torch.linspace(-2, 2, SIZE), torch.linspace(1, 2, shape[0] * shape[1])
        up = up.view(shape)
        same, apart = gate == out, not set(places(gate)) & set(places(out))
        seen[same or apart] += 1
        before, expected = buffer.clone(), fused_acts.swiglu(view(buffer, gate), up)
        if same or apart:
            fused_acts.swiglu(view(buffer, gate), up, out=view(buffer, out))
            assert same_bits(view(buffer, out), expected)
        else:
            with pytest.raises(ValueError, match="^out: expected the memory of gate exactly"):
                fused_acts.swiglu(view(buffer, gate), up, out=view(buffer, out))
            assert same_bits(buffer, before)


def test_out_beside_a_bias():
    generator, seen = chance.Random(2), [0, 0]
    while min(seen) < 100:
        out, bias = draw(generator, (4, 3), 1), draw(generator, (3,))
        if len(set(places(out))) < len(places(out)):
            continue
        buffer, x = torch.linspace(-2, 2, SIZE), torch.linspace(1, 2, 12).view(4, 3)
        apart = not set(places(bias)) & set(places(out))
        seen[apart] += 1
        if apart:
            expected = fused_acts.gelu(x, view(buffer, bias))
            assert same_bits(
                fused_acts.gelu(x, view(buffer, bias), out=view(buffer, out)), expected
            )
        else:
            with pytest.raises(ValueError, match="^bias: "):
                fused_acts.gelu(x, view(buffer, bias), out=view(buffer, out))


def test_gradients_in_place_of_rows_that_are_woven():
    leaf = torch.linspace(-2, 2, 48, requires_grad=True)

    def gradient(**options):
        whole = leaf * 1
        gate, up = whole.as_strided((3, 4), (16, 1)), whole.as_strided((3, 4), (8, 1), 4)
        return torch.autograd.grad(fused_acts.swiglu(gate, up, **options).sum(), leaf)[0]

    assert same_bits(gradient(inplace_backward=True), gradient())
