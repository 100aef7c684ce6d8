"""Checks of the sharding rules; test_distributed.py runs each of them in all processes at once."""

import torch
from cases import pack, random, same_bits
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import fused_acts
from fused_acts import _ops
from fused_acts.distributed import sharding

SHAPE = (4, 6, 8)
COLUMNS = len(SHAPE) - 1
ROWS = range(COLUMNS)


def operands(shape=SHAPE):
    """gate, up, grad_out; in float64, so that sums in another order are the same."""
    return [random(*shape, dtype=torch.float64, seed=seed) for seed in (1, 2, 3)]


def rows(*names):
    return {
        name: random(SHAPE[-1], dtype=torch.float64, seed=7 + i) for i, name in enumerate(names)
    }


def split(tensor, mesh, *placements):
    return distribute_tensor(tensor, mesh, placements or (Replicate(),) * mesh.ndim)


def leaves(tensors):
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


def run(inputs, options, grad_out, **kwargs):
    """The output and the gradients by all inputs and options."""
    inputs, given = leaves(inputs), dict(zip(options, leaves(options.values()), strict=True))
    out = fused_acts.swiglu(*inputs, **given, **kwargs)
    out.backward(grad_out)
    return [out.detach(), *(tensor.grad for tensor in (*inputs, *given.values()))]


def check(distributed, single, placements=None):
    """The same values; those of elements to the last bit, sums as near as float64 is."""
    if placements is not None:
        assert [each.placements for each in distributed] == [(p,) for p in placements]
    for part, whole in zip(distributed, single, strict=True):
        full = part.full_tensor()
        assert same_bits(full, whole) if whole.dim() > 1 else torch.allclose(full, whole)


def compare(mesh, inputs, places, options, option_places, out_place):
    """Runs what is split, where nothing may move, and what is whole."""
    *inputs, grad_out = inputs
    parts = [split(tensor, mesh, place) for tensor, place in zip(inputs, places, strict=True)]
    given = {name: split(options[name], mesh, place) for name, place in option_places.items()}
    grad_part = split(grad_out, mesh, out_place)
    with CommDebugMode() as communication:
        distributed = run(parts, given, grad_part)
    assert communication.get_total_counts() == 0
    return distributed, run(inputs, options, grad_out)


OPTIONS = [(), ("gate_bias",), ("up_bias",), ("gate_bias", "up_bias"), ("beta",)]


def check_rows(mesh: DeviceMesh) -> None:
    """Split by rows: gradients of what all rows share are partial sums."""
    inputs = operands()
    for dim in ROWS:
        for names in OPTIONS:
            places = dict.fromkeys(names, Replicate())
            results = compare(mesh, inputs, [Shard(dim)] * 2, rows(*names), places, Shard(dim))
            check(*results)
            distributed = results[0]
            assert [each.placements for each in distributed[:3]] == [(Shard(dim),)] * 3
            assert all(each.placements[0].is_partial("sum") for each in distributed[3:])


def check_row_weight(mesh: DeviceMesh) -> None:
    """Split with the rows; of columns each process has a part of its gradient."""
    inputs = operands()
    weight = {"weight": random(*SHAPE[:-1], dtype=torch.float64, seed=5)}
    for dim in (*ROWS, COLUMNS):
        place = Replicate() if dim == COLUMNS else Shard(dim)
        results = compare(mesh, inputs, [Shard(dim)] * 2, weight, {"weight": place}, Shard(dim))
        for part, whole in zip(*results, strict=True):
            torch.testing.assert_close(part.full_tensor(), whole)
        by_weight = results[0][3].placements[0]
        assert by_weight.is_partial("sum") if dim == COLUMNS else by_weight == place


def check_experts(mesh: DeviceMesh) -> None:
    """Whose rows are whose goes with the rows, or stays whole; so do the values of experts."""
    kinds = {
        "offs": torch.tensor([5, 5, 9, 20], dtype=torch.int32),
        "counts": torch.tensor([6, 0, 3, 1], dtype=torch.int32),
        "row_expert": torch.arange(24, dtype=torch.int32).view(SHAPE[:-1]) % 5 - 1,
    }
    by_rows = {"offs": (), "counts": (0,), "row_expert": ROWS}
    inputs = operands()
    names = ("gate_bias", "up_bias", "beta")
    values = {n: random(4, SHAPE[-1], dtype=torch.float64, seed=i) for i, n in enumerate(names)}
    for kind, experts in kinds.items():
        for dim in (*by_rows[kind], COLUMNS):
            of_values = Shard(1) if dim == COLUMNS else Replicate()
            if kind == "counts" and dim == 0:
                of_values = Shard(0)
            is_split = dim != COLUMNS
            fixed = {kind: experts, "padding": "zero"}
            part = {kind: split(experts, mesh, Shard(dim) if is_split else Replicate())}
            parts = [split(tensor, mesh, Shard(dim)) for tensor in inputs]
            given = {name: split(value, mesh, of_values) for name, value in values.items()}
            with CommDebugMode() as communication:
                distributed = run(parts[:2], given, parts[2], **part, padding="zero")
            assert communication.get_total_counts() == 0, (kind, dim)
            single = run(inputs[:2], values, inputs[2], **fixed)
            for ours, whole in zip(distributed, single, strict=True):
                torch.testing.assert_close(ours.full_tensor(), whole)


