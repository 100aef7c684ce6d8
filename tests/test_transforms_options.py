"""The transforms of torch.func with options, and how many calls of the kernel they make."""

import pytest
import torch
from cases import ACTIVATIONS, LAYOUTS, ROWS, as_inputs, operands, own_layout
from derivative_cases import F64, Operators, of, option_cases
from tolerances import close
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import fused_acts

# A row with each kind of option: names of those that are tensors, and the others.
WITH_ROWS = [
    ("gtu", ("gate_bias", "up_bias"), {}),
    ("swiglu", ("beta",), {}),
    ("swiglu", ("beta", "gate_bias", "up_bias"), {"limit": 1.3}),
    ("elu_glu", ("alpha", "up_bias"), {}),
    ("geglu", ("gate_bias",), {"limit": 0.7}),
    ("swiglu_oai", (), {"alpha": 1.1, "limit": 1.3}),
    ("gelu", ("bias",), {}),
    ("swish", ("beta",), {}),
    ("prelu", ("slope", "bias"), {}),
    ("softplus", ("beta", "bias"), {}),
]
EVERY_CASE = list(range(len(WITH_ROWS)))
CASES = [
    (case, own_layout(WITH_ROWS[case][0], layout))
    for case in EVERY_CASE
    for layout in ("separate", "interleaved")
    if layout == "separate" or WITH_ROWS[case][0] not in ACTIVATIONS
]


def rows_for(names, *shape):
    return [
        torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(40 + seed))
        for seed, _ in enumerate(names)
    ]


@pytest.mark.parametrize(
    "transform",
    [
        lambda f, n: grad(lambda *x: f(*x).sin().sum(), argnums=n),
        lambda f, n: lambda *x: vjp(f, *x)[1](f(*x).detach().cos()),
        lambda f, n: lambda *x: jvp(f, x, tuple(t.cos() for t in x)),
        lambda f, n: jacrev(f, argnums=n),
        lambda f, n: jacfwd(f, argnums=n),
        lambda f, n: hessian(lambda *x: f(*x).sin().sum(), argnums=n),
        lambda f, n: jacrev(jacfwd(lambda *x: f(*x).sin().sum(), argnums=n), argnums=n),
    ],
    ids=["grad", "vjp", "jvp", "jacrev", "jacfwd", "hessian", "jacrev of jacfwd"],
)
@pytest.mark.parametrize("case, layout", CASES)
def test_func_with_options(case, layout, transform):
    """By the operands and by all biases and parameters."""
    name, names, others = WITH_ROWS[case]
    inputs = as_inputs(*operands(2, 3, dtype=F64)[:2], layout)
    tensors = (*inputs, *rows_for(names, 3))
    every = tuple(range(len(tensors)))
    for_names = of(name, names, layout, **others)
    close(*(transform(function, every)(*tensors) for function in for_names))


def samples(tensors, dims):
    """The arguments of each sample of a batch, as a loop would take them."""
    size = next(len(t) for t, d in zip(tensors, dims, strict=True) if d == 0)
    for i in range(size):
        yield [t[i] if d == 0 else t for t, d in zip(tensors, dims, strict=True)]


# vmap of a bias or of a parameter runs a composition of torch's operations. What it must give is
# what the kernels give sample by sample, which that composition has no part in.
@pytest.mark.parametrize("case, layout", CASES)
def test_vmap_with_options(case, layout):
    """With any of the operands, biases and parameters in the batch, and the others shared."""
    name, names, others = WITH_ROWS[case]
    function, _ = of(name, names, layout, **others)
    inputs = as_inputs(*operands(5, 2, 4, dtype=F64)[:2], layout)
    every = tuple(range(len(inputs) + len(names)))

    def gradients(*tensors):
        return grad(lambda *t: function(*t).sin().sum(), argnums=every)(*tensors)

    for bits in range(1, 2 ** len(every)):
        batched = [bool(bits >> i & 1) for i in every]
        tensors = [*inputs, *rows_for(names, 5, 4)]
        tensors = [t if b else t[0] for t, b in zip(tensors, batched, strict=True)]
        dims = tuple(0 if b else None for b in batched)
        each = [function(*sample) for sample in samples(tensors, dims)]
        close(vmap(function, dims)(*tensors), torch.stack(each))
        each = [by_backward(function, sample) for sample in samples(tensors, dims)]
        close(vmap(gradients, dims)(*tensors), tuple(map(torch.stack, zip(*each, strict=True))))


def by_backward(function, tensors):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    return torch.autograd.grad(function(*leaves).sin().sum(), leaves)


