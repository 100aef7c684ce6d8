"""Ways to say whose rows are whose, and the check of such a call against a loop over experts."""

from typing import Any, NamedTuple

import torch
from cases import ACTIVATIONS, operands, pack, random, to_device, unpack
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
from torch import Tensor

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
