"""Parameters of f that are tensors: values, gradients, and the sums over rows that these are."""

from itertools import product

import pytest
import torch
from cases import (
    ACTIVATIONS,
    DEVICES,
    DTYPES,
    ROWS,
    as_inputs,
    operands,
    own_layout,
    random,
    rows_and_layouts,
    same_bits,
    to_device,
    widths,
)
from derivative_cases import Operators, of
from option_cases import (
    LIMITED,
    PARAMETRIC,
    biases,
    check_everything,
    check_sums,
    fused,
    oracle,
    parameter,
    parameters,
    real,
)

import fused_acts

F64 = torch.float64


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, layout", rows_and_layouts(PARAMETRIC))
def test_against_the_oracle(name, layout, dtype, device):
    """With parameters in the dtype of the data and in float32, alone and with all the rest."""
    for cols, own in product(widths(device), {dtype, real(dtype)}):
        gate, up, grad_out = operands(3, 13, cols, dtype=dtype)
        rest = biases(name, cols, own) | ({"limit": 2.5} if name in LIMITED else {})
        for value in parameters(cols, own).values():
            given = parameter(name, value)
            check_everything(name, gate, up, given, grad_out, layout, device)
            check_everything(name, gate, up, given | rest, grad_out, layout, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PARAMETRIC)
def test_a_tensor_is_as_good_as_a_number(name, dtype, device):
    """The same bits, for any shape of the same value."""
    gate, up, grad_out = operands(9, 67, dtype=dtype)
    number = fused(name, gate, up, parameter(name, 0.75), grad_out, device=device)
    for shape in ((), (1,), (67,)):
        tensor = torch.full(shape, 0.75, dtype=real(dtype))
        result = fused(name, gate, up, parameter(name, tensor), grad_out, device=device)
        assert same_bits(result.out, number.out)
        assert all(map(same_bits, result.inputs, number.inputs))


# swiglu and swish stand for all that take a parameter, softplus for those without plain kernels.
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [0, 1, 3, 257, 4097])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, layout", rows_and_layouts(("swiglu", "swish", "softplus")))
def test_sums_over_rows(name, layout, dtype, rows, device, threads):
    """Right, and equal to the last bit whatever the number of threads and the strides."""
    cols = 37
    tensors = operands(rows, cols, dtype=dtype)
    wide = torch.full((3, rows, 2 * cols + 9), float("nan"), dtype=dtype)
    for shape in ("single", "per channel"):
        options = parameter(name, parameters(cols, real(dtype))[shape])
        options |= biases(name, cols, real(dtype))
        results = []
        for number in (1, 2):
            threads(number)
            results.append(fused(name, *tensors[:2], options, tensors[2], layout, device))
        strided = [
            into[:, 5 : tensor.shape[1] + 5].copy_(tensor)
            for into, tensor in zip(wide, tensors, strict=True)
        ]
        results.append(fused(name, *strided[:2], options, strided[2], layout, device))
        check_sums(results[0], oracle(name, *tensors[:2], options, tensors[2]), cols)
        for other in results[1:]:
            assert all(map(same_bits, other.tensors(), results[0].tensors()))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name, layout", rows_and_layouts(("swiglu", "prelu")))
def test_sums_of_row_kernels_are_those_of_general_ones(name, layout, dtype):
    rows, cols = 70, 264
    tensors = operands(rows, cols, dtype=dtype)
    options = parameter(name, parameters(cols, dtype)["per channel"]) | biases(name, cols, dtype)
    result = fused(name, *tensors[:2], options, tensors[2], layout, "cuda")
    # each row begins where no vector does
    moved = [torch.zeros(rows, cols + 1, dtype=dtype)[:, 1:].copy_(t) for t in tensors]
    other = fused(name, *moved[:2], options, moved[2], layout, "cuda")
    assert all(map(same_bits, other.tensors(), result.tensors()))


