"""The transforms of torch.func with options, and how many calls of the kernel they make."""

import pytest
import torch
from cases import LAYOUTS, as_inputs, operands
from option_cases import Operators
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import fused_acts

F64 = torch.float64


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


# A variant with each kind of option: names of those that are tensors, and the others.
WITH_ROWS = [
    ("gtu", ("gate_bias", "up_bias"), {}),
    ("swiglu", ("beta",), {}),
    ("swiglu", ("beta", "gate_bias", "up_bias"), {"limit": 1.3}),
    ("elu_glu", ("alpha", "up_bias"), {}),
    ("geglu", ("gate_bias",), {"limit": 0.7}),
    ("swiglu_oai", (), {"alpha": 1.1, "limit": 1.3}),
]


def functions_with_rows(variant, names, others, layout):
    """The library's and the oracle's, of the operands and then the rows."""
    if layout != "separate":
        others = {**others, "layout": layout}

    def bound(function):
        def call(*tensors):
            inputs, rows = (
                tensors[: len(tensors) - len(names)],
                tensors[len(tensors) - len(names) :],
            )
            options = dict(zip(names, rows, strict=True))
            return function(*inputs, variant=variant, **options, **others)

        return call

    return bound(fused_acts.gated), bound(fused_acts.reference.gated)


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
@pytest.mark.parametrize("layout", ["separate", "interleaved"])
@pytest.mark.parametrize("case", range(len(WITH_ROWS)))
def test_func_with_options(case, layout, transform):
    """By the operands and by all biases and parameters."""
    variant, names, others = WITH_ROWS[case]
    inputs = as_inputs(*operands(2, 3, dtype=F64)[:2], layout)
    tensors = (*inputs, *rows_for(names, 3))
    functions = functions_with_rows(variant, names, others, layout)
    every = tuple(range(len(tensors)))
    close(*(transform(function, every)(*tensors) for function in functions))


@pytest.mark.parametrize("layout", ["separate", "gate_up"])
@pytest.mark.parametrize("case", range(len(WITH_ROWS)))
def test_vmap_with_options(case, layout):
    """With any of the operands, biases and parameters in the batch, and the others shared."""
    variant, names, others = WITH_ROWS[case]
    functions = functions_with_rows(variant, names, others, layout)
    count = (2 if layout == "separate" else 1) + len(names)
    for bits in range(1, 2**count):
        batched = [bool(bits >> i & 1) for i in range(count)]
        inputs = as_inputs(*operands(5, 2, 4, dtype=F64)[:2], layout)
        tensors = [*inputs, *rows_for(names, 5, 4)]
        tensors = [t if b else t[0] for t, b in zip(tensors, batched, strict=True)]
        dims = tuple(0 if b else None for b in batched)
        close(*(vmap(function, dims)(*tensors) for function in functions))
        of_sum = (lambda *t, f=f: f(*t).sin().sum() for f in functions)
        every = tuple(range(count))
        close(*(vmap(grad(f, argnums=every), dims)(*tensors) for f in of_sum))


@pytest.mark.parametrize("case", range(len(WITH_ROWS)))
def test_nested_transforms_with_options(case):
    variant, names, others = WITH_ROWS[case]
    functions = functions_with_rows(variant, names, others, "separate")
    tensors = [*operands(3, 2, 4, dtype=F64)[:2], *rows_for(names, 3, 4)]
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
    others = options if layout == "separate" else {**options, "layout": layout}

    def function(*inputs):
        return fused_acts.swiglu(*inputs, **others)

    def ran(transform):
        with Operators() as operators:
            transform(*inputs)
        return [name.removesuffix("_options").removesuffix("_packed") for name in operators.names]

    every = tuple(range(len(inputs)))
    assert ran(vmap(function)) == ["glu_forward"]
    assert ran(vmap(vmap(function))) == ["glu_forward"]
    of_sum = grad(lambda *t: function(*t).sum(), argnums=every)
    assert ran(vmap(of_sum)) == ["glu_forward", "glu_backward"]
    directional = vmap(lambda *t: jvp(function, t, t))
    assert ran(directional) == ["glu_forward", "glu_second"]


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
