"""What units of the library have, those of one's own have too."""

import copy
import functools
import inspect
import io
import pickle

import pytest
import torch
from cases import VARIANTS
from define_cases import UNITS, bent, define, forget, logish, sinlu
from own_follow_cases import bytes_of, run_pickled, run_split
from subprocess_runner import run_alone
from tolerances import close

import fused_acts
from fused_acts import _call, _rows, functional, nn, reference, tables
from fused_acts._selftest import checks

F64 = torch.float64
COLS = 24


@pytest.fixture(scope="module", autouse=True)
def units(own_units):
    """{name: function}"""
    yield {name: define(name) for name in UNITS}
    forget(*UNITS)


def numbers(*shape, dtype=F64, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def pair(*shape, dtype=F64):
    return numbers(*shape, dtype=dtype, seed=1), numbers(*shape, dtype=dtype, seed=2)


def test_names_and_functions(units):
    assert {"sinlu_glu", "bent_glu"} <= {
        *fused_acts.variants()
    } and "logish" in fused_acts.activations()
    assert fused_acts.variants()[: len(VARIANTS)] == VARIANTS
    for name, function in units.items():
        assert functional.FUNCTIONS[name] is function and function.name == name
        row = tables.ROWS[_call.ROW_INDEX[name]]
        assert function.__doc__.startswith(f"{name}({'x' if name == 'logish' else 'gate, up'}) = ")
        parameters = inspect.signature(function).parameters
        assert {p: parameters[p].default for p in row.parameters} == row.parameters
        like = fused_acts.swish if name == "logish" else fused_acts.swiglu
        own = [p for p in parameters if p not in row.parameters]
        assert own == [p for p in inspect.signature(like).parameters if p != "beta"]
    with pytest.raises(ValueError, match=r"variant: expected .*sinlu_glu.*did you mean sinlu_glu"):
        fused_acts.gated(*pair(2, 4), variant="sinlu_gul")
    with pytest.raises(TypeError, match=r"b: sinlu_glu has no such option; it has a, limit"):
        units["sinlu_glu"](*pair(2, 4), b=1.0)


def row_of(**parameters):
    return tables.Activation(torch.sin, "sin(x)", "a test", parameters)


@pytest.mark.parametrize(
    "name, index, parameters, message",
    [
        ("swiglu", 2**61, {}, "name: expected a new one, got 'swiglu'"),
        ("sinlu_glu", 2**61, {}, "name: expected a new one"),
        ("other", 3, {}, "name: expected a new one"),
    ],
)
def test_rows_that_cannot_be_added(name, index, parameters, message):
    before = [dict(t) for t in (_call.ROW_INDEX, tables.ROWS, _call.NAMES, _call.DEFAULTS)]
    with pytest.raises(ValueError, match=message):
        _rows.add_row(name, row_of(**parameters), index)
    assert before == [_call.ROW_INDEX, tables.ROWS, _call.NAMES, _call.DEFAULTS]


def test_a_row_taken_back_is_unknown_again():
    function = _rows.add_row("passing", row_of(), 2**61)
    _rows.remove_row("passing")
    assert "passing" not in fused_acts.activations() and 2**61 not in tables.ROWS
    with pytest.raises(ValueError, match="expected one of"):
        fused_acts.activation(numbers(3), "passing")
    with pytest.raises((KeyError, ValueError)):
        function(numbers(3))


def test_the_oracle_agrees():
    """All that the installation's own test runs of each row of the library."""
    every = [check for check in checks() if check.name.split(" ")[0] in UNITS]
    assert len(every) == 2 * len(UNITS)
    for check in every:
        for dtype in (F64, torch.bfloat16):
            assert check.failure(dtype, torch.device("cpu")) is None, (check.name, dtype)


@pytest.mark.parametrize("name", UNITS)
def test_derivatives_backward_forward_and_batched(units, name):
    inputs = [t.requires_grad_() for t in pair(2, 3)][: 1 if name == "logish" else 2]
    a = [torch.full((3,), 0.7, dtype=F64, requires_grad=True) for _ in _parameters(name)]

    def call(*tensors):
        count = len(inputs)
        options = dict(zip(_parameters(name), tensors[count:], strict=True))
        return units[name](*tensors[:count], **options)

    torch.autograd.gradcheck(call, (*inputs, *a), check_forward_ad=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(call, (*inputs, *a))


def _parameters(name):
    return [*tables.ROWS[_call.ROW_INDEX[name]].parameters]


def test_functorch(units):
    gate, up = pair(5, 3)
    whole = units["sinlu_glu"](gate, up)
    assert torch.equal(torch.func.vmap(units["sinlu_glu"])(gate, up), whole)
    out, along = torch.func.jvp(units["logish"], (gate,), (up,))
    close(along, torch.func.jvp(logish, (gate,), (up,))[1])
    hessian = torch.func.hessian(lambda x: units["logish"](x).sum())(gate[0])
    close(hessian, torch.func.hessian(lambda x: logish(x).sum())(gate[0]))


def test_experts_have_their_own_parameters(units):
    gate, up = pair(6, 4)
    a = torch.tensor([0.5, 2.0], dtype=F64)
    offs = torch.tensor([2, 6], dtype=torch.int32)
    expected = torch.cat([sinlu(gate[:2], 0.5) * up[:2], sinlu(gate[2:], 2.0) * up[2:]])
    close(units["sinlu_glu"](gate, up, a=a, offs=offs), expected)
    both = units["bent_glu"](gate, up, a=a, b=a, offs=offs)
    close(both[2:], bent(gate[2:], 2.0, 2.0) * up[2:].tanh())


@pytest.mark.parametrize("format", ["fp8_row", "int8_row", "mxfp8"])
@pytest.mark.parametrize("name", UNITS)
def test_quantised(name, format):
    gate, up = pair(3, 64, dtype=torch.bfloat16)
    inputs = (gate,) if name == "logish" else (gate, up)
    found = fused_acts.gated_quantized(*inputs, variant=name, format=format)
    exact = reference.gated_quantized(*inputs, variant=name, format=format)
    values = [reference.dequantized(each, format=format) for each in (found, exact)]
    assert (values[0] - values[1]).abs().max() <= 0.07 * values[1].abs().max()


@pytest.mark.parametrize("name", UNITS)
def test_kept_in_eight_bits(units, name):
    inputs = pair(4, 128, dtype=torch.float32)[: 1 if name == "logish" else 2]
    grads = []
    for save in (None, "fp8_block128"):
        leaves = [t.clone().requires_grad_() for t in inputs]
        out = units[name](*leaves, save=save)
        grads.append(torch.autograd.grad(out.sum(), leaves))
    for kept, exact in zip(*grads, strict=True):
        assert not torch.equal(kept, exact)
        assert (kept - exact).norm() < 0.1 * exact.norm()


def models():
    """{what: (module, inputs, what it computes)}"""
    x, gate, up = numbers(5, 8), *pair(5, COLS)
    of_two = bent(gate, 0.5, 0.5) * up.tanh()

    def act(gate):
        return sinlu(gate, 0.125)

    linear, ffn, plain = (
        nn.GatedLinear(8, COLS, "sinlu_glu", dtype=F64),
        nn.GatedFFN(8, COLS, "sinlu_glu", packed=False, dtype=F64),
        nn.FFN(8, COLS, "logish", dtype=F64),
    )

    def of_linear(x):
        gate, up = torch.nn.functional.linear(x, linear.weight, linear.bias).chunk(2, -1)
        return act(gate) * up

    def of_experts(x):
        gate, up = (x @ experts.gate_up_proj[0].T).chunk(2, -1)
        return act(gate) * up @ experts.down_proj[0].T

    experts = nn.GatedExperts(2, 8, COLS, "sinlu_glu", dtype=F64)
    routed = torch.zeros(5, 1, dtype=torch.long), torch.ones(5, 1, dtype=F64)
    learned = nn.GatedActivation("sinlu_glu", a="per_channel", num_channels=COLS, dtype=F64)
    alone = nn.Activation("logish", bias=True, num_channels=COLS, dtype=F64)
    return {
        "GatedActivation": (learned, (gate, up), act(gate) * up),
        "two parameters": (nn.GatedActivation("bent_glu", b=0.5), (gate, up), of_two),
        "GatedLinear": (linear, (x,), of_linear(x)),
        "GatedFFN": (ffn, (x,), ffn.down_proj(act(ffn.gate_proj(x)) * ffn.up_proj(x))),
        "FFN": (plain, (x,), plain.down_proj(logish(plain.up_proj(x)))),
        "Activation": (alone, (gate,), logish(gate)),
        "GatedExperts": (experts, (x, *routed), of_experts(x)),
        "function": (functools.partial(functional.FUNCTIONS["logish"], weight=2.0), (x,), None),
    }


def test_modules_and_their_copies():
    for what, (module, inputs, expected) in models().items():
        out = module(*inputs)
        if expected is not None:
            close(out, expected)
            assert "_definition" not in repr(module) and "_definition" not in module.state_dict()
        copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]
        copies.append(torch.load(io.BytesIO(bytes_of(module)), weights_only=False))
        for other in copies:
            assert torch.equal(other(*inputs), out), what


def test_pickles_are_defined_again_where_they_are_read(tmp_path):
    every = models()
    module, inputs, _ = every["GatedExperts"]
    define_alone = _anonymous()
    things = {
        "module": (module.requires_grad_(False), inputs, module(*inputs), False),
        "function": (define_alone, (numbers(3, 4),), define_alone(numbers(3, 4)), True),
    }
    for name, thing in things.items():
        (tmp_path / name).write_bytes(pickle.dumps(thing))
        run_alone(run_pickled, str(tmp_path / name))
    forget("anonymous")


def _anonymous():
    """The activation alone, under another name and by a reference that cannot be imported."""
    changed = {"reference": lambda x: logish(x), "verbose": False}
    return fused_acts.define("anonymous", **{**UNITS["logish"], **changed})


@pytest.mark.parametrize("form", ["kernel", "inductor"])
def test_compiled(units, fresh_dynamo, form):
    fused_acts.compile_as(form)

    def function(gate, up):
        out = fused_acts.gated(gate, up, variant="sinlu_glu", a=0.3)
        out = units["bent_glu"](out, up, limit=2.0) + fused_acts.activation(gate, "logish")
        return out * ffn(out)

    ffn = nn.GatedFFN(COLS, 8, "sinlu_glu")
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=True)
    for rows in (3, 7):
        inputs = [t.requires_grad_() for t in pair(rows, COLS, dtype=torch.float32)]
        out, expected = compiled(*inputs), function(*inputs)
        torch.testing.assert_close(out, expected)
        grads = [torch.autograd.grad(y.sum(), inputs) for y in (out, expected)]
        torch.testing.assert_close(*grads)
    gated = tables.Variant(torch.sin, torch.cos, "sin(gate) * cos(up)", "a test")
    later = {"later": row_of(), "later_glu": gated}
    for index, (name, row) in enumerate(later.items()):
        _rows.add_row(name, row, 2**61 + index)
    try:
        with torch._dynamo.config.patch(error_on_recompile=True):
            torch.testing.assert_close(compiled(*inputs), expected)
    finally:
        for name in later:
            _rows.remove_row(name)