@pytest.mark.parametrize("name", PARAMETRIC)
def test_sums_of_every_row(name):
    gate, up, grad_out = operands(257, 37, dtype=torch.bfloat16)
    for value in parameters(37, torch.float32).values():
        check_everything(name, gate, up, parameter(name, value), grad_out)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 0), (0, 0), (3, 1), (8161, 2), (2, 5000), (6,)])
@pytest.mark.parametrize("name", ["swiglu", "swish"])
def test_odd_shapes(name, shape, device):
    gate, up, grad_out = operands(*shape, dtype=F64)
    for value in parameters(shape[-1], F64).values():
        rest = biases(name, shape[-1], F64)
        for options in (parameter(name, value), parameter(name, value) | rest):
            check_everything(name, gate, up, options, grad_out, device=device)


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name in PARAMETRIC])
def test_one_parameter_of_a_long_row(name):
    """A float that adds up millions of numbers of one sign loses digits."""
    x = -torch.rand(1 << 22) - 0.5
    grad_out = torch.ones_like(x)
    value = parameter(name, torch.tensor(1.5))
    grads = fused(name, x, x, value, grad_out).options.values()
    exact = oracle(name, x, x, value, grad_out).called.options.values()
    for one, other in zip(grads, exact, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-6, atol=0)