def check_columns(mesh: DeviceMesh) -> None:
    """Split by columns, and the biases with them."""
    for names in OPTIONS:
        places = dict.fromkeys(names, Shard(0))
        split_by = [Shard(COLUMNS)] * 2
        results = compare(mesh, operands(), split_by, rows(*names), places, Shard(COLUMNS))
        check(*results, [Shard(COLUMNS)] * 3 + [Shard(0)] * len(names))


def check_replicated(mesh: DeviceMesh) -> None:
    places = {"gate_bias": Replicate()}
    results = compare(mesh, operands(), [Replicate()] * 2, rows(*places), places, Replicate())
    check(*results, [Replicate()] * 4)


def check_packed(mesh: DeviceMesh) -> None:
    by_columns(mesh, "interleaved", Shard(COLUMNS))


def by_columns(mesh, layout, place):
    """Packed columns that are split so that each process holds gate and up that match."""
    gate, up, grad_out = operands()
    x = pack(gate, up, layout)
    for names in OPTIONS:
        given = rows(*names)
        part = {name: split(given[name], mesh, Shard(0)) for name in names}
        parts = split(x, mesh, place), split(grad_out, mesh, Shard(COLUMNS))
        with CommDebugMode() as communication:
            distributed = run(parts[:1], part, parts[1], layout=layout)
        assert communication.get_total_counts() == 0
        single = run([x], given, grad_out, layout=layout)
        check(distributed, single, [Shard(COLUMNS), place, *[Shard(0)] * len(names)])


def check_packed_torn(mesh: DeviceMesh) -> None:
    inputs = operands()
    odd = [tensor[..., :5].contiguous() for tensor in inputs]  # [5, 5] of 10 columns for each
    for layout in ("gate_up", "up_gate"):
        torn(mesh, layout, inputs, Shard(COLUMNS))
    torn(mesh, "interleaved", odd, Shard(COLUMNS))


def torn(mesh, layout, inputs, place):
    """Where a part would hold gates without their ups, data is moved first."""
    *inputs, grad = inputs
    x = pack(*inputs, layout)
    parts = split(x, mesh, place), split(grad, mesh)
    with CommDebugMode() as communication:
        distributed = run(parts[:1], {}, parts[1], layout=layout)
    assert communication.get_total_counts() > 0
    check(distributed, run([x], {}, grad, layout=layout))


def check_uneven(mesh: DeviceMesh) -> None:
    inputs = operands((3, 5))
    for dim in range(2):
        check(*compare(mesh, inputs, [Shard(dim)] * 2, {}, {}, Shard(dim)))


def check_different_placements(mesh: DeviceMesh) -> None:
    gate, up, grad_out = operands()
    given = rows("gate_bias")
    for places in ((Shard(0), Replicate()), (Shard(0), Shard(COLUMNS)), (Shard(1), Shard(0))):
        parts = [
            split(tensor, mesh, place) for tensor, place in zip((gate, up), places, strict=True)
        ]
        bias = {"gate_bias": split(given["gate_bias"], mesh, Shard(0))}
        distributed = run(parts, bias, split(grad_out, mesh))
        check(distributed, run([gate, up], given, grad_out))


def check_single_value(mesh: DeviceMesh) -> None:
    """The gradient of one parameter for all columns is a sum over those of all processes."""
    gate, up, grad_out = operands()
    given = {"beta": torch.tensor(0.5, dtype=torch.float64), **rows("up_bias")}
    for place, row in ((Shard(COLUMNS), Shard(0)), (Shard(0), Replicate())):
        parts = [split(tensor, mesh, place) for tensor in (gate, up, grad_out)]
        part = {"beta": split(given["beta"], mesh), "up_bias": split(given["up_bias"], mesh, row)}
        distributed = run(parts[:2], part, parts[2])
        check(distributed, run([gate, up], given, grad_out))


