"""Rows that belong to experts: each with its expert's values, and padding that nobody reads."""

from typing import Any, NamedTuple

import pytest
import torch
from cases import (
    ACTIVATIONS,
    DEVICES,
    DTYPES,
    KINDS,
    operands,
    pack,
    random,
    rows_and_layouts,
    same_bits,
    to_device,
    unpack,
    widths,
)
from option_cases import (
    LIMITED,
    PARAMETRIC,
    Called,
    biases,
    call,
    check_call,
    check_sums,
    oracle,
    parameter,
)
from tolerances import CLOSE
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import fused_acts
from fused_acts import reference

ROWS, EXPERTS = 40, 5
NAN = float("nan")


class Rows(NamedTuple):
    """A way to say whose rows are whose."""

    options: dict[str, Tensor]
    shape: tuple[int, ...]  # of the rows
    owner: Tensor  # of each row, -1 for padding

    @classmethod
    def of(cls, name: str, value: list[int], shape: tuple[int, ...] = (ROWS,)) -> "Rows":
        options = {name: torch.tensor(value, dtype=torch.int32).view(shape if _each(name) else -1)}
        owner = reference.rows_of(
            torch.Size(shape), *(options.get(n) for n in ("offs", "counts", "row_expert"))
        )
        return cls(options, shape, owner)


def _each(name: str) -> bool:
    return name == "row_expert"