@pytest.mark.parametrize("name", ROWS)
def test_vmap_of_biases_and_parameters_of_every_row(name):
    """Together, and each sample's gradients by them."""
    x = (operands(5, 2, 4, dtype=F64)[0] * 25).round() / 50 + 0.013
    for rows, others in option_cases(name, 4):
        function, _ = of(name, rows, **others)
        inputs = as_inputs(x, x.flip(0), own_layout(name))
        batches = [torch.stack([row * (1 + i / 9) for i in range(5)]) for row in rows.values()]
        tensors = (*inputs, *batches)
        every = tuple(range(len(tensors)))
        gradients = grad(lambda *t, f=function: f(*t).sin().sum(), argnums=every)
        each = [by_backward(function, sample) for sample in samples(tensors, [0] * len(tensors))]
        close(vmap(gradients)(*tensors), tuple(map(torch.stack, zip(*each, strict=True))))


@pytest.mark.parametrize("case", EVERY_CASE)
def test_nested_transforms_with_options(case):
    name, names, others = WITH_ROWS[case]
    functions = of(name, names, **others)
    inputs = as_inputs(*operands(3, 2, 4, dtype=F64)[:2], own_layout(name))
    tensors = [*inputs, *rows_for(names, 3, 4)]
    every = tuple(range(len(tensors)))
    close(*(vmap(hessian(lambda *t, f=f: f(*t).sin().sum(), every))(*tensors) for f in functions))
    close(*(vmap(jacfwd(f, every))(*tensors) for f in functions))
    gates = tensors[0].expand(2, *tensors[0].shape)
    close(
        *(vmap(vmap(f), (0, *[None] * (len(tensors) - 1)))(gates, *tensors[1:]) for f in functions)
    )


@pytest.mark.parametrize("kind", ["scalar", "per channel"])
def test_gradients_by_parameter_and_bias_are_per_sample(kind):
    """vmap of grad by what all samples share gives one gradient each, not their sum."""
    gate, up, _ = operands(5, 3, 4, dtype=F64)
    beta, bias = rows_for(("beta", "bias"), *(() if kind == "scalar" else (4,)))
    bias = bias.expand(4)

    def loss(beta, bias, gate, up):
        return fused_acts.swiglu(gate, up, beta=beta, gate_bias=bias).square().sum()

    grads = vmap(grad(loss, argnums=(0, 1)), in_dims=(None, None, 0, 0))(beta, bias, gate, up)
    for i in range(5):
        close(tuple(g[i] for g in grads), grad(loss, argnums=(0, 1))(beta, bias, gate[i], up[i]))


@pytest.mark.parametrize("options", [{}, {"limit": 1.3}, {"up_bias": torch.ones(4, dtype=F64)}])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_vmap_is_one_call_of_the_kernel(layout, options):
    inputs = as_inputs(*operands(7, 3, 4, dtype=F64)[:2], layout)
    function, _ = of("swiglu", layout=layout, **options)

    def ran(transform):
        with Operators() as operators:
            transform(*inputs)
        return [name.removesuffix("_options") for name in operators.names]

    every = tuple(range(len(inputs)))
    assert ran(vmap(function)) == ["glu_forward"]
    assert ran(vmap(vmap(function))) == ["glu_forward"]
    of_sum = grad(lambda *t: function(*t).sum(), argnums=every)
    assert ran(vmap(of_sum)) == ["glu_forward", "glu_backward"]
    directional = vmap(lambda *t: jvp(function, t, t))
    assert ran(directional) == ["glu_forward", "glu_double_backward"]


def test_vmap_of_an_activation_is_one_call_of_the_kernel():
    x, _, _ = operands(5, 2, 4, dtype=F64)
    with Operators() as ran:
        vmap(fused_acts.swish)(x)
        vmap(lambda t: jvp(fused_acts.gelu, (t,), (t,)))(x)
    assert ran.names == ["glu_forward", "glu_forward", "glu_double_backward"]


def test_a_batch_of_biases_is_no_loop():
    """Composed of torch operations, as many for a large batch as for a small one."""
    gate, up, _ = operands(64, 3, 4, dtype=F64)
    biases = torch.randn(64, 4, dtype=F64)

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            counts[-1] += 1
            return func(*args, **(kwargs or {}))

    counts = []
    for size in (2, 64):
        counts.append(0)
        with Count():
            vmap(grad(lambda g, u, b: fused_acts.geglu(g, u, gate_bias=b).sum(), argnums=2))(
                gate[:size], up[:size], biases[:size]
            )
    assert counts[0] == counts[1] < 64
