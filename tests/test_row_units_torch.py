"""rms_norm_gated, polynorm_glu, topk_geglu at home in torch: derivatives, compilation, errors."""

import pytest
import torch
from cases import DEVICES, same_bits
from row_unit_cases import UNITS, inputs_of
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import fused_acts

F64 = torch.float64
OPS = torch.ops.fused_acts
EVERY = ("norm_swish", "sigmoid_norm", "polynorm", "topk")
NUMBERS = {"polynorm": (4, 1e-6, 1), "topk": (5, 0.9, 1), "norm_swish": (0, 1e-6, 2)}
of_units = pytest.mark.parametrize("name", EVERY)


def function_of(name):
    """With a sparsity that leaves some of few gates."""
    unit = UNITS[name]
    return unit._replace(options={"sparsity": 0.4}) if name == "topk" else unit


@of_units
def test_higher_orders(name):
    inputs = [t.requires_grad_() for t in inputs_of(UNITS[name], 2, 4, dtype=F64)[0]]
    f = function_of(name).ours()
    assert torch.autograd.gradcheck(f, inputs, check_forward_ad=True, check_batched_grad=True)
    kinds = {"check_fwd_over_rev": True, "check_rev_over_rev": True}
    assert torch.autograd.gradgradcheck(f, inputs, **kinds)


@pytest.mark.parametrize(
    "transform",
    [
        lambda f, n: jacrev(f, n),
        lambda f, n: jacfwd(f, n),
        lambda f, n: hessian(lambda *x: f(*x).sin().sum(), n),
        lambda f, n: lambda *x: jvp(f, x, tuple(t.cos() for t in x)),
        lambda f, n: lambda *x: jvp(lambda g: f(g, *x[1:]), x[:1], (x[0].cos(),)),
        lambda f, n: lambda g, u, *p: vmap(f, (0, 0, *[None] * len(p)))(g, u, *p),
        lambda f, n: (
            lambda g, u, *p: vmap(f, (None, 0, *[0] * len(p)))(
                g[0], u, *(t.expand(len(u), -1) * 2 for t in p)
            )
        ),
        lambda f, n: (
            lambda g, u, *p: vmap(grad(lambda *x: f(*x).sin().sum(), n), (0, 0, *[None] * len(p)))(
                g, u, *p
            )
        ),
        lambda f, n: (
            lambda g, u, *p: vmap(jacrev(jacfwd(lambda g, u: f(g, u, *p).sin().sum())))(g, u)
        ),
    ],
    ids=["jacrev", "jacfwd", "hessian", "jvp", "jvp of first", *("vmap" + c for c in " p+*")],
)
@of_units
def test_transforms(name, transform):
    inputs, _ = inputs_of(UNITS[name], 3, 4, dtype=F64)
    unit, argnums = function_of(name), tuple(range(len(inputs)))
    expected = transform(unit.oracle(), argnums)(*inputs)
    torch.testing.assert_close(transform(unit.ours(), argnums)(*inputs), expected)


@pytest.mark.parametrize("device", DEVICES)
@of_units
def test_compile(name, device):
    inputs, _ = inputs_of(UNITS[name], 3, 40, dtype=torch.float32)
    inputs = [t.to(device).requires_grad_() for t in inputs]

    def function(first, *rest):
        return UNITS[name].ours()(first * 2, *rest).sin()

    results = []
    for f in (function, torch.compile(function, backend="aot_eager", fullgraph=True)):
        out = f(*inputs)
        results.append([out, *torch.autograd.grad(out.sum(), inputs)])
    assert all(map(torch.equal, *results))


def test_numbers_that_change_under_compile():
    """They are neither stale nor an error, computed ones included."""
    x, z, weight = inputs_of(UNITS["norm_swish"], 3, 8, dtype=torch.float32)[0]
    torch._dynamo.reset()
    compiled = [
        torch.compile(f, backend="aot_eager", fullgraph=True)
        for f in (
            lambda number: fused_acts.rms_norm_gated(x, z, weight, number),
            lambda number: fused_acts.topk_geglu(x, z, number / 2),
        )
    ]
    for number in (0.5, 0.25, 0.125, 0.75):  # a symbol from the second on
        assert same_bits(compiled[0](number), fused_acts.rms_norm_gated(x, z, weight, number))
        assert same_bits(compiled[1](number), fused_acts.topk_geglu(x, z, number / 2))


@pytest.mark.parametrize("name", NUMBERS)
def test_opcheck(name):
    inputs, grad_out = inputs_of(UNITS[name], 3, 8, dtype=torch.bfloat16)
    operands = (*inputs, None, None)[:4]
    _, stats = OPS.row_unit_forward(*operands, *NUMBERS[name])
    calls = [(OPS.row_unit_forward, (*operands, *NUMBERS[name]))]
    for needs in (15, 6):
        arguments = (grad_out, *operands, stats, *NUMBERS[name], needs)
        calls.append((OPS.row_unit_backward, arguments))
    for operator, arguments in calls:
        assert set(torch.library.opcheck(operator, arguments).values()) == {"SUCCESS"}


def test_autocast():
    """x and z in the wider of their types, a weight of another one in float32."""
    x, z, weight = inputs_of(UNITS["norm_swish"], 3, 8, dtype=torch.float32)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = fused_acts.rms_norm_gated(x.bfloat16(), z, weight.half())
    expected = fused_acts.rms_norm_gated(x.bfloat16().float(), z, weight.half().float())
    assert same_bits(out, expected)


