"""What works for which variant on which device: one test for each cell of docs/support.md.

`pytest tests/test_support.py --write-support` writes the lines of the devices it runs on, from the
tests that passed. Without it, a test whose cell does not say so fails, as does a cell without test.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from cases import VARIANTS, operands, random, to_device
from conftest import SUPPORT_PAGE
from torch import Tensor

import fused_acts
from fused_acts import reference

Function = Callable[..., Tensor]
Inputs = list[Tensor]


def forward(function: Function, inputs: Inputs) -> Any:
    return function(*inputs)


def backward(function: Function, inputs: Inputs) -> Any:
    return torch.autograd.grad(function(*inputs).square().sum(), inputs)


def double_backward(function: Function, inputs: Inputs) -> Any:
    grads = torch.autograd.grad(function(*inputs).square().sum(), inputs, create_graph=True)
    return torch.autograd.grad(sum(grad.square().sum() for grad in grads), inputs)


def jvp(function: Function, inputs: Inputs) -> Any:
    primals = tuple(tensor.detach() for tensor in inputs)
    return torch.func.jvp(function, primals, tuple(primal * 0.5 for primal in primals))


def vmap(function: Function, inputs: Inputs) -> Any:
    per_sample = torch.func.grad(lambda *sample: function(*sample).square().sum(), argnums=(0, 1))
    return torch.vmap(per_sample)(*(tensor.detach() for tensor in inputs))


def compiled(function: Function, inputs: Inputs) -> Any:
    torch._dynamo.reset()
    # Tracing is in question here, not the code that Inductor makes of the rest.
    traced = torch.compile(lambda *x: function(*x), backend="aot_eager", fullgraph=True)
    return backward(traced, inputs)


def bias(function: Function, inputs: Inputs) -> Any:
    names = ("gate_bias", "up_bias")
    rows = [row(seed, inputs).requires_grad_() for seed in (11, 12)]
    out = function(*inputs, **dict(zip(names, rows, strict=True)))
    return torch.autograd.grad(out.square().sum(), [*inputs, *rows])


def learned_parameter(function: Function, inputs: Inputs) -> Any:
    name = reference.VARIANTS[function.keywords["variant"]].parameter
    per_channel = row(13, inputs)
    results = []
    for values in (per_channel, per_channel[0].clone()):
        parameter = values.requires_grad_()
        out = function(*inputs, **{name: parameter})
        results.append(torch.autograd.grad(out.square().sum(), [*inputs, parameter]))
    return results


def row(seed: int, inputs: Inputs) -> Tensor:
    return to_device(random(6, dtype=torch.float64, seed=seed), inputs[0].device.type)


FEATURES = (forward, backward, double_backward, jvp, vmap, compiled, bias, learned_parameter)


def compute(feature: Callable[..., Any], function: Function, variant: str, device: str) -> Any:
    inputs = [
        to_device(t, device).requires_grad_() for t in operands(4, 6, dtype=torch.float64)[:2]
    ]
    results = feature(partial(function, variant=variant), inputs)
    return torch.utils._pytree.tree_map(lambda tensor: tensor.detach().cpu(), results)


def cells() -> Iterator[Any]:
    for variant in VARIANTS:
        for device in ("cpu", "cuda"):
            for feature in FEATURES:
                if feature is not learned_parameter or reference.VARIANTS[variant].parameter:
                    marks = [pytest.mark.cuda] if device == "cuda" else []
                    name = f"{variant}-{device}-{feature.__name__}"
                    yield pytest.param(variant, device, feature, marks=marks, id=name)


@pytest.mark.parametrize(("variant", "device", "feature"), list(cells()))
def test_cell(variant, device, feature, request):
    actual = compute(feature, fused_acts.gated, variant, device)
    expected = compute(feature, reference.gated, variant, "cpu")
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)
    if not request.config.getoption("--write-support"):
        line = re.search(
            rf"^\| {variant} \| {device.upper()} \|(.*)\|$", SUPPORT_PAGE.read_text(), re.M
        )
        cells = [cell.strip() for cell in line[1].split("|")] if line else []
        assert cells and cells[FEATURES.index(feature)] == "yes", "run with --write-support"


def test_no_cell_without_a_test():
    lines = re.findall(r"^\| (\w+) \| (CPU|CUDA) \|(.*)\|$", SUPPORT_PAGE.read_text(), re.M)
    assert [(variant, device) for variant, device, _ in lines] == [
        (variant, device) for variant in VARIANTS for device in ("CPU", "CUDA")
    ]
    for variant, _, rest in lines:
        said = [cell.strip() for cell in rest.split("|")]
        assert len(said) == len(FEATURES) and set(said) <= {"yes", "-"}
        if reference.VARIANTS[variant].parameter is None:
            assert said[FEATURES.index(learned_parameter)] == "-"
