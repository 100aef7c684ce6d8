"""Products of groups of rows with a matrix each: values, all derivatives, what torch refuses."""

import pytest
import torch
from tolerances import close
from torch.autograd import gradcheck, gradgradcheck

from fused_acts._autograd import grouped

OFFS = torch.tensor([3, 3, 7, 9], dtype=torch.int32)  # an expert has no rows, and three rows none
ROWS = 12


def operands(k, m, dtype=torch.float64):
    """(rows, matrices, other rows), the rows of no expert NaN."""
    torch.manual_seed(0)
    a, b, c = torch.randn(ROWS, k), torch.randn(len(OFFS), k, m), torch.randn(ROWS, m)
    for rows in (a, c):
        rows[OFFS[-1] :] = torch.nan
    return a.to(dtype), b.to(dtype), c.to(dtype)


def groups():
    return list(zip([0, *OFFS[:-1].tolist()], OFFS.tolist(), strict=True))


def of_rows(a, b):
    parts = [a[begin:end] @ b[e] for e, (begin, end) in enumerate(groups())]
    return torch.cat([*parts, a.new_zeros(ROWS - OFFS[-1], b.shape[-1])])


def of_groups(a, c):
    return torch.stack([a[begin:end].t() @ c[begin:end] for begin, end in groups()])


@pytest.mark.parametrize("sizes", [(16, 24), (5, 3), (16, 3), (5, 16), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_values(dtype, sizes):
    """Also of sizes and dtypes that torch does not take, and of matrices that lie otherwise."""
    a, b, c = operands(*sizes, dtype)
    exact = of_rows(a.double(), b.double())
    tolerances = {"rtol": 0.0, "atol": 16 * torch.finfo(dtype).eps}
    for matrices in (b, b.transpose(1, 2).contiguous().transpose(1, 2), b[:, :, ::1]):
        out = grouped.compute(a, matrices, OFFS)
        assert out.dtype == dtype and out.is_contiguous()
        torch.testing.assert_close(out[: OFFS[-1]].double(), exact[: OFFS[-1]], **tolerances)
    out = grouped.compute(a.t(), c, OFFS)
    assert out.dtype == dtype and out.is_contiguous()
    torch.testing.assert_close(out.double(), of_groups(a.double(), c.double()), **tolerances)


def test_views_that_torch_refuses():
    """Misaligned, with strides of their own, expanded, without rows."""
    a, b, _ = operands(16, 24, torch.float32)
    exact = of_rows(a, b)[: OFFS[-1]]
    misaligned = torch.empty(a.numel() + 1)[1:].view(a.shape).copy_(a)
    by_columns = torch.empty(2 * a.numel()).view(ROWS, 32)[:, ::2].copy_(a)
    for view in (misaligned, by_columns, a.t().contiguous().t()):
        torch.testing.assert_close(grouped.compute(view, b, OFFS)[: OFFS[-1]], exact)
    ones = torch.ones(()).expand(ROWS, 16)
    torch.testing.assert_close(
        grouped.compute(ones, b, OFFS)[: OFFS[-1]], of_rows(ones, b)[: OFFS[-1]]
    )
    assert grouped.compute(a[:0], b, OFFS * 0).shape == (0, 24)
    assert not grouped.compute(a[:0].t(), a[:0], OFFS * 0).any()


@pytest.mark.parametrize("product", [grouped.product, grouped.composed])
def test_derivatives(product):
    a, b, c = (t.requires_grad_() for t in operands(5, 3))
    live = grouped.live_rows(a, OFFS)

    def by_rows(a, b):
        return product(torch.where(live, a, torch.nan), b, OFFS)

    def by_groups(a, c):
        return product(torch.where(live, a, torch.nan).t(), torch.where(live, c, torch.nan), OFFS)

    for function, expected, inputs in ((by_rows, of_rows, (a, b)), (by_groups, of_groups, (a, c))):
        close(function(*inputs), expected(*inputs))
        grads = torch.autograd.grad(function(*inputs).square().sum(), inputs)
        close(grads, torch.autograd.grad(expected(*inputs).square().sum(), inputs))
        finite = tuple(t.detach().nan_to_num().requires_grad_() for t in inputs)
        assert gradcheck(function, finite, fast_mode=True)
        assert gradgradcheck(function, finite, fast_mode=True)


def test_transforms():
    a, b, _ = operands(5, 3)
    function = lambda a, b: grouped.product(a, b, OFFS)  # noqa: E731
    expected = torch.func.jvp(of_rows, (a, b), (a.cos(), b.cos()))
    close(torch.func.jvp(function, (a, b), (a.cos(), b.cos())), expected)
    batch = torch.stack([b, b.sin()])
    close(torch.vmap(function, (None, 0))(a, batch), torch.stack([of_rows(a, m) for m in batch]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_operator(dtype):
    a, b, c = (t.nan_to_num() for t in operands(16, 24, dtype))
    offs = torch.tensor([3, 3, 7, ROWS], dtype=torch.int32)  # what nobody wrote is of no kind
    for arguments in ((a, b, offs), (a.t(), c, offs)):
        for requires_grad in (False, True):
            given = [t.detach().requires_grad_(requires_grad) for t in arguments[:2]]
            results = torch.library.opcheck(
                torch.ops.fused_acts.grouped_mm.default, (*given, arguments[2])
            )
            assert {*results.values()} == {"SUCCESS"}
