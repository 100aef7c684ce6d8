"""Derivatives of higher order, forward mode, and the transforms of torch.func."""

import pytest
import torch
from cases import LAYOUTS, PACKED, VARIANTS, as_inputs, exact_forward, gated, operands, unpack
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import fused_acts

F64 = torch.float64


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def oracle(variant, layout):
    """The same function of the same inputs, in plain torch."""

    def function(*inputs):
        gate, up = inputs if layout == "separate" else unpack(*inputs, layout)
        return exact_forward(variant, gate, up)

    return function


def fused(variant, layout):
    return lambda *inputs: gated(variant, inputs, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradgradcheck(variant, layout):
    gate, up, _ = operands(2, 3, dtype=F64)
    inputs = [tensor.requires_grad_() for tensor in as_inputs(gate, up, layout)]
    assert torch.autograd.gradgradcheck(
        fused(variant, layout), inputs, check_fwd_over_rev=True, check_rev_over_rev=True
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_third_derivative(variant, layout):
    inputs = as_inputs(*operands(2, 3, dtype=F64)[:2], layout)

    def third(function):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        value = function(*leaves)
        for _ in range(3):
            value = torch.autograd.grad(value.sin().sum(), leaves, create_graph=True)[0]
        return value

    close(third(fused(variant, layout)), third(oracle(variant, layout)))


@pytest.mark.parametrize("wanted", [0, 1])
@pytest.mark.parametrize("variant", VARIANTS)
def test_second_derivative_by_one_operand(variant, wanted):
    """With the other operand out of the graph, its gradient is None all the way."""
    inputs = operands(2, 3, dtype=F64)[:2]

    def second(function):
        leaves = [tensor.clone() for tensor in inputs]
        leaf = leaves[wanted].requires_grad_()
        (first,) = torch.autograd.grad(function(*leaves).exp().sum(), leaf, create_graph=True)
        return torch.autograd.grad(first.sum(), leaf)[0]

    close(second(fused(variant, "separate")), second(oracle(variant, "separate")))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_dual_numbers(variant, layout):
    inputs = as_inputs(*operands(4, 6, dtype=F64)[:2], layout)
    tangents = [tensor.cos() for tensor in inputs]
    _, expected = jvp(oracle(variant, layout), inputs, tuple(tangents))
    for grad_mode in (torch.enable_grad(), torch.no_grad()):
        with grad_mode, forward_ad.dual_level():
            duals = [forward_ad.make_dual(*pair) for pair in zip(inputs, tangents, strict=True)]
            out = forward_ad.unpack_dual(gated(variant, duals, layout))
            close(out.primal, gated(variant, inputs, layout))
            close(out.tangent, expected)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("variant", VARIANTS)
def test_tangent_of_one_operand(variant, which):
    inputs = list(operands(4, 6, dtype=F64)[:2])
    direction = inputs[which].cos()

    def along(function):
        def of_one(operand):
            return function(*inputs[:which], operand, *inputs[which + 1 :])

        return jvp(of_one, (inputs[which],), (direction,))

    close(along(fused(variant, "separate")), along(oracle(variant, "separate")))


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: lambda *inputs: grad(lambda *x: f(*x).sin().sum())(*inputs),
        lambda f: lambda *inputs: vjp(f, *inputs)[1](f(*inputs).detach()),
        lambda f: lambda *inputs: jvp(f, inputs, tuple(x.cos() for x in inputs)),
        jacrev,
        jacfwd,
        lambda f: hessian(lambda *inputs: f(*inputs).sin().sum()),
        lambda f: jacrev(jacrev(lambda *inputs: f(*inputs).sin().sum())),
        lambda f: vmap(lambda *inputs: f(*inputs).sin()),
        lambda f: vmap(grad(lambda *inputs: f(*inputs).sin().sum())),
        lambda f: vmap(hessian(lambda *inputs: f(*inputs).sin().sum())),
        lambda f: grad(lambda *inputs: vmap(f)(*inputs).sin().sum()),
        lambda f: vmap(vmap(f)),
    ],
    ids=[
        "grad",
        "vjp",
        "jvp",
        "jacrev",
        "jacfwd",
        "hessian",
        "jacrev of jacrev",
        "vmap",
        "vmap of grad",
        "vmap of hessian",
        "grad of vmap",
        "vmap of vmap",
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_func(variant, layout, transform):
    inputs = as_inputs(*operands(2, 2, 4, dtype=F64)[:2], layout)
    close(transform(fused(variant, layout))(*inputs), transform(oracle(variant, layout))(*inputs))


@pytest.mark.parametrize("in_dims", [(0, 0), (1, 1), (2, 0), (0, None), (None, 1), (-1, 2)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_vmap_over_any_dimension(variant, in_dims):
    shape = [3, 4, 5]

    def operand(dim, seed):
        sizes = list(shape)
        if dim is not None:
            sizes.insert(dim % 4, 2)
        return torch.randn(sizes, dtype=F64, generator=torch.Generator().manual_seed(seed))

    inputs = [operand(dim, seed) for seed, dim in enumerate(in_dims)]
    results = (vmap(f(variant, "separate"), in_dims)(*inputs) for f in (fused, oracle))
    close(*results)


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("layout", PACKED)
def test_vmap_of_packed_over_any_dimension(layout, dim):
    x, _, _ = operands(4, 6, 8, dtype=F64)
    for variant in VARIANTS:
        close(*(vmap(f(variant, layout), (dim,))(x) for f in (fused, oracle)))


def test_per_sample_gradients_of_a_module():
    """The usual use: vmap of grad over a batch, with parameters shared."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(6, 8, dtype=F64)
    samples = torch.randn(5, 6, dtype=F64)

    def loss(parameters, sample, function):
        return function(functional_call(linear, parameters, (sample,))).square().sum()

    parameters = dict(linear.named_parameters())
    results = [
        vmap(grad(loss), in_dims=(None, 0, None))(parameters, samples, function)
        for function in (fused_acts.geglu, oracle("geglu", "gate_up"))
    ]
    close(*results)
    assert results[0]["weight"].shape == (5, 8, 6)


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


class Operators(TorchDispatchMode):
    """The names of the library's operators in the order that they run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "fused_acts":
            self.names.append(func._opname)
        return func(*args, **(kwargs or {}))


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