def check_two_mesh_dimensions(mesh: DeviceMesh) -> None:
    two_mesh_dimensions(operands()[:2], Shard(COLUMNS))


def two_mesh_dimensions(inputs, columns):
    """Rows over one and columns over the other."""
    grad_out = operands()[-1]
    given = rows("gate_bias", "up_bias")
    for shape in ((1, 2), (2, 1)):
        grid = init_device_mesh("cpu", shape)
        parts = [split(tensor, grid, Shard(0), columns) for tensor in inputs]
        part = {n: split(row, grid, Replicate(), Shard(0)) for n, row in given.items()}
        grad_part = split(grad_out, grid, Shard(0), Shard(COLUMNS))
        with CommDebugMode() as communication:
            distributed = run(parts, part, grad_part)
        assert communication.get_total_counts() == 0
        check(distributed, run(inputs, given, grad_out))


NUMBER = torch.tensor(1.5, dtype=torch.float64)  # on the CPU, as compiled code has it
SWIGLU = (list(fused_acts.variants()).index("swiglu"), 0)


def recorded_calls():
    """{operator of recorded or compiled programs: (arguments, results for each sum over rows)}"""
    gate, up, grad_out = operands()
    bias, beta = rows("gate_bias", "beta").values()
    numbers = NUMBER, NUMBER, None, NUMBER
    return {
        "gated": (gate, up, bias, None, beta, 1.0, 1.0, 2.0, 1.5, *SWIGLU),
        "glu_forward_numbers": (gate, up, bias, None, None, *[NUMBER] * 4, *SWIGLU),
        "glu_backward_numbers": (grad_out, gate, up, bias, None, None, *numbers, *SWIGLU, 7),
        "maxout": (gate, 2),
        "softmax_glu": (gate, up),
        "row_unit": (gate, up, bias, None, 0, 1e-6, 1),
        "row_unit_backward": (
            *(grad_out, gate, up, bias, None),
            torch.ops.fused_acts.row_unit_forward(gate, up, bias, None, 0, 1e-6, 1)[1],
            *(0, 1e-6, 1, 7),
        ),
    }


def check_operators_of_programs(mesh: DeviceMesh) -> None:
    """Split by rows, and where a row may be by columns; no data moves."""
    for name, arguments in recorded_calls().items():
        op = getattr(torch.ops.fused_acts, name)
        whole = op(*arguments)
        places = [*map(Shard, ROWS), Replicate()]
        whole_rows = name == "softmax_glu" or name.startswith("row_unit")
        for place in places if whole_rows else [*places, Shard(COLUMNS)]:
            of_row = Shard(0) if place == Shard(COLUMNS) else Replicate()

            def part(value, place=place, of_row=of_row):
                if not isinstance(value, torch.Tensor) or value is NUMBER:
                    return value
                return split(value, mesh, place if value.dim() > 1 else of_row)

            given = list(map(part, arguments))
            with CommDebugMode() as communication:
                parts = op(*given)
            assert communication.get_total_counts() == 0, (name, place)
            results = (
                zip(parts, whole, strict=True) if isinstance(whole, tuple) else [(parts, whole)]
            )
            for each, expected in results:
                if each.placements[0].is_partial():  # sums over rows
                    assert torch.allclose(each.full_tensor(), expected)
                else:
                    of_each = place if expected.dim() > 1 else of_row
                    assert each.placements == (of_each,) or expected.numel() == 0
                    assert torch.equal(each.full_tensor(), expected), (name, place)


def check_every_operator_has_a_rule(mesh: DeviceMesh) -> None:
    """Every one that there is and takes tensors, the names of which only the registry has."""
    names = {n for n in torch._C._dispatch_get_all_op_names() if n.startswith("fused_acts::")}
    no_rule = {name for name in names if name.startswith("fused_acts::info_")}
    no_rule.add("fused_acts::define_unit")
    no_rule.add("fused_acts::grouped_mm")  # experts that are DTensors are composed
    assert {op.name() for op in _ops.OPERATORS} == names - no_rule
    # of whole rows or groups
    names = "maxout", "softmax_glu", "row_unit", "quantize_blocks", "dequantize_blocks"
    whole = tuple(f"fused_acts::{name}" for name in names)
    units = {op for op in _ops.OPERATORS if not op.name().startswith(whole)}
    assert sharding.RESULTS.keys() == units
