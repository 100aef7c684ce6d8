"""Rows that belong to experts: each with its expert's values, and padding that nobody reads."""

from typing import Any

import pytest
import torch
from cases import (
    ACTIVATIONS,
    DEVICES,
    DTYPES,
    KINDS,
    pack,
    random,
    rows_and_layouts,
    same_bits,
    to_device,
    widths,
)
from expert_row_cases import (
    DESCRIPTORS,
    EXPERTS,
    ROWS,
    Rows,
    check_each_expert,
    own_values,
    poisoned,
    row_operands,
)
from option_cases import Called, call
from tolerances import CLOSE
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import fused_acts
from fused_acts import reference


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, layout", rows_and_layouts())
def test_against_a_loop_over_experts(name, layout, dtype, device):
    rows = DESCRIPTORS["offs"]
    for cols in widths(device):
        inputs = row_operands(name, rows, cols, dtype)
        weight = poisoned(random(*rows.shape, dtype=torch.float32, seed=9), rows)
        weight = weight.to(torch.promote_types(dtype, torch.float32))
        options = own_values(name, cols, dtype) | {"weight": weight}
        check_each_expert(name, inputs, options, rows, layout, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("descriptor", DESCRIPTORS)
@pytest.mark.parametrize("name, layout", rows_and_layouts(KINDS))
def test_ways_to_say_whose_rows_are_whose(name, layout, descriptor, device):
    """With values of experts and without: then only padding matters."""
    rows = DESCRIPTORS[descriptor]
    for cols in widths(device):
        inputs = row_operands(name, rows, cols, torch.bfloat16)
        weight = poisoned(random(*rows.shape, dtype=torch.float32, seed=9), rows)
        options = own_values(name, cols, torch.float32) | {"weight": weight}
        check_each_expert(name, inputs, options, rows, layout, device)
        check_each_expert(name, inputs, {}, rows, layout, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [1, 31, 33, 700])
def test_many_rows(rows, device):
    """More than a segment has, experts of a row, and of many."""
    ends = sorted(min(rows, end) for end in (1, 2, rows // 2, rows // 2, rows - 1))
    case = Rows.of("offs", ends, (rows,))
    inputs = row_operands("swiglu", case, 264, torch.bfloat16)
    weight = poisoned(random(rows, dtype=torch.float32, seed=9), case)
    options = own_values("swiglu", 264, torch.bfloat16) | {"weight": weight}
    check_each_expert("swiglu", inputs, options, case, device=device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("descriptor", ["offs", "counts", "row_expert"])
def test_padding_that_is_skipped(descriptor, device):
    """What was there stays there, in rows that are not dense too."""
    rows = DESCRIPTORS[descriptor]
    gate, up, _ = row_operands("swiglu", rows, 48, torch.float32)
    padding = rows.owner < 0
    given = [to_device(tensor, device) for tensor in (gate, up)]
    there = {option: to_device(value, device) for option, value in rows.options.items()}
    right = fused_acts.swiglu(*given, **there, padding="zero").cpu()
    for width in (48, 60):
        memory = to_device(torch.full((*rows.shape, width), 7.0), device)
        out = memory[..., :48]
        fused_acts.swiglu(*given, out=out, **there)
        assert (out.cpu()[padding] == 7.0).all()
        assert same_bits(out.cpu()[~padding], right[~padding])
        fused_acts.swiglu(*given, out=out, **there, padding="zero")
        assert same_bits(out.cpu(), right)
    assert same_bits(fused_acts.swiglu(*given, **there).cpu()[~padding], right[~padding])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("descriptor", ["offs", "counts", "row_expert"])
@pytest.mark.parametrize("layout", ["separate", "gate_up", "interleaved"])
def test_in_place_with_the_product(layout, descriptor, device):
    """Padding becomes 0 in the gradients and in the product, as in passes apart."""
    rows = DESCRIPTORS[descriptor]
    gate, up, grad_out = row_operands("geglu", rows, 64, torch.bfloat16)
    weight = poisoned(random(*rows.shape, dtype=torch.float32, seed=9), rows)
    options = own_values("geglu", 64, torch.float32) | {"weight": weight} | rows.options
    kind = {} if layout == "separate" else {"layout": layout}
    inputs = [gate, up] if layout == "separate" else [pack(gate, up, layout)]
    tensors = [to_device(tensor, device) for tensor in inputs]
    options = {n: to_device(v, device) if isinstance(v, Tensor) else v for n, v in options.items()}
    right = fused_acts.geglu(*tensors, **options, **kind, padding="zero")
    seed = to_device(grad_out, device)
    index = list(fused_acts.variants()).index("geglu")
    layouts = {"separate": 0, "gate_up": 0, "interleaved": 2}
    kinds = {"offs": 1, "counts": 2, "row_expert": 3}
    vectors = torch.ops.fused_acts.glu_backward_inplace(
        *(seed, tensors[0], tensors[1] if len(tensors) > 1 else None),
        *(options["gate_bias"], options["up_bias"], None, 1.0, 1.0, options["limit"], 1.0),
        *(index, layouts[layout], 1 + 2 + 4 + 8 + 32, True),
        *(options["weight"], options[descriptor], kinds[descriptor]),
    )
    torch.testing.assert_close(seed.cpu(), right.cpu())  # rounded elsewhere on the way, as ever
    assert (seed.cpu()[rows.owner < 0] == 0).all()
    leaves = [tensor.clone() for tensor in inputs]
    given = {n: v.cpu() if isinstance(v, Tensor) else v for n, v in options.items()}
    wanted = {n: given.pop(n) for n in ("gate_bias", "up_bias", "weight")}

    def unit(*tensors: Tensor, **of_call: Any) -> Tensor:
        there = {n: to_device(v, device) if isinstance(v, Tensor) else v for n, v in given.items()}
        return fused_acts.geglu(*tensors, **of_call, **there, **kind)

    apart = call(unit, leaves, wanted, grad_out, device)
    assert all(same_bits(a.cpu(), b) for a, b in zip(tensors, apart.inputs, strict=True))
    names = "gate_bias", "up_bias", None, "weight"
    for name, vector in zip(names, vectors, strict=True):
        if name:
            assert same_bits(vector.cpu(), apart.options[name])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("descriptor", ["offs", "row_expert"])
def test_one_value_for_each_expert(descriptor, device):
    """A parameter [experts]; a bias and a parameter that all experts share."""
    rows = DESCRIPTORS[descriptor]
    gate, up, grad_out = row_operands("swiglu", rows, 40, torch.float32)
    gate, up, grad_out = (tensor.double() for tensor in (gate, up, grad_out))
    for beta in (torch.rand(EXPERTS) + 0.5, torch.tensor(0.8), torch.rand(EXPERTS, 40) + 0.5):
        options = {"beta": beta.double(), "gate_bias": random(40, dtype=torch.float64, seed=3)}
        options["up_bias"] = random(EXPERTS, 40, dtype=torch.float64, seed=4)

        def unit(module: Any, device: str, options: Any = options) -> Called:
            there = {n: to_device(v, device) for n, v in rows.options.items()}

            def function(*tensors: Tensor, **given: Any) -> Tensor:
                return module.gated(*tensors, variant="swiglu", **given, **there, padding="zero")

            return call(function, [gate, up], options, grad_out, device)

        ours, right = unit(fused_acts, device), unit(reference, "cpu")
        live = rows.owner >= 0
        for a, b in zip(ours.tensors(), right.tensors(), strict=True):
            at_rows = a.shape[:1] == (ROWS,)
            torch.testing.assert_close(
                a[live] if at_rows else a, b[live] if at_rows else b, **CLOSE
            )


@pytest.mark.parametrize("descriptor", ["offs", "counts", "row_expert"])
@pytest.mark.parametrize("name", KINDS)
def test_derivatives_of_any_order(name, descriptor):
    rows = DESCRIPTORS[descriptor]
    gate, up, grad_out = row_operands(name, rows, 3, torch.float64)
    grad_out = torch.where(grad_out.isnan(), 0.0, grad_out)
    options = own_values(name, 3, torch.float64)
    options["weight"] = poisoned(random(*rows.shape, dtype=torch.float64, seed=9), rows)
    limits = {n: v for n, v in options.items() if not isinstance(v, Tensor)}
    vectors = {n: v for n, v in options.items() if isinstance(v, Tensor)}
    inputs = [gate] if name in ACTIVATIONS else [gate, up]
    live = rows.owner >= 0

    def values(module: Any) -> Any:
        def function(*tensors: Tensor) -> Tensor:
            own = dict(zip(vectors, tensors[len(inputs) :], strict=True))
            given = tensors[: len(inputs)]
            if name in ACTIVATIONS:
                return module.activation(
                    *given, name, **own, **limits, **rows.options, padding="zero"
                )
            own |= limits | rows.options
            return module.gated(*given, variant=name, **own, padding="zero")

        given = *inputs, *vectors.values()
        leaves = [tensor.clone().requires_grad_() for tensor in given]
        grads = torch.autograd.grad(function(*leaves), leaves, grad_out, create_graph=True)
        picked = [grad[live] if grad.shape[: live.dim()] == live.shape else grad for grad in grads]
        yield from picked
        second = torch.autograd.grad(sum(grad.sum() for grad in picked), leaves)
        for grad in second:
            yield grad[live] if grad.shape[: live.dim()] == live.shape else grad

    for ours, right in zip(values(fused_acts), values(reference), strict=True):
        torch.testing.assert_close(ours, right, **CLOSE)


def test_compiled():
    """One graph, whatever the counts."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def function(x, weight, bias, offs):
        return fused_acts.swiglu(x, weight=weight, bias=bias, offs=offs, padding="zero")

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=counter)
    bias = random(3, 16, dtype=torch.float32, seed=1).requires_grad_()
    for ends in ([2, 5, 7], [0, 0, 9], [4, 4, 11]):
        x = random(ends[-1] + 2, 16, dtype=torch.float32, seed=2).requires_grad_()
        weight = random(ends[-1] + 2, dtype=torch.float32, seed=3).requires_grad_()
        given = x, weight, bias, torch.tensor(ends, dtype=torch.int32)
        out, right = compiled(*given), function(*given)
        assert same_bits(out, right)
        seed = torch.ones_like(out)
        ours, theirs = (torch.autograd.grad(o, given[:3], seed) for o in (out, right))
        assert all(map(same_bits, ours, theirs))
    assert counter.frame_count == 1
