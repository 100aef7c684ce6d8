"""maxout: torch.max of groups of columns, to the last bit."""

import math

import pytest
import torch
from cases import DEVICES, DTYPES, random, same_bits, to_device
from torch.func import hessian, jacfwd, jacrev, jvp, vmap

import fused_acts

F64 = torch.float64
OPS = torch.ops.fused_acts
PIECES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 31, 256)


def expected(x, pieces):
    """Values and winners as torch finds them."""
    return x.unflatten(-1, (x.shape[-1] // pieces, pieces)).max(-1)


def run(x, pieces, grad_out, device):
    """out, winner and grad_x, moved to the device as they are."""
    x, grad_out = to_device(x, device).requires_grad_(), to_device(grad_out, device)
    out = fused_acts.maxout(x, pieces)
    (grad,) = torch.autograd.grad(out, x, grad_out)
    winner = OPS.maxout_forward(x.detach(), pieces)[1]
    return out.detach().cpu(), winner.cpu(), grad.cpu()


def check(x, pieces, device):
    values, index = expected(x, pieces)
    grad_out = random(*values.shape, dtype=x.dtype, seed=5)
    out, winner, grad = run(x, pieces, grad_out, device)
    assert same_bits(out, values)
    assert winner.dtype == torch.uint8 and torch.equal(winner.long(), index)
    leaf = x.detach().clone().requires_grad_()
    (exact,) = torch.autograd.grad(expected(leaf, pieces).values, leaf, grad_out)
    assert same_bits(grad, exact)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients(dtype, pieces, device):
    for rows, cols in ((3, 7), (1, 520), (2, 16)):
        check(random(rows, cols * pieces, dtype=dtype, seed=1), pieces, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("pieces", (2, 3, 4, 8))
@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_zeros_infinities_and_nan(dtype, pieces, device):
    special = (math.nan, -math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0)
    picked = torch.randint(len(special), (40 * pieces, 24), generator=torch.manual_seed(3))
    check(torch.tensor(special, dtype=dtype)[picked], pieces, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_views(dtype, device):
    whole = random(6, 70, dtype=dtype, seed=1)
    for x in (whole[:, 1:65], whole[::2, 3:67], whole[:, 2:66].unflatten(0, (2, 3))):
        for pieces in (2, 4, 8):
            check(x, pieces, device)
    apart = random(3, 400, dtype=dtype, seed=2)  # rows that vectors end before
    for x in (apart[:, 16:352], apart[:, 17:353]):
        for pieces in (2, 3, 6, 7, 8, 12, 21):
            check(x, pieces, device)
    check(whole.t()[:64], 2, device)
    check(whole[:1, :64].expand(5, -1), 4, device)


@pytest.mark.parametrize("device", DEVICES)
def test_expanded_gradient(device):
    x = random(4, 16, dtype=torch.float32, seed=1).to(device).requires_grad_()
    fused_acts.maxout(x, 2).sum().backward()
    leaf = x.detach().cpu().requires_grad_()
    expected(leaf, 2).values.sum().backward()
    assert torch.equal(x.grad.cpu(), leaf.grad)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dim", (-3, 0, 1, -1))
def test_dim(dim, device):
    x = random(4, 6, 8, dtype=torch.float32, seed=1)
    out = fused_acts.maxout(x.to(device), 2, dim).cpu()
    assert same_bits(out, fused_acts.reference.maxout(x, 2, dim))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", ((0, 4), (3, 0), (2, 0, 8)))
def test_empty(shape, device):
    x = torch.zeros(shape, device=device, requires_grad=True)
    out = fused_acts.maxout(x, 4)
    assert out.shape == (*shape[:-1], shape[-1] // 4)
    assert torch.autograd.grad(out.sum(), x)[0].shape == shape


def test_only_the_winner_is_saved():
    out = fused_acts.maxout(torch.randn(4, 8, requires_grad=True), 2)
    (saved,) = out.grad_fn.saved_tensors
    assert saved.dtype == torch.uint8 and saved.shape == (4, 4)


def test_higher_orders():
    x = random(2, 12, dtype=F64, seed=1).requires_grad_()
    f = lambda x: fused_acts.maxout(x, 3)  # noqa: E731
    kinds = {"check_fwd_over_rev": True, "check_rev_over_rev": True}
    assert torch.autograd.gradcheck(f, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: f(x).square(), x, **kinds)


def test_transforms():
    x = random(4, 12, dtype=F64, seed=1)

    def ours(x):
        return fused_acts.maxout(x, 3).sin()

    def theirs(x):
        return fused_acts.reference.maxout(x, 3).sin()

    for transform in (
        jacrev,
        jacfwd,
        lambda f: hessian(lambda x: f(x).square().sum()),
        lambda f: lambda x: jvp(f, (x,), (x.cos(),)),
        lambda f: vmap(f, in_dims=0),
        lambda f: lambda x: vmap(f, in_dims=1)(x.t()),
        lambda f: vmap(jacrev(f)),
        lambda f: vmap(jacfwd(f)),
    ):
        torch.testing.assert_close(transform(ours)(x), transform(theirs)(x))


@pytest.mark.parametrize("device", DEVICES)
def test_compile(device):
    x = random(4, 12, dtype=torch.float32, seed=1).to(device).requires_grad_()

    def function(x):
        return fused_acts.maxout(x * 2, 3).sin()

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for f in (function, compiled):
        (f.grad,) = torch.autograd.grad(f(x).sum(), x)
    assert torch.equal(function(x), compiled(x)) and torch.equal(function.grad, compiled.grad)


def test_compile_for_other_arguments():
    """Compiled again, or for all of them, as torch chooses."""
    torch._dynamo.reset()
    compiled = torch.compile(fused_acts.maxout, backend="aot_eager", fullgraph=True)
    for shape, pieces, dim in (((6, 8), 2, -1), ((6, 8), 4, -1), ((6, 8), 3, 0), ((10, 12), 2, 0)):
        x = random(*shape, dtype=torch.float32, seed=1)
        assert same_bits(compiled(x, pieces, dim), fused_acts.maxout(x, pieces, dim))


def test_errors_under_compile():
    torch._dynamo.reset()
    compiled = torch.compile(fused_acts.maxout, backend="aot_eager", fullgraph=True)
    with pytest.raises(Exception, match="x: expected a dimension -1 divisible by pieces = 3"):
        compiled(torch.zeros(2, 4), 3)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_opcheck(dtype):
    x = random(3, 8, dtype=dtype, seed=1)
    out, winner = OPS.maxout_forward(x, 2)
    for operator, arguments in (
        (OPS.maxout_forward, (x, 2)),
        (OPS.maxout_forward, (x[:, :6], 3)),
        (OPS.maxout_backward, (out, winner, 2)),
    ):
        assert set(torch.library.opcheck(operator, arguments).values()) == {"SUCCESS"}


@pytest.mark.parametrize(
    "error, match, arguments",
    [
        (TypeError, "^x: ", ([1.0], 1)),
        (TypeError, "^x: .*int64", (torch.zeros(4, dtype=torch.int64), 2)),
        (ValueError, "^x: ", (torch.tensor(1.0), 1)),
        (TypeError, "^pieces: ", (torch.zeros(4), 2.0)),
        (ValueError, "^pieces: .*0$", (torch.zeros(4), 0)),
        (ValueError, "^pieces: .*257$", (torch.zeros(514), 257)),
        (ValueError, r"^x: .*pieces = 3.*\[2, 4\]", (torch.zeros(2, 4), 3)),
        (IndexError, "^dim: ", (torch.zeros(4), 2, 1)),
        (TypeError, "^dim: ", (torch.zeros(4), 2, None)),
    ],
)
def test_errors(error, match, arguments):
    with pytest.raises(error, match=match):
        fused_acts.maxout(*arguments)


# Operators have no TypeError, which only Python knows; fake tensors come from there.
DTYPE_ERRORS = (TypeError, ValueError)


def test_errors_of_the_operators():
    x, winner = torch.zeros(2, 4), torch.zeros(2, 2, dtype=torch.uint8)
    for error, match, operator, arguments in (
        (ValueError, "^pieces: ", OPS.maxout_forward, (x, 0)),
        (ValueError, "^pieces: ", OPS.maxout_forward, (x.expand(257, 2, 4).flatten(), 257)),
        (ValueError, "^x: ", OPS.maxout_forward, (x, 3)),
        (DTYPE_ERRORS, "^x: ", OPS.maxout_forward, (winner, 2)),
        (DTYPE_ERRORS, "^winner: ", OPS.maxout_backward, (x, x, 2)),
        (ValueError, "^winner: ", OPS.maxout_backward, (x, winner, 2)),
        (ValueError, "^pieces: ", OPS.maxout_backward, (x, x.byte(), 0)),
    ):
        with pytest.raises(error, match=match):
            operator(*arguments)
        tensors, numbers = arguments[:-1], arguments[-1:]
        with pytest.raises(error, match=match):
            operator(*(t.to("meta") for t in tensors), *numbers)


def test_meta():
    """Shapes and types without a kernel."""
    x = torch.empty(3, 6, 8, dtype=torch.bfloat16, device="meta", requires_grad=True)
    for dim, shape in ((-1, (3, 6, 4)), (1, (3, 3, 8))):
        out = fused_acts.maxout(x, 2, dim)
        assert out.shape == shape and out.dtype == x.dtype and out.device == x.device
        assert torch.autograd.grad(out.sum(), x)[0].shape == x.shape