def test_the_gradient_of_softplus_by_beta_does_not_cancel():
    x = torch.tensor([10.0, 1e2, 1e4, 1e6, -10.0, -1e4])
    beta = torch.full((6,), 1.7)
    (grad,) = fused("softplus", x, x, {"beta": beta}, torch.ones_like(x)).options.values()
    z = 1.7 * x.double().abs()
    exact = -(z * torch.exp(-z) / (1 + torch.exp(-z)) + torch.log1p(torch.exp(-z))) / 1.7**2
    torch.testing.assert_close(grad.double(), exact, rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("name", PARAMETRIC)
def test_gradcheck(name):
    gate, up, _ = operands(3, 5, dtype=F64)
    for value in parameters(5, F64).values():
        assert torch.autograd.gradcheck(
            of(name, names=parameter(name, value))[0],
            [
                t.clone().requires_grad_()
                for t in (
                    *as_inputs(gate, up, own_layout(name)),
                    *[value] * len(ROWS[name].parameters),
                )
            ],
            check_forward_ad=True,
            check_batched_grad=True,
        )


@pytest.mark.parametrize("name", PARAMETRIC)
def test_no_gradient_where_none_is_wanted(name):
    gate, up, grad_out = operands(6, 33, dtype=torch.float32)
    given = parameters(33, torch.float32)["per channel"]
    option = [*ROWS[name].parameters][-1]
    wanted = fused(name, gate, up, {option: given}, grad_out)
    function, _ = of(name, **{option: given})
    inputs = as_inputs(gate.requires_grad_(), up, own_layout(name))
    function(*inputs).backward(grad_out)
    assert given.grad is None and same_bits(gate.grad, wanted.inputs[0])
    inputs = as_inputs(gate.detach(), up, own_layout(name))
    given.requires_grad_()
    function(*inputs).backward(grad_out)
    assert same_bits(given.grad, *wanted.options.values())


def test_only_what_is_wanted_of_an_activation_is_computed():
    x, _, grad_out = operands(6, 33, dtype=torch.float32)
    bias, beta = random(33, dtype=torch.float32, seed=7), torch.tensor(0.8)
    every = fused("swish", x, x, {"bias": bias, "beta": beta}, grad_out)
    expected = {"x": every.inputs[0], **every.options}
    for wanted in ("x", "bias", "beta"):
        tensors = {"x": x, "bias": bias, "beta": beta}
        leaf = tensors[wanted] = tensors[wanted].clone().requires_grad_()
        out = fused_acts.swish(**tensors)
        with Operators() as ran:
            (grad,) = torch.autograd.grad(out, leaf, grad_out)
        assert same_bits(grad, expected[wanted])
        (results,) = ran.results
        computed = ("x", "up", "bias", "up_bias", "beta", "weight")
        assert [grad.numel() > 0 for grad in results] == [wanted == name for name in computed]


def test_a_parameter_changed_after_the_forward_pass_is_noticed():
    gate, up, _ = operands(6, 33, dtype=torch.float32)
    for function, inputs in ((fused_acts.swiglu, (gate, up)), (fused_acts.swish, (gate,))):
        beta = torch.ones((), requires_grad=True)
        out = function(*inputs, beta=beta)
        with torch.no_grad():
            beta.add_(1.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()


def test_gradients_of_one_call_do_not_share_memory():
    gate, up, grad_out = operands(6, 33, dtype=torch.float32)
    rows = [torch.ones(33, requires_grad=True) for _ in range(3)]
    out = fused_acts.swiglu(gate, up, gate_bias=rows[0], up_bias=rows[1], beta=rows[2])
    grads = torch.autograd.grad(out, rows, grad_out)
    assert len({grad.untyped_storage().data_ptr() for grad in grads}) == 3
    assert all(grad.untyped_storage().nbytes() == grad.nbytes for grad in grads)


@pytest.mark.parametrize("device", DEVICES)
def test_one_value_expanded_to_the_columns(device):
    """Its columns share an address, and each still has a gradient of its own."""
    gate, up, grad_out = (to_device(t, device) for t in operands(33, 6, dtype=F64))
    for name in ("swiglu", "prelu"):
        value = to_device(torch.tensor([1.5], dtype=F64), device)
        full = to_device(torch.full((6,), 1.5, dtype=F64), device)
        inputs = as_inputs(gate, up, own_layout(name))
        grads = []
        for row in (value.expand(6), full):
            leaf = row.detach().requires_grad_()
            out = of(name, **parameter(name, leaf))[0](*inputs)
            grads.append(torch.autograd.grad(out, leaf, grad_out)[0].cpu())
        assert same_bits(*grads)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [name for name in PARAMETRIC if len(ROWS[name].parameters) == 2])
def test_one_of_two_parameters(name, device):
    """Each alone and both, of every shape together: values, and gradients of their own shapes."""
    gate, up, grad_out = operands(5, 67, dtype=torch.float32)
    first, second = ROWS[name].parameters
    single, per_column = torch.tensor([0.7]), torch.linspace(0.5, 1.5, 67)
    for options in (
        {first: single},
        {second: per_column},
        {first: per_column, second: 0.9},
        {first: single, second: per_column.bfloat16().float()},
        {first: per_column, second: torch.tensor(1.1)},
    ):
        check_everything(name, gate, up, options, grad_out, device=device)


def test_errors_of_two_parameters():
    x = torch.zeros(2, 3)
    for wrong in (torch.zeros(2), torch.zeros(2, 3)):
        with pytest.raises(ValueError, match="^alpha_n: expected shape"):
            fused_acts.xielu(x, alpha_p=torch.ones(3), alpha_n=wrong)
    with pytest.raises(TypeError, match="^alpha_p: expected dtype"):
        fused_acts.xielu(x, alpha_p=torch.ones(3, dtype=torch.float64))


def test_no_cap_is_no_cap():
    """None, for each of the two, over every size."""
    x = torch.cat([torch.logspace(-44, 38, 999), -torch.logspace(-44, 38, 999)])
    x = torch.cat([x, torch.tensor([0.0, -0.0, float("inf"), -float("inf")])])
    one = torch.ones_like(x)
    assert same_bits(
        fused_acts.situ_glu(one, x, linear_beta=None),
        fused_acts.situ_glu(one, one, linear_beta=None) * x,
    )
    silu = fused_acts.situ_glu(x[:-1], one[:-1], beta=None, linear_beta=None)
    torch.testing.assert_close(silu, torch.nn.functional.silu(x[:-1]))
