"""Runs a case, and checks values, gradients, errors and what lies around the operands."""

import math
from typing import Any

import torch
from cases import Result, exact, random, same_bits, unpack
from fuzz_cases import Case
from fuzz_memory import place
from fuzz_operands import Operands
from fuzz_refusals import check_refusal
from option_cases import Called, check_call, check_sums, oracle
from tolerances import SOFTMAX_GLU_ULPS, check, check_result
from torch import Tensor

import fused_acts
from fused_acts import reference


def run_case(case: Case, device: str = "cpu") -> None:
    if case.mistake:
        check_refusal(case, device)
    elif case.kind == "maxout":
        check_maxout(case, device)
    elif case.kind == "softmax_glu":
        check_softmax_glu(case, device)
    else:
        check_unit(case, device)


def needed(case: Case, tensors: list[Tensor]) -> list[bool]:
    return [bool(case.needs >> i & 1) for i in range(len(tensors))]


def differentiated(case: Case, function: Any, tensors: list[Tensor], grad_out: Tensor) -> Any:
    """out and the gradients by those that are needed; None for the others."""
    needs = needed(case, tensors)
    inplace = case.mode == "inplace_backward"
    given = []
    for i, (tensor, need) in enumerate(zip(tensors, needs, strict=True)):
        if need and inplace and i < 2:
            leaf = tensor.clone().requires_grad_()
            tensor.copy_(leaf)  # computed from a leaf, and still where it was
            given.append((tensor, leaf))
        else:
            tensor.requires_grad_(need)
            given.append((tensor, tensor))
    out = function(*(tensor for tensor, _ in given))
    leaves = [leaf for (_, leaf), need in zip(given, needs, strict=True) if need]
    if not leaves:
        return out, [None] * len(tensors)
    grads = iter(torch.autograd.grad(out, leaves, grad_out))
    return out.detach(), [next(grads) if need else None for need in needs]


def check_unit(case: Case, device: str) -> None:
    ops = Operands(case, device)
    options, how, names = ops.numbers(), ops.how(), [*ops.vectors]
    count = len(ops.inputs)

    def function(*tensors: Tensor) -> Tensor:
        vectors = dict(zip(names, tensors[count:], strict=True))
        return ops.function(*tensors[:count], **vectors, **options, **how)

    tensors = [*ops.inputs, *ops.vectors.values()]
    before = [t.detach().cpu().clone() for t in tensors]
    pair = ops.pair(ops.inputs)
    vectors = {name: vector.detach().cpu() for name, vector in ops.vectors.items()}
    eager = None
    if case.rounding == "eager" and case.dim == -1:  # of the same views: torch's bits go by them
        eager = reference.gated(*ops.inputs, variant=case.name, **ops.vectors, **options, **how)
    grads: list[Tensor | None] = [None] * len(tensors)
    if case.mode in ("grad", "inplace_backward"):
        how |= {"inplace_backward": True} if case.mode == "inplace_backward" else {}
        try:
            out, grads = differentiated(case, function, tensors, ops.grad_out)
        except ValueError as error:
            if case.mode == "inplace_backward" and str(error).startswith("inplace_backward: "):
                return  # such views are refused
            raise
    elif case.mode == "plain":
        out = function(*tensors)
    else:
        out = check_out(case, ops, function, tensors, how)
        tensors, before = tensors[1:], before[1:]
    if case.mode != "inplace_backward":
        assert all(same_bits(t.detach().cpu(), b) for t, b in zip(tensors, before, strict=True))
    if eager is not None:
        assert same_bits(out.cpu(), eager.cpu())
    check_values(case, ops, pair, vectors, out, grads)


def check_out(case: Case, ops: Operands, function: Any, tensors: Any, how: Any) -> Tensor:
    """out= has the bits of a call without it, and nothing between its elements changes."""
    expected = function(*tensors)
    if case.mode == "out is gate" and not ops.packed:
        out = ops.inputs[0]
    else:
        out = place(torch.full_like(expected.cpu(), 7.0), case.views[3], str(expected.device))
    how["out"] = out
    assert function(*tensors) is out
    assert same_bits(out.cpu(), expected.cpu())
    around = out.clone()
    out.fill_(math.nan)  # the elements themselves: now all of a view that has gaps is NaN
    whole = out.as_strided((used(out),), (1,))
    assert whole.isnan().all()
    return out.copy_(around)