@of_units
def test_meta(name):
    """Shapes and types without a kernel."""
    inputs, _ = inputs_of(UNITS[name], 3, 8, dtype=torch.bfloat16)
    inputs = [t.to("meta").requires_grad_() for t in inputs]
    out = UNITS[name].ours()(*inputs)
    assert out.shape == (3, 8) and out.device.type == "meta" and out.dtype == torch.bfloat16
    grads = torch.autograd.grad(out.sum(), inputs)
    assert [g.shape for g in grads] == [t.shape for t in inputs]


def test_nested():
    x, z, weight = inputs_of(UNITS["norm_swish"], 5, 8, dtype=torch.float32)[0]
    offsets = torch.tensor([0, 2, 5])
    nested = [torch.nested.nested_tensor_from_jagged(t, offsets) for t in (x, z)]
    out = fused_acts.rms_norm_gated(*nested, weight)
    assert same_bits(out.values(), fused_acts.rms_norm_gated(x, z, weight))


ROWS, WEIGHT, THREE, ONE = torch.zeros(2, 4), torch.zeros(4), torch.zeros(3), torch.zeros(1)


@pytest.mark.parametrize(
    "error, match, name, arguments",
    [
        (TypeError, "^x: ", "rms_norm_gated", ([1.0], ROWS, WEIGHT)),
        (TypeError, "^z: ", "rms_norm_gated", (ROWS, None, WEIGHT)),
        (TypeError, "^weight: ", "rms_norm_gated", (ROWS, ROWS, 1.0)),
        (TypeError, "^x: .*int64", "rms_norm_gated", (ROWS.long(), ROWS.long(), WEIGHT)),
        (TypeError, "^z: .*float64", "rms_norm_gated", (ROWS, ROWS.double(), WEIGHT)),
        (TypeError, "^weight: .*float16", "rms_norm_gated", (ROWS, ROWS, WEIGHT.half())),
        (ValueError, r"^z: .*\[2, 4\].*\[4\]", "rms_norm_gated", (ROWS, ROWS[0], WEIGHT)),
        (ValueError, r"^weight: .*\[4\].*\[3\]", "rms_norm_gated", (ROWS, ROWS, THREE)),
        (ValueError, "^x: .*0-d", "rms_norm_gated", (ROWS[0, 0], ROWS[0, 0], WEIGHT)),
        (TypeError, "^up: .*float64", "polynorm_glu", (ROWS, ROWS.double(), THREE, ONE)),
        (ValueError, r"^coefficients: .*\[3\].*\[4\]", "polynorm_glu", (ROWS, ROWS, WEIGHT, ONE)),
        (ValueError, r"^bias: .*\[1\].*\[3\]", "polynorm_glu", (ROWS, ROWS, THREE, THREE)),
        (TypeError, "^coefficients: ", "polynorm_glu", (ROWS, ROWS, None, ONE)),
        (ValueError, "^gate: .*0-d", "topk_geglu", (ROWS[0, 0], ROWS[0, 0])),
        (ValueError, r"^up: .*\[2, 4\].*\[4\]", "topk_geglu", (ROWS, ROWS[0])),
        (ValueError, "^sparsity: .*1.0", "topk_geglu", (ROWS, ROWS, 1.0)),
        (ValueError, "^sparsity: .*nan", "topk_geglu", (ROWS, ROWS, float("nan"))),
    ],
)
def test_errors(error, match, name, arguments):
    with pytest.raises(error, match=match):
        getattr(fused_acts, name)(*arguments)


@pytest.mark.parametrize(
    "error, match, options",
    [
        (ValueError, "^gate: .*swish, sigmoid.*'tanh'", {"gate": "tanh"}),
        (ValueError, "^group_size: .*4.*3", {"group_size": 3}),
        (ValueError, "^group_size: .*4.*0", {"group_size": 0}),
        (TypeError, "^group_size: .*float", {"group_size": 2.0}),
    ],
)
def test_errors_of_options(error, match, options):
    with pytest.raises(error, match=match):
        fused_acts.rms_norm_gated(ROWS, ROWS, WEIGHT, **options)
    with pytest.raises(error, match=match):
        fused_acts.nn.RMSNormGated(4, **options)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_errors_of_the_operators(device):
    call = (ROWS, ROWS, WEIGHT, None, 0, 1e-6, 2)
    _, stats = OPS.row_unit_forward(*call)
    changes = {
        "x": (0, ROWS.long()),
        "z": (1, ROWS[:1]),
        "weight": (2, None),
        "bias": (3, ONE),
        "unit": (4, 6),
        "groups": (6, 3),
    }
    for name, (place, value) in changes.items():
        changed = [*call[:place], value, *call[place + 1 :]]
        changed = [t.to(device) if isinstance(t, torch.Tensor) else t for t in changed]
        with pytest.raises((TypeError, ValueError), match=f"^{name}: "):
            OPS.row_unit_forward(*changed)
    for name, one, other in (
        ("grad_out", ROWS[:1], stats),
        ("stats", ROWS, stats[:1]),
        ("stats", ROWS, stats.double()),
    ):
        arguments = (one, *call[:4], other, *call[4:], 7)
        arguments = [t.to(device) if isinstance(t, torch.Tensor) else t for t in arguments]
        with pytest.raises((TypeError, ValueError), match=f"^{name}: "):
            OPS.row_unit_backward(*arguments)