# With an empty expert each, one that has all, none that has any, and no padding.
DESCRIPTORS = {
    "offs": Rows.of("offs", [3, 3, 17, 30, 38]),
    "all to one": Rows.of("offs", [0, 0, 40, 40, 40]),
    "all padding": Rows.of("offs", [0, 0, 0, 0, 0]),
    "counts": Rows.of("counts", [3, 0, 8, 5, 1], (EXPERTS, 8)),
    "row_expert": Rows.of("row_expert", [(7 * i * i + i // 3) % 6 - 1 for i in range(ROWS)]),
    "row_expert of 2": Rows.of("row_expert", [4 - i // 9 for i in range(ROWS)], (8, 5)),
}


def poisoned(tensor: Tensor, rows: Rows) -> Tensor:
    """With NaN in what is padding."""
    live = (rows.owner >= 0).view(*rows.owner.shape, *[1] * (tensor.dim() - rows.owner.dim()))
    return torch.where(live, tensor, NAN)


def row_operands(name: str, rows: Rows, cols: int, dtype: torch.dtype) -> list[Tensor]:
    """gate, up and grad_out."""
    return [poisoned(tensor, rows) for tensor in operands(*rows.shape, cols, dtype=dtype)]


def own_values(name: str, cols: int, dtype: torch.dtype) -> dict[str, Any]:
    """Biases, a parameter and limits, with values for each expert."""
    options: dict[str, Any] = {
        option: torch.stack([bias * (1 + i) for i in range(EXPERTS)])
        for option, bias in biases(name, cols, dtype).items()
    }
    if name in PARAMETRIC:
        each = random(EXPERTS, cols, dtype=dtype, seed=5).abs() + 0.5
        options |= parameter(name, each)
    if name in LIMITED:
        options["limit"] = 1.25
    return options


def check_each_expert(
    name: str,
    inputs: list[Tensor],
    options: dict[str, Any],
    rows: Rows,
    layout: str = "separate",
    device: str = "cpu",
) -> Called:
    """The call of all rows against the oracle of each expert's own."""
    gate, up, grad_out = inputs
    cols = gate.shape[-1]
    there = {option: to_device(value, device) for option, value in rows.options.items()}

    def unit(*tensors: Tensor, **given: Any) -> Tensor:
        return _unit(name, layout, *tensors, **given, **there, padding="zero")

    given = [gate] if name in ACTIVATIONS else [gate, up]
    if layout not in ("separate", "unary"):
        given = [pack(gate, up, layout)]
    called = call(unit, given, options, grad_out, device)
    grads = called.inputs
    if layout not in ("separate", "unary"):
        grads = list(unpack(grads[0], layout))
    padding = rows.owner < 0
    for result in (called.out, *grads):
        assert (result[padding] == 0).all()
    for expert in range(EXPERTS):
        own = rows.owner == expert

        def of_expert(option: str, value: Any, expert=expert, own=own) -> Any:
            if not isinstance(value, Tensor):
                return value
            return value[own] if option == "weight" else value[expert]

        its = {option: of_expert(option, value) for option, value in options.items()}
        exact = oracle(name, gate[own], up[own], its, grad_out[own])
        sums = {option: of_expert(option, grad) for option, grad in called.options.items()}
        part = Called(called.out[own], [grad[own] for grad in grads], sums)
        if own.any():
            check_call(part, exact)
            check_sums(part, exact, cols)
        else:
            assert all((grad == 0).all() for grad in sums.values())
    return called


def _unit(name: str, layout: str, *tensors: Tensor, **options: Any) -> Tensor:
    if name in ACTIVATIONS:
        return fused_acts.activation(*tensors, name, **options)
    kind = {} if layout == "separate" else {"layout": layout}
    return fused_acts.gated(*tensors, variant=name, **kind, **options)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("descriptor", ["offs", "counts", "row_expert"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, layout", rows_and_layouts())
def test_against_a_loop_over_experts(name, layout, dtype, descriptor, device):
    rows = DESCRIPTORS[descriptor]
    for cols in widths(device):
        inputs = row_operands(name, rows, cols, dtype)
        weight = poisoned(random(*rows.shape, dtype=torch.float32, seed=9), rows)
        weight = weight.to(torch.promote_types(dtype, torch.float32))
        options = own_values(name, cols, dtype) | {"weight": weight}
        check_each_expert(name, inputs, options, rows, layout, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("descriptor", DESCRIPTORS)
@pytest.mark.parametrize("name", KINDS)
def test_ways_to_say_whose_rows_are_whose(name, descriptor, device):
    """With values of experts and without: then only padding matters."""
    rows = DESCRIPTORS[descriptor]
    for cols in widths(device):
        inputs = row_operands(name, rows, cols, torch.bfloat16)
        check_each_expert(name, inputs, own_values(name, cols, torch.float32), rows, device=device)
        check_each_expert(name, inputs, {}, rows, device=device)


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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"offs": [1, 2], "counts": [1]}, ValueError, "counts: expected none beside offs"),
        ({"offs": [1, 2], "row_expert": [0] * 6}, ValueError, "row_expert: expected none beside"),
        ({"offs": torch.tensor([1, 2])}, TypeError, "offs: expected .*int32"),
        ({"offs": [[1, 2]]}, ValueError, "offs: expected shape .experts"),
        ({"counts": [1, 2]}, ValueError, "counts: expected gate as .experts, rows, cols"),
        ({"row_expert": [0] * 5}, ValueError, "row_expert: expected one for each row"),
        ({"offs": 3}, TypeError, "offs: expected a torch.Tensor, got int"),
        ({"offs": [2, 6], "padding": "none"}, ValueError, "padding: expected one of skip, zero"),
        ({"offs": [2, 6], "bias": torch.ones(3, 8)}, ValueError, "bias: expected values for 2"),
        ({"bias": torch.ones(2, 8)}, ValueError, "bias: expected shape"),
        ({"row_expert": [0] * 6, "beta": torch.ones(2, 3)}, ValueError, "beta: expected"),
    ],
)
def test_refusals(options, error, message, device):
    given = {
        name: to_device(torch.tensor(value, dtype=torch.int32), device)
        if isinstance(value, list)
        else to_device(value, device)
        if isinstance(value, Tensor)
        else value
        for name, value in options.items()
    }
    x = to_device(torch.ones(6, 8), device)
    with pytest.raises(error, match=message):
        fused_acts.swiglu(x, **given)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"offs": [4, 2]}, "offs: expected ends that do not decrease"),
        ({"offs": [4, 7]}, "offs: expected ends that do not decrease, of 6 rows"),
        ({"row_expert": [0, 1, 2, 3, 0, 0], "bias": torch.ones(3, 8)}, "row_expert: expected an"),
    ],
)
def test_indices_out_of_range(options, message):
    """Said where a look costs nothing: on the CPU."""
    given = {
        name: value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.int32)
        for name, value in options.items()
    }
    with pytest.raises(ValueError, match=message):
        fused_acts.swiglu(torch.ones(6, 8), **given)


@pytest.mark.parametrize("device", DEVICES)
def test_counts_are_cut_to_the_rows_there_are(device):
    x = to_device(random(2, 3, 8, dtype=torch.float32, seed=1), device)
    counts = to_device(torch.tensor([9, -2], dtype=torch.int32), device)
    out = fused_acts.swiglu(x, counts=counts, padding="zero").cpu()
    assert same_bits(out[0], fused_acts.swiglu(x).cpu()[0]) and (out[1] == 0).all()


def test_nested_tensors_have_no_rows_of_their_own():
    x = torch.nested.nested_tensor([torch.ones(2, 8), torch.ones(3, 8)], layout=torch.jagged)
    with pytest.raises(ValueError, match="weight: expected no tensor with nested"):
        fused_acts.swiglu(x, weight=torch.ones(5))
