"""What a call on CUDA is launched with. Host arithmetic, so it runs on any machine."""

import math

import pytest
import torch
from cases import DTYPES, LAYOUTS

from fused_acts._build_info import launch_plan

WIDTHS = (1408, 2730, 2816, 3420, 11008, 13653, 14336)
ROWS = (1, 3, 257)
OFFSETS = (0, 1, 2, 3, 5, 8)
# What a row stride is larger by than the inputs' width; the last makes it a packed width.
FURTHER = (0, 1, 2, 3, 4, 7, 8, 16, "width")
LINE = 128  # bytes; a thread's vectors are that far apart


def named(dtype):
    return str(dtype).removeprefix("torch.")


def widest_that_fits(size, rows, cols, layout, stride, offset, backward, widest):
    """(kernel, bytes of the widest access to gate and up): a power of two.

    It divides where they begin, and the distance between rows and their length unless all rows are
    one. Flat kernels have accesses of 16 and 32 bytes, general ones of a column.
    """
    step = 2 if layout == "interleaved" else 1
    width = cols if layout == "separate" else 2 * cols
    dense = stride == width and layout in ("separate", "interleaved")
    several = rows > 1 and not dense
    # All in elements of gate and up; one of out is as good as `step` of them.
    multiples = [offset]
    if several:
        multiples += [stride, cols * step]
    if layout in ("gate_up", "up_gate"):
        multiples.append(cols)  # where the second half begins, in inputs and gradients
        if backward and several:
            multiples.append(2 * cols)
    fits = min(widest, size * math.gcd(*multiples, widest // size))
    if fits >= 16 and size < 8:
        return "flat", fits
    return "general", min(fits, step * size)


@pytest.mark.parametrize("widest", [16, 32])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cols", WIDTHS)
def test_accesses_are_as_wide_as_they_can_be(cols, layout, backward, widest):
    width = cols if layout == "separate" else 2 * cols
    seen = set()
    for dtype in DTYPES:
        for rows in ROWS:
            for offset in OFFSETS:
                for further in FURTHER:
                    stride = width + (width if further == "width" else further)
                    where = (rows, cols, layout, stride, offset, backward, widest)
                    plan = launch_plan(
                        named(dtype),
                        rows,
                        cols,
                        layout=layout,
                        row_stride=stride,
                        offset=offset,
                        backward=backward,
                        widest_access=widest,
                    )
                    expected = widest_that_fits(dtype.itemsize, *where)
                    assert (plan["kernel"], plan["bytes_per_access"]) == expected, (dtype, *where)
                    if plan["kernel"] == "flat":
                        check_covers(plan, dtype.itemsize, rows, cols, layout, stride)
                    seen.add(expected[1])
    # the second half of a packed row begins where the width says, a float32 at the best
    halves = layout in ("gate_up", "up_gate")
    top = min(widest, 4 * math.gcd(cols, 8)) if halves else widest
    assert seen >= {access for access in (2, 8, 16, 32) if access <= top}


def check_covers(plan, size, rows, cols, layout, stride):
    """Threads for every column, and fewer than a block of them, and one for the tail, too many."""
    step = 2 if layout == "interleaved" else 1
    access, vectors = plan["bytes_per_access"], plan["vectors_per_thread"]
    columns = max(access // (size * step), 1)
    if rows == 1 or (layout in ("separate", "interleaved") and stride == step * cols):
        rows, cols = 1, rows * cols
    tail = cols % columns
    assert tail == 0 or rows == 1
    # Where a thread has several vectors, those of a row are dealt out in whole lines.
    unit = columns * (vectors * LINE // access if vectors > 1 else 1)
    needed = rows * (math.ceil((cols - tail) / unit) * unit)
    block = plan["block"] * vectors * columns
    assert 0 <= plan["grid"] * block - needed - (block if tail else 0) < block
    assert tail <= plan["block"]


@pytest.mark.parametrize("widest", [16, 32])
@pytest.mark.parametrize("layout", ["separate", "interleaved"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_odd_widths_stay_wide_where_rows_follow_each_other(dtype, layout, widest):
    for cols in (*range(1, 68, 2), 13653):
        for backward in (False, True):
            options = {"layout": layout, "backward": backward, "widest_access": widest}
            plan = launch_plan(named(dtype), 257, cols, **options)
            if dtype != torch.float64:
                assert plan["bytes_per_access"] == widest
            width = cols if layout == "separate" else 2 * cols
            apart = launch_plan(named(dtype), 257, cols, row_stride=width + 1, **options)
            assert apart["kernel"] == "general"
            assert apart["bytes_per_access"] == dtype.itemsize


# (dtype, rows, cols, options) to (grid, bytes, vectors), worked out by hand for blocks of 128.
PLANS = [
    # 1,376 vectors: 86 times 2 lines of 8, so 688 threads
    (("bfloat16", 1, 11008, {}), (6, 16, 2)),
    # 688 vectors, one each
    (("bfloat16", 1, 11008, {"widest_access": 32}), (6, 32, 1)),
    # 1,376 pairs of columns in 2,752 vectors, up to 4 each: 43 times 4 lines of 16
    (("bfloat16", 1, 11008, {"layout": "interleaved"}), (6, 16, 4)),
    # 257 rows of 88 threads
    (("bfloat16", 257, 1408, {"layout": "gate_up"}), (177, 16, 2)),
    # general: 86 tiles of 32 columns, 17 times 16 rows
    (("float16", 257, 2730, {"layout": "up_gate"}), (1462, 2, 1)),
    # one row: 3,508,821 columns, of which 5 are left for a block of their own
    (("bfloat16", 257, 13653, {"backward": True}), (1715, 16, 2)),
    # 427 tiles of 32 columns, 9 times 32 rows
    (("bfloat16", 257, 13653, {"row_stride": 13655}), (3843, 2, 1)),
    # dense, so rows of 128 columns: 336 of them, and 81
    (("float32", 3, 14336, {"offset": 2}), (336, 4, 1)),
    (("float64", 3, 3420, {"offset": 1}), (81, 8, 1)),
    # less than a vector: nothing but a tail
    (("float32", 1, 1, {}), (1, 16, 2)),
]


@pytest.mark.parametrize(("call", "expected"), PLANS)
def test_some_plans(call, expected):
    *operands, options = call
    plan = launch_plan(*operands, **options)
    names = ("grid", "bytes_per_access", "vectors_per_thread")
    kernel = "flat" if expected[1] >= 16 else "general"
    assert plan == {"kernel": kernel, "block": 128, **dict(zip(names, expected, strict=True))}


@pytest.mark.parametrize("backward", [False, True])
def test_what_32_bits_cannot_count_is_left_to_the_general_kernels(backward):
    def access(rows, cols, kernel="flat", **options):
        plan = launch_plan("bfloat16", rows, cols, backward=backward, **options)
        assert plan["kernel"] == (kernel if plan["bytes_per_access"] == 16 else "general")
        return plan["bytes_per_access"]

    last = 2**31 - 2  # 16-byte vectors from one row to the next, of two
    assert access(2, 1408, row_stride=8 * last) == 16
    assert access(2, 1408, row_stride=8 * (last + 1)) == 2
    assert access(2, 1408, row_stride=8 * 2**40) == 2
    assert access(1, 2**33) == 16
    assert access(1, 2**34) == 2  # 2^31 threads at one vector each
    assert access(2**21, 2816, row_stride=2824) == 16
    # rows of 353 vectors, too many for a flat index with a line of slack each
    assert access(2**23, 2816, "row", row_stride=2824) == 16
    assert access(2**24, 2816, row_stride=2824) == 2


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("int8", 1, 1), {}, "^dtype: .*int8"),
        (("float32", 1, 1), {"layout": "packed"}, "^layout: .*packed"),
        (("float32", 0, 8), {}, "^rows, cols: .*0, 8"),
        (("float32", 8, 0), {}, "^rows, cols: .*8, 0"),
    ],
)
def test_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        launch_plan(*arguments, **options)