def used(t: Tensor) -> int:
    if t.numel() == 0:
        return 0
    return 1 + sum((n - 1) * stride for n, stride in zip(t.shape, t.stride(), strict=True))


def check_values(
    case: Case, ops: Operands, pair: Any, vectors: Any, out: Tensor, grads: list[Any]
) -> None:
    gate, up = (*pair, pair[0])[:2]
    out, grad_out = ops.last(out), ops.last(ops.grad_out)
    if case.kind == "unit" and case.layout != "separate" and "bias" in vectors:
        bias = vectors.pop("bias")
        vectors["gate_bias"], vectors["up_bias"] = unpack(bias, case.layout)
        packed_bias = True
    else:
        packed_bias = False
    options = {**ops.numbers(), **vectors}
    assert out.dtype == case.dtype and out.shape == gate.shape
    by_inputs = grads[: len(ops.inputs)]
    halves: list[Any] = by_inputs
    if ops.packed:
        halves = [None, None] if by_inputs[0] is None else ops.pair(by_inputs)
    right = oracle(case.name, gate, up, options, grad_out)
    alone = exact(case.name, gate, up, grad_out)
    expected = right.called.inputs if options else [alone.grad_gate, alone.grad_up]
    halves = [
        e if e is None else e.to(case.dtype) if g is None else g if ops.packed else ops.last(g)
        for g, e in zip((*halves, None)[:2], expected, strict=False)
    ]
    value = out
    if case.rounding == "eager":
        value = (right.called.out if options else alone.out).to(case.dtype)
    if options:
        check_call(Called(value, halves, {}), right)
    else:
        check_result(case.name, Result(value, *halves), alone, right.lost)
    by_vectors = dict(zip(ops.vectors, grads[len(ops.inputs) :], strict=True))
    found = {name: grad.detach().cpu() for name, grad in by_vectors.items() if grad is not None}
    for name, grad in found.items():
        assert grad.shape == ops.vectors[name].shape and grad.dtype == ops.vectors[name].dtype
    if packed_bias and "bias" in found:
        found["gate_bias"], found["up_bias"] = unpack(found.pop("bias"), case.layout)
    if gate.numel():
        check_sums(Called(out, [], found), right, case.cols)
    else:
        assert not any(grad.any() for grad in found.values())


def check_maxout(case: Case, device: str) -> None:
    x = random(*case.rows, case.cols * case.pieces, dtype=case.dtype, seed=case.seed)
    x.flatten()[:: 7 + case.seed] = math.nan
    x = place(x.movedim(-1, case.dim), case.views[0], device)
    shape = (*case.rows, case.cols)
    grad_out = random(*shape, dtype=case.dtype, seed=5).movedim(-1, case.dim)
    grad_out = place(grad_out, case.views[2], device)
    results = []
    for function, tensors in (
        (fused_acts.maxout, (x, grad_out)),
        (reference.maxout, (x.cpu().clone(), grad_out.cpu().clone())),
    ):
        leaf = tensors[0].detach().requires_grad_(bool(case.needs & 1))
        out = function(leaf, case.pieces, case.dim)
        results.append([out.detach().cpu()])
        if case.needs & 1:
            results[-1].append(torch.autograd.grad(out, leaf, tensors[1])[0].cpu())
    assert all(map(same_bits, *results))


def check_softmax_glu(case: Case, device: str) -> None:
    ops = Operands(case, device)
    gate, up, grad_out = (t.cpu().double() for t in (*ops.inputs, ops.grad_out))
    out, grads = differentiated(case, fused_acts.softmax_glu, ops.inputs, ops.grad_out)
    ulps = SOFTMAX_GLU_ULPS[case.dtype] * max(1.0, case.scale / 4)
    p = torch.softmax(gate, -1)
    # A probability below the smallest normal number may count as 0.
    low = p < torch.finfo(torch.float32).smallest_normal * 1.001
    checked = [(out.detach().cpu(), p * up)]
    along = grad_out * up
    total = (p * along).sum(-1, keepdim=True)
    size = p * (along.abs() + (p * along).abs().sum(-1, keepdim=True))
    if grads[0] is not None:
        right = torch.where(low & (grads[0].cpu() == 0), 0.0, p * (along - total))
        check(grads[0].cpu(), right, ulps, size)
    if grads[1] is not None:
        checked.append((grads[1].cpu(), p * grad_out))
    for actual, right in checked:
        check(actual, torch.where(low & (actual == 0), 0.0, right), ulps)
