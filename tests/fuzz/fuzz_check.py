"""Runs a case, and checks values, gradients, errors and what lies around the operands."""

import math
from dataclasses import replace
from typing import Any

import torch
from cases import Result, exact, pack, random, same_bits, unpack
from fuzz_cases import MISTAKES, Case, row_of
from fuzz_memory import place
from option_cases import Called, check_call, check_sums, oracle, parameters, real
from tolerances import SOFTMAX_GLU_ULPS, check, check_result
from torch import Tensor

import fused_acts
from fused_acts import reference

# Of a case, in the order of the bits of `needs`.
OPERANDS = ("gate", "up", "gate_bias", "up_bias", "bias", "parameter")


def run_case(case: Case, device: str = "cpu") -> None:
    if case.mistake:
        check_refusal(case, device)
    elif case.kind == "maxout":
        check_maxout(case, device)
    elif case.kind == "softmax_glu":
        check_softmax_glu(case, device)
    else:
        check_unit(case, device)


class Operands:
    """What a case is called with, in its views, and the same as gate and up on the CPU, dense."""

    def __init__(self, case: Case, device: str):
        shape, dtype = (*case.rows, case.cols), case.dtype
        gate, up, grad_out = (random(*shape, dtype=dtype, seed=case.seed + i) for i in range(3))
        gate = (gate.double() * case.scale).to(dtype)
        self.case = case
        self.packed = case.kind == "unit" and case.layout != "separate"
        inputs = [self.turned(pack(gate, up, case.layout))] if self.packed else [gate, up]
        if case.kind == "activation":
            inputs = inputs[:1]
        self.inputs = [place(t, view, device) for t, view in zip(inputs, case.views, strict=False)]
        self.grad_out = place(self.turned(grad_out), case.views[2], device)
        self.vectors = {
            name: place(vector, case.views[1], device) for name, vector in self.made_vectors()
        }

    def turned(self, t: Tensor) -> Tensor:
        return t.movedim(-1, self.case.dim)

    def last(self, t: Tensor) -> Tensor:
        return (
            t.detach().cpu().movedim(self.case.dim, -1).clone(memory_format=torch.contiguous_format)
        )

    def made_vectors(self) -> Any:
        case, row = self.case, row_of(self.case)
        dtype = real(case.dtype) if case.wide else case.dtype
        for i, name in enumerate(case.biases):
            cols = 2 * case.cols if name == "bias" and case.kind == "unit" else case.cols
            yield name, random(cols, dtype=dtype, seed=case.seed + 7 + i)
        if case.parameter not in ("", "number"):
            yield row.parameter, parameters(case.cols, dtype)[case.parameter]

    def pair(self, inputs: list[Tensor]) -> list[Tensor]:
        """gate and up of what has the form of the inputs; of an activation, x alone."""
        rows = [self.last(t) for t in inputs]
        return [*unpack(rows[0], self.case.layout)] if self.packed else rows

    def numbers(self) -> dict[str, Any]:
        case, found = self.case, {}
        if case.parameter == "number":
            found[row_of(case).parameter] = 0.7
        if case.limit != "":
            found["limit"] = case.limit
        return found

    def how(self) -> dict[str, Any]:
        """What only the library is given."""
        case = self.case
        found: dict[str, Any] = {} if case.rounding == "single" else {"rounding": case.rounding}
        if self.packed:
            found["layout"] = case.layout
        if case.dim != -1:
            found["dim"] = case.dim
        return found

    def function(self, *inputs: Tensor, **options: Any) -> Tensor:
        if self.case.kind == "activation":
            return fused_acts.activation(*inputs, self.case.name, **options)
        return fused_acts.gated(*inputs, variant=self.case.name, **options)


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
    expected = right.called.inputs
    halves = [
        e.to(case.dtype) if g is None else ops.last(g) if not ops.packed else g
        for g, e in zip(halves, expected, strict=True)
    ]
    value = right.called.out.to(case.dtype) if case.rounding == "eager" else out
    if options:
        check_call(Called(value, halves, {}), right)
    else:
        grad_up = halves[1] if case.kind == "unit" else None
        check_result(
            case.name, Result(value, halves[0], grad_up), exact(case.name, gate, up, grad_out)
        )
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
    check(out.detach().cpu(), p * up, ulps)
    along = grad_out * up
    total = (p * along).sum(-1, keepdim=True)
    size = p * (along.abs() + (p * along).abs().sum(-1, keepdim=True))
    if grads[0] is not None:
        check(grads[0].cpu(), p * (along - total), ulps, size)
    if grads[1] is not None:
        check(grads[1].cpu(), p * grad_out, ulps)


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
