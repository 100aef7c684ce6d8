"""Calls with a mistake: the error says whose, and comes before anything is written."""

from dataclasses import replace

import torch
from fuzz_cases import MISTAKES, Case
from fuzz_operands import Operands


def check_refusal(case: Case, device: str) -> None:
    """The error names the argument, and nothing is written before it."""
    case = replace(case, dim=-1)
    ops = Operands(case, device)
    inputs, options = ops.inputs, {**ops.vectors, **ops.numbers(), **ops.how()}
    names, expected = MISTAKES[case.mistake], case.mistake
    out = torch.full((*case.rows, case.cols), 7.0, dtype=case.dtype, device=device)
    bias = "bias" if case.kind == "activation" else "up_bias"
    two = len(inputs) == 2
    if expected.endswith("a bias"):
        for name in ("bias", "gate_bias", "up_bias"):
            options.pop(name, None)
    if expected == "dtype of gate":
        inputs[0] = inputs[0].to(torch.int32)
        names = ("x", "gate", "up")
    elif expected in ("dtype of up", "shape of up") and two:
        other = torch.float64 if case.dtype != torch.float64 else torch.float32
        inputs[1] = inputs[1].to(other) if expected == "dtype of up" else inputs[1][..., None]
    elif expected == "width" and ops.packed:
        inputs[0] = torch.ones(*case.rows, 2 * case.cols + 1, dtype=case.dtype, device=device)
    elif expected == "0-d":
        inputs = [torch.ones((), dtype=case.dtype, device=device) for _ in inputs]
    elif expected == "shape of a bias":
        options[bias] = torch.ones(case.cols + 3, dtype=case.dtype, device=device)
    elif expected == "dtype of a bias":
        options[bias] = torch.ones(case.cols, dtype=torch.int64, device=device)
    elif expected == "an option it does not have":
        options["sharpness"] = 1.0
    elif expected == "limit":
        options["limit"] = -1.0
    elif expected == "layout" and case.kind == "unit":
        options["layout"] = "halves"
    elif expected == "shape of out":
        out = out[..., None]
    elif expected == "dtype of out":
        out = out.to(torch.int64)
    elif expected == "dim" and case.kind == "unit":
        options["dim"] = len(case.rows) + 3
    else:
        return  # not a mistake of this case
    before = [t.cpu().clone() for t in (*inputs, out)]
    try:
        ops.function(*inputs, **options, out=out)
    except (TypeError, ValueError, IndexError) as error:
        name, colon, _ = str(error).partition(": ")
        assert colon and name in names, f"{case.mistake}: {error}"
    else:
        raise AssertionError(f"{case.mistake}: no error")
    after = [t.cpu() for t in (*inputs, out)]
    assert all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(after, before, strict=True)
    )
