"""Derivatives of the library's functions and of the oracle's, and what operators run for them."""

import torch
from cases import ACTIVATIONS, KINDS, own_layout, to_device
from option_cases import LIMITED, PARAMETRIC, SHAPES, biases, parameter, parameters
from torch import func
from torch.utils._python_dispatch import TorchDispatchMode

import fused_acts
from fused_acts import reference

F64 = torch.float64


def of(name, names=(), layout="separate", **others):
    """The library's function and the oracle's, of the operands and then of these options."""
    layout = own_layout(name, layout)
    inputs = 2 if layout == "separate" else 1
    functions = fused_acts.gated, reference.gated
    if name in ACTIVATIONS:
        functions = fused_acts.activation, reference.activation
        others["name"] = name
    else:
        others["variant"] = name
    if layout in ("gate_up", "up_gate", "interleaved"):
        others["layout"] = layout

    def bound(function):
        def call(*tensors, **more):
            options = dict(zip(names, tensors[inputs:], strict=True))
            return function(*tensors[:inputs], **others, **options, **more)

        return call

    return tuple(map(bound, functions))


def option_cases(name, cols):
    """(options that are tensors, others), of every kind that the row has."""
    rows = biases(name, cols, F64)
    rows = {option: row.sign() * 0.7 + 0.1 * i for i, (option, row) in enumerate(rows.items())}
    yield rows, {}
    if name not in ACTIVATIONS:
        yield {"up_bias": rows["up_bias"]}, {}
    if name in LIMITED:
        yield rows, {"limit": 1.3}
    if name in PARAMETRIC:
        every = parameters(cols, F64)
        for shape in SHAPES if name in KINDS else SHAPES[-1:]:
            yield parameter(name, value := every[shape]), {}
        yield parameter(name, value) | rows, {"limit": 1.3} if name in LIMITED else {}


def second(function, inputs, grad_out, directions):
    """[gradients by grad_out, *inputs] of the gradients by the inputs along directions."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (grad_out, *inputs)]
    grads = torch.autograd.grad(function(*leaves[1:]), leaves[1:], leaves[0], create_graph=True)
    return torch.autograd.grad(grads, leaves, directions, materialize_grads=True)


def tangent(function, inputs, directions):
    return func.jvp(function, tuple(inputs), tuple(directions))[1]


def wide(tensors):
    return [tensor.double() for tensor in tensors]


def computed(tensor, device="cpu"):
    """A tensor that is no leaf, with the leaf that it is computed from."""
    leaf = to_device(tensor, device).requires_grad_()
    return leaf, leaf * 1


class Operators(TorchDispatchMode):
    """The names of the library's operators in the order that they run, and their results."""

    def __init__(self):
        super().__init__()
        self.names = []
        self.results = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.namespace == "fused_acts":
            self.names.append(func._opname)
            self.results.append(result)
        return result
