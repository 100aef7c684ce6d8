"""softmax_glu: softmax(gate) * up over rows of any length."""

import math

import pytest
import torch
from cases import CUDA, DEVICES, DTYPES, operands, random, same_bits, to_device
from tolerances import SOFTMAX_GLU_ULPS, check
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import fused_acts

F64 = torch.float64
OPS = torch.ops.fused_acts


def run(gate, up, grad_out, device):
    inputs = [to_device(t, device).requires_grad_() for t in (gate, up)]
    out = fused_acts.softmax_glu(*inputs)
    grads = torch.autograd.grad(out, inputs, to_device(grad_out, device))
    return [t.detach().cpu() for t in (out, *grads)]


def check_call(gate, up, grad_out, device):
    """Against float64, the gradient by gate in ulps of what is subtracted in it."""
    out, grad_gate, grad_up = run(gate, up, grad_out, device)
    ulps = SOFTMAX_GLU_ULPS[gate.dtype]
    p, u, g = torch.softmax(gate.double(), -1), up.double(), grad_out.double()
    check(out, p * u, ulps)
    check(grad_up, p * g, ulps)
    sum_of = (p * g * u).sum(-1, keepdim=True)
    size = p * ((g * u).abs() + (p * g * u).abs().sum(-1, keepdim=True))
    check(grad_gate, p * (g * u - sum_of), ulps, size)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("cols", (1, 2, 7, 8, 31, 33, 512, 1000, 1032, 4096, 5001))
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients(dtype, cols, device):
    check_call(*operands(5, cols, dtype=dtype), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("cols", (2**16 + 8, 2**17 - 1, 2**17))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_long_rows(dtype, cols, device):
    check_call(*operands(1, cols, dtype=dtype), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_far_from_zero(dtype, device):
    """Only differences count, however large the gates; a maximum at either end."""
    gate, up, grad_out = operands(4, 700, dtype=dtype)
    gate = (gate.double() * 20 + 3000).to(dtype)
    gate[1] -= 8000
    gate[2, -1], gate[3, 0] = 6000, 6000
    check_call(gate, up, grad_out, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("cols", (9, 64, 3000))
@pytest.mark.parametrize("dtype", DTYPES)
def test_infinities_and_nan(dtype, cols, device):
    gate, up, grad_out = operands(5, cols, dtype=dtype)
    gate[0] = -math.inf
    gate[1, 1::2] = -math.inf
    gate[2, cols // 2] = math.inf
    gate[3, cols - 1] = math.nan
    results = run(gate, up, grad_out, device)
    leaves = [t.double().requires_grad_() for t in (gate, up)]
    out = fused_acts.reference.softmax_glu(*leaves)
    exact = (out, *torch.autograd.grad(out, leaves, grad_out.double()))
    for one, other in zip(results, exact, strict=True):
        assert torch.equal(one.isnan(), other.isnan())
        assert one[[0, 2, 3]].isnan().all() and not one[[1, 4]].isnan().any()
    assert (results[0][1, 1::2] == 0).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_views(dtype, device):
    whole = operands(6, 80, dtype=dtype)
    for view in (
        lambda t: t[:, 1:65],
        lambda t: t[::2, 8:72],
        lambda t: t[:, 3:67].unflatten(0, (2, 3)),
        lambda t: t.t(),
        lambda t: t[:1].expand(4, -1),
    ):
        views = [view(t) for t in whole]
        check_call(*views, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", ((0, 4), (3, 0), (2, 0, 8)))
def test_empty(shape, device):
    inputs = [torch.zeros(shape, device=device, requires_grad=True) for _ in range(2)]
    out = fused_acts.softmax_glu(*inputs)
    assert out.shape == shape
    assert all(grad.shape == shape for grad in torch.autograd.grad(out.sum(), inputs))


@pytest.mark.parametrize("device", DEVICES)
def test_one_gradient_alone(device):
    gate, up, grad_out = (t.to(device) for t in operands(3, 40, dtype=torch.float32))
    stats = OPS.softmax_glu_forward(gate, up)[1]
    both = OPS.softmax_glu_backward(grad_out, gate, up, stats, True, True)
    for needs in ((True, False), (False, True)):
        results = OPS.softmax_glu_backward(grad_out, gate, up, stats, *needs)
        for one, other, need in zip(results, both, needs, strict=True):
            assert same_bits(one.cpu(), other.cpu()) if need else one.shape == (0,)


@pytest.mark.parametrize("device", [CUDA])
def test_a_row_has_the_same_bits_in_any_batch(device):
    tensors = operands(9, 2816, dtype=torch.bfloat16)
    whole = run(*tensors, device)
    for row in (0, 8):
        alone = run(*(t[row : row + 1] for t in tensors), device)
        assert all(same_bits(a, w[row : row + 1]) for a, w in zip(alone, whole, strict=True))


def test_threads(threads):
    tensors = operands(64, 1001, dtype=torch.float32)
    threads(1)
    expected = run(*tensors, "cpu")
    threads(2)
    assert all(map(same_bits, run(*tensors, "cpu"), expected))


def test_what_is_saved():
    gate, up = (t.requires_grad_() for t in operands(4, 8, dtype=torch.bfloat16)[:2])
    out = fused_acts.softmax_glu(gate, up)
    saved = out.grad_fn.saved_tensors
    assert [(t.shape, t.dtype) for t in saved[2:]] == [((4, 2), torch.float32)]
    assert saved[0].data_ptr() == gate.data_ptr() and saved[1].data_ptr() == up.data_ptr()


def test_higher_orders():
    inputs = [random(2, 5, dtype=F64, seed=s).requires_grad_() for s in (1, 2)]
    kinds = {"check_fwd_over_rev": True, "check_rev_over_rev": True}
    f = fused_acts.softmax_glu
    assert torch.autograd.gradcheck(f, inputs, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(f, inputs, **kinds)


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: jacrev(f, (0, 1)),
        lambda f: jacfwd(f, (0, 1)),
        lambda f: hessian(lambda *x: f(*x).sin().sum(), (0, 1)),
        lambda f: lambda g, u: jvp(f, (g, u), (g.cos(), u.sin())),
        lambda f: lambda g, u: jvp(lambda g: f(g, u), (g,), (g.cos(),)),
        lambda f: vmap(f),
        lambda f: lambda g, u: vmap(f, (1, None))(g.t(), u[0]),
        lambda f: vmap(grad(lambda g, u: f(g, u).sin().sum())),
        lambda f: vmap(jacrev(jacfwd(lambda g, u: f(g, u).sin().sum()))),
    ],
    ids=["jacrev", "jacfwd", "hessian", "jvp", "jvp of gate", *("vmap" + c for c in " -+*")],
)
def test_transforms(transform):
    gate, up, _ = operands(3, 4, dtype=F64)
    expected = transform(fused_acts.reference.softmax_glu)(gate, up)
    torch.testing.assert_close(transform(fused_acts.softmax_glu)(gate, up), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_compile(device):
    gate, up, _ = operands(3, 40, dtype=torch.float32)
    inputs = [t.to(device).requires_grad_() for t in (gate, up)]

    def function(gate, up):
        return fused_acts.softmax_glu(gate * 2, up).sin()

    results = []
    for f in (function, torch.compile(function, backend="aot_eager", fullgraph=True)):
        out = f(*inputs)
        results.append([out, *torch.autograd.grad(out.sum(), inputs)])
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_opcheck(dtype):
    gate, up, grad_out = operands(3, 8, dtype=dtype)
    _, stats = OPS.softmax_glu_forward(gate, up)
    calls = [(OPS.softmax_glu_forward, (gate, up))]
    for needs in ((True, True), (True, False), (False, True)):
        calls.append((OPS.softmax_glu_backward, (grad_out, gate, up, stats, *needs)))
    for operator, arguments in calls:
        assert set(torch.library.opcheck(operator, arguments).values()) == {"SUCCESS"}


def test_autocast():
    gate, up, _ = operands(3, 8, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = fused_acts.softmax_glu(gate.bfloat16(), up)
    assert same_bits(out, fused_acts.softmax_glu(gate.bfloat16().float(), up))


def test_softmax_is_torchs():
    x = random(3, 8, dtype=torch.float32, seed=1)
    assert same_bits(fused_acts.softmax(x, 0), torch.softmax(x, 0))


ROWS = torch.zeros(2, 4)


@pytest.mark.parametrize(
    "error, match, arguments",
    [
        (TypeError, "^gate: ", ([1.0], ROWS)),
        (TypeError, "^up: ", (ROWS, None)),
        (TypeError, "^gate: .*int64", (ROWS.long(), ROWS.long())),
        (TypeError, "^up: .*float64", (ROWS, ROWS.double())),
        (ValueError, r"^up: .*\[2, 4\].*\[4\]", (ROWS, ROWS[0])),
        (ValueError, "^gate: .*0-d", (ROWS[0, 0], ROWS[0, 0])),
    ],
)
def test_errors(error, match, arguments):
    with pytest.raises(error, match=match):
        fused_acts.softmax_glu(*arguments)


def test_errors_of_the_operators():
    _, stats = OPS.softmax_glu_forward(ROWS, ROWS)
    for error, match, arguments in (
        (ValueError, "^grad_out: ", (ROWS[:1], ROWS, ROWS, stats)),
        (ValueError, "^stats: ", (ROWS, ROWS, ROWS, stats[:1])),
        ((TypeError, ValueError), "^stats: ", (ROWS, ROWS, ROWS, stats.double())),
        (ValueError, "^up: ", (ROWS, ROWS, ROWS[:1], stats)),
    ):
        with pytest.raises(error, match=match):
            OPS.softmax_glu_backward(*arguments, True, True)
        with pytest.raises(error, match=match):
            OPS.softmax_glu_backward(*(t.to("meta") for t in arguments), True, True)


def test_meta():
    """Shapes and types without a kernel."""
    inputs = [torch.empty(3, 8, device="meta", requires_grad=True) for _ in range(2)]
    out = fused_acts.softmax_glu(*inputs)
    assert out.shape == (3, 8) and out.device.type == "meta"
    assert all(grad.shape == (3, 8) for grad in torch.autograd.grad(out.sum(), inputs))


@pytest.mark.parametrize("what", ["dtype", "shape"])
def test_errors_under_compile(what):
    torch._dynamo.reset()
    up = ROWS.double() if what == "dtype" else ROWS[0]
    compiled = torch.compile(fused_acts.softmax_glu, backend="aot_eager", fullgraph=True)
    with pytest.raises(Exception, match="up: expected"):
        compiled(ROWS, up)
