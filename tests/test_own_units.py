"""Units of one's own by the operators: an index whose code a library brings along."""

import re
import subprocess
import threading

import pytest
import torch
from cases import DTYPES, DTYPES_16, ROWS, call_numbers, random, same_bits

from fused_acts import _formats
from fused_acts._definitions import build
from fused_acts._definitions.definition import make_definition

OPS = torch.ops.fused_acts
# {name in the table: its f}. One without a parameter, one with, and an activation alone.
UNITS = {"geglu": "gelu", "elu_glu": "elu", "mish": "mish"}
FIRST = 2**40
INDEX = {name: FIRST + place for place, name in enumerate(UNITS)}
TABLE = {name: [*ROWS].index(name) for name in UNITS}
COLUMNS = 67


def library(name):
    g = "identity" if is_gated(name) else None
    return build.library(make_definition(f"{name}_again", UNITS[name], None, None, g), False)


@pytest.fixture(scope="module")
def libraries(own_units):
    """All defined, so that each is beside the others and the table's own; for the CPU alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSED_ACTS_CUDA", "0")
        found = {name: library(name) for name in UNITS}
    for name, path in found.items():
        OPS.define_unit(INDEX[name], str(path))
    return found


def is_gated(name):
    return name != "mish"


def given(name, dtype, rows=37):
    """gate, up or None, grad_out, and a function of the seed for more of them."""
    more = lambda seed: random(rows, COLUMNS, dtype=dtype, seed=seed, scale=4.0)  # noqa: E731
    return more(1), more(2) if is_gated(name) else None, more(3), more


def of_columns(name, dtype):
    """(gate_bias, up_bias, parameter), as many as the unit has."""
    bias, other, parameter = (random(COLUMNS, dtype=dtype, seed=seed) for seed in (7, 8, 9))
    return bias, other if is_gated(name) else None, parameter if ROWS[name].parameters else None


def options(name, *vectors, limit=None, weight=1.0):
    return (*(vectors or (None,) * 3), *call_numbers(ROWS[name]), limit, weight)


def forward_calls(name, dtype):
    """(operator, what stands before the index, and behind it)"""
    gate, up, _, _ = given(name, dtype)
    plain = options(name)
    vectors = options(name, *of_columns(name, dtype), limit=2.0 if is_gated(name) else None)
    yield OPS.glu_forward_options, (gate, up, *plain), (0,)
    yield OPS.glu_forward_options, (gate, up, *plain[:-1], 1.5), (0,)
    yield OPS.glu_forward_options, (gate, up, *vectors), (0,)
    yield OPS.glu_forward_options, (gate[:, 1:], None if up is None else up[:, 1:], *plain), (0,)
    if is_gated(name):
        x = torch.cat((gate, up), -1)
        for layout in (0, 1, 2):
            yield OPS.glu_forward_options, (x, None, *plain), (layout,)
        yield OPS.glu_forward_options, (gate, up, *plain[:-2], 2.0, 1.0), (0,)
    counts = torch.tensor([3, 0], dtype=torch.int32)
    stacked = [t if t is None else t[:36].view(2, 18, COLUMNS) for t in (gate, up)]
    yield OPS.glu_forward_options, (*stacked, *plain), (0, None, counts, 2 + 4)
    if not ROWS[name].parameters:
        yield OPS.glu_forward, (gate, up), (0,)


def backward_calls(name, dtype):
    gate, up, grad_out, more = given(name, dtype)
    vectors = of_columns(name, dtype)
    needs = 3 if is_gated(name) else 1
    summed = sum(need for t, need in zip(vectors, (4, 8, 16), strict=True) if t is not None)
    yield OPS.glu_backward_options, (grad_out, gate, up, *options(name)), (0, needs)
    yield OPS.glu_backward_options, (grad_out, gate, up, *options(name)), (0, 1)
    yield (
        OPS.glu_backward_options,
        (grad_out, gate, up, *options(name, *vectors)),
        (0, needs + summed),
    )
    tangents = more(4), more(5) if is_gated(name) else None
    yield (
        OPS.glu_double_backward,
        (grad_out, gate, up, *tangents, *options(name)),
        (0, True, True),
    )


def quantized_calls(name, dtype):
    gate, up, _, _ = given(name, dtype, 8)
    gate, up = (t if t is None else t[:, :64] for t in (gate, up))
    for format, one in _formats.FORMATS.items():
        scale = torch.tensor([0.5]) if one.takes_scale else None
        for single in (False, True):
            rest = (_formats.FORMAT_INDEX[format], 0, False, single, 0.0, scale)
            yield OPS.glu_quantized, (gate, up, *options(name)), (0, *rest)


def bytes_of(t):
    return t.contiguous().view(torch.uint8)


def compare(calls, indices, device="cpu"):
    """Whether two units are the same to the last bit."""
    compared = 0
    for operator, *given in calls:
        before, behind = (
            [x.to(device) if isinstance(x, torch.Tensor) else x for x in part] for part in given
        )
        results = []
        for index in indices:
            result = operator(*before, index, *behind)
            results.append(result if isinstance(result, tuple) else (result,))
        for ours, expected in zip(*results, strict=True):
            assert torch.equal(bytes_of(ours).cpu(), bytes_of(expected).cpu()), (operator, given)
            compared += expected.numel()
    assert compared > 0


def own_and_table(name):
    return INDEX[name], TABLE[name]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("calls", [forward_calls, backward_calls])
@pytest.mark.parametrize("name", UNITS)
def test_bits_are_those_of_the_row_that_is_the_same(libraries, name, calls, dtype):
    compare(calls(name, dtype), own_and_table(name))


@pytest.mark.parametrize("dtype", [torch.float32, *DTYPES_16])
@pytest.mark.parametrize("name", UNITS)
def test_quantised_bits_are_those_of_the_row_that_is_the_same(libraries, name, dtype):
    compare(quantized_calls(name, dtype), own_and_table(name))


def test_out_and_inplace_backward_take_an_index_of_ones_own(libraries):
    gate, up, grad_out, _ = given("geglu", torch.float32)
    results = []
    for index in (INDEX["geglu"], TABLE["geglu"]):
        out, written = torch.empty_like(gate), [grad_out.clone(), gate.clone(), up.clone()]
        OPS.glu_forward_out(gate, up, index, 0, out)
        OPS.glu_backward_inplace(*written, *options("geglu"), index, 0, 3, True)
        results.append([out, *written])
    assert all(same_bits(*pair) for pair in zip(*results, strict=True))


def test_what_a_unit_is_decides_what_it_takes(libraries):
    gate, up, _, _ = given("geglu", torch.float32)
    with pytest.raises(ValueError, match=r"^up: expected none for an activation"):
        OPS.glu_forward(gate, up, INDEX["mish"], 0)
    with pytest.raises(ValueError, match=r"^x: expected an even last dimension"):
        OPS.glu_forward(gate, None, INDEX["geglu"], 0)


def test_an_index_that_nobody_defined_says_what_to_do(libraries):
    gate, up, _, _ = given("geglu", torch.float32)
    message = rf"^variant: expected an index below {len(ROWS)}, or .*define made .* got {{}}: "
    for index in (FIRST + len(UNITS), len(ROWS), -1):
        with pytest.raises(ValueError, match=message.format(index)):
            OPS.glu_forward(gate, up, index, 0)


def test_rows_of_the_table_cannot_be_defined(libraries):
    for index in (-1, 0, len(ROWS) - 1):
        with pytest.raises(ValueError, match=rf"^variant: expected .* {len(ROWS)}, .* got {index}"):
            OPS.define_unit(index, str(libraries["geglu"]))


def test_libraries_of_nothing_are_refused(tmp_path, libraries):
    text = tmp_path / "text.so"
    text.write_text("no library")
    for path, reason in ((tmp_path / "none.so", "No such file"), (text, "text.so: ")):
        expected = rf"^library: expected that of a unit, got {re.escape(str(path))}: .*{reason}"
        with pytest.raises(RuntimeError, match=expected):
            OPS.define_unit(FIRST + 10, str(path))
    with pytest.raises(RuntimeError, match="fused_acts_unit"):
        OPS.define_unit(FIRST + 10, "libm.so.6")
    with pytest.raises(ValueError, match="define"):  # there is still none
        OPS.glu_forward(*given("geglu", torch.float32)[:2], FIRST + 10, 0)


def test_a_unit_is_defined_once(libraries):
    OPS.define_unit(INDEX["geglu"], "/nowhere.so")
    compare(forward_calls("geglu", torch.float32), own_and_table("geglu"))


def test_threads_define_and_call_at_once(libraries):
    failures = []

    def work():
        try:
            for index in range(FIRST + 100, FIRST + 120):
                OPS.define_unit(index, str(libraries["geglu"]))
                gate, up, _, _ = given("geglu", torch.float32)
                ours = OPS.glu_forward(gate, up, index, 0)
                assert same_bits(ours, OPS.glu_forward(gate, up, TABLE["geglu"], 0))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("name", UNITS)
def test_a_library_shows_one_symbol_and_needs_nothing_of_torch(libraries, name):
    def nm(option):
        command = ["nm", "--dynamic", option, libraries[name]]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert re.findall(r" [A-Za-z] (\w+)", nm("--defined-only")) == ["fused_acts_unit"]
    assert not re.findall(r"torch|c10|_Py", nm("--undefined-only"))


@pytest.mark.cuda
@pytest.mark.parametrize("name", UNITS)
def test_a_unit_for_the_cpu_alone_says_so_on_a_gpu(libraries, name):
    gate, up, _, _ = given(name, torch.float32)
    first = "gate" if is_gated(name) else "x"
    with pytest.raises(RuntimeError, match=rf"^{first}: is on cuda:0, but .* for the CPU alone"):
        OPS.glu_forward(gate.cuda(), up if up is None else up.cuda(), INDEX[name], 0)


@pytest.fixture(scope="module")
def on_gpus(own_units):
    """The index of a unit with kernels."""
    index = FIRST + 1000
    OPS.define_unit(index, str(library("elu_glu")))
    return index


@pytest.mark.slow
@pytest.mark.cuda
@pytest.mark.parametrize(
    ("calls", "dtype"),
    [(calls, dtype) for calls in (forward_calls, backward_calls) for dtype in DTYPES]
    + [(quantized_calls, dtype) for dtype in (torch.float32, *DTYPES_16)],
)
def test_bits_on_a_gpu_are_those_of_the_row_that_is_the_same(on_gpus, calls, dtype):
    for device in ("cpu", "cuda"):
        compare(calls("elu_glu", dtype), (on_gpus, TABLE["elu_glu"]), device)