def test_exported_for_any_number_of_rows(units):
    class Model(torch.nn.Module):
        def forward(self, x):
            return fused_acts.gated(x, variant="bent_glu", a=0.25, layout="interleaved")

    x = numbers(3, 8, dtype=torch.float32)
    program = torch.export.export(Model(), (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    more = numbers(9, 8, dtype=torch.float32)
    assert torch.equal(program.module()(more), Model()(more))
    assert str(_call.ROW_INDEX["bent_glu"]) in program.graph_module.code


def test_an_operator_without_its_definition():
    gate, up = pair(2, 4)
    call = functools.partial(torch.ops.fused_acts.glu_forward, gate, up, 2**61, 0)
    with pytest.raises((RuntimeError, ValueError), match=r"variant: .*fused_acts\.define"):
        call()
    fake = torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True)
    with fake, pytest.raises(ValueError, match=r"variant: .*fused_acts\.define"):
        call()


def test_split_over_processes(tmp_path):
    run_alone(run_split, str(tmp_path))


def test_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    from fused_acts import gallery
    from fused_acts.gallery import entry, page

    for name, suffix in (("sinlu_glu", "svg"), ("logish", "png")):
        path = tmp_path / f"{name}.{suffix}"
        gallery.picture(name, path)
        assert path.stat().st_size > 1000
    text = page.page(page.galleries(entry.entries(["sinlu_glu"], a=0.5)))
    assert "### sinlu_glu" in text and "a = 0.5" in text and "a unit of one's own" in text
