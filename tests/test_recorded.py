"""Programs that torch.export, torch.jit.trace and make_fx record: they train, and reload."""

import io

import pytest
import torch
from cases import operands
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

import fused_acts
from fused_acts import nn

INF = float("inf")


class Maxed(torch.nn.Module):
    def forward(self, x):
        return fused_acts.maxout(x, 2)


class Softmaxed(torch.nn.Module):
    def forward(self, x):
        return fused_acts.softmax_glu(*x.chunk(2, -1))


class Normed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.RMSNormGated(4, norm_before_gate=False, group_size=2)

    def forward(self, x):
        return self.norm(*x.chunk(2, -1))


class Infinite(torch.nn.Module):
    def forward(self, x):
        return fused_acts.swiglu(x, beta=INF, limit=INF)


class Tied(torch.nn.Module):
    def forward(self, x):
        return fused_acts.glu(x, x)


UNITS = {
    "swiglu": lambda: nn.GatedActivation("swiglu"),
    "options": lambda: nn.GatedActivation("swiglu_oai", "interleaved", alpha="learned"),
    "eager": lambda: nn.GatedActivation("swiglu", limit=1.0, rounding="eager"),
    "leaky_relu": nn.LeakyReLU,
    "bias": lambda: nn.Activation("gelu", bias=True, num_channels=8),
    "linear": lambda: nn.GatedLinear(8, 8),
    "ffn": lambda: nn.GatedFFN(8, 6, bias=True, limit=2.0),
    "separate": lambda: nn.GatedFFN(8, 6, packed=False, recompute="all"),
    "maxout": Maxed,
    "softmax_glu": Softmaxed,
    "rms_norm_gated": Normed,
    "tied": Tied,
}


def model(name):
    torch.manual_seed(0)
    unit = UNITS[name]()
    width = unit(torch.randn(3, 8)).shape[-1]
    return torch.nn.Sequential(torch.nn.Linear(8, 8), unit, torch.nn.Linear(width, 4))


def exported(module, x):
    return torch.export.export(module, (x,)).module()


def exported_strictly(module, x):
    return torch.export.export(module, (x,), strict=True).module()


def reloaded(module, x):
    file = io.BytesIO()
    torch.export.save(torch.export.export(module, (x,)), file)
    file.seek(0)
    return torch.export.load(file).module()


def traced(module, x):
    return torch.jit.trace(module, (x,))


def traced_without_grad(module, x):
    with torch.no_grad():
        return torch.jit.trace(module, (x,))


def trace_reloaded(module, x):
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, (x,)), file)
    file.seek(0)
    return torch.jit.load(file)


def fx(module, x):
    program = make_fx(lambda *inputs: torch.func.functional_call(module, names(inputs), inputs[0]))
    names = lambda inputs: dict(zip(dict(module.named_parameters()), inputs[1:], strict=True))  # noqa: E731
    graph = program(x, *module.parameters())
    return lambda x: graph(x, *module.parameters())


RECORDERS = (exported, exported_strictly, reloaded, traced, traced_without_grad, trace_reloaded, fx)


@pytest.mark.parametrize("record", RECORDERS)
@pytest.mark.parametrize("name", UNITS)
def test_a_recorded_program_trains(name, record):
    module = model(name)
    x, _, _ = operands(3, 8, dtype=torch.float32)
    module(x).square().sum().backward()
    expected = {n: p.grad.clone() for n, p in module.named_parameters()}
    out = module(x).detach()
    module.zero_grad()
    program = record(module, x)
    given = program(x)
    torch.testing.assert_close(given.detach(), out)
    given.square().sum().backward()
    of = module if record is fx else program
    for key, parameter in of.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key])


@pytest.mark.filterwarnings("error:There is a performance drop")  # of an operator without a vmap
@pytest.mark.parametrize("name", UNITS)
def test_a_recorded_program_is_transformed(name):
    """Forward mode, functorch's reverse mode, second derivatives and vmap."""
    module, (x, tangent, _) = model(name), operands(3, 8, dtype=torch.float32)
    for record in (exported, traced, fx):
        program = record(module, x)
        for transform in (
            lambda f: torch.func.jvp(f, (x,), (tangent,)),
            lambda f: torch.func.grad(lambda x: f(x).square().sum())(x),
            lambda f: torch.func.hessian(lambda x: f(x).square().sum())(x),
            lambda f: torch.func.vmap(f, 1, 1)(torch.stack((x, tangent, x), 1)),
            lambda f: along(f, x, tangent),
        ):
            torch.testing.assert_close(transform(program), transform(module))


def along(function, x, tangent):
    with forward_ad.dual_level():
        out = forward_ad.unpack_dual(function(forward_ad.make_dual(x, tangent)))
        return out.primal, out.tangent


def test_a_recorded_program_of_many_parameters():
    """vmap of what all rows share."""
    x, up, bias = operands(3, 8, dtype=torch.float32)
    program = make_fx(lambda x, up, bias: fused_acts.swiglu(x, up, gate_bias=bias))(x, up, bias[0])
    expected = torch.stack([fused_acts.swiglu(x, up, gate_bias=row) for row in bias])
    torch.testing.assert_close(torch.vmap(program, (None, None, 0))(x, up, bias), expected)


def test_vmap_of_a_recorded_norm():
    x, z, weights = operands(3, 8, dtype=torch.float32)
    program = make_fx(lambda *operands: fused_acts.rms_norm_gated(*operands))(x, z, weights[0])
    expected = torch.stack([fused_acts.rms_norm_gated(x, z, weight) for weight in weights])
    torch.testing.assert_close(torch.vmap(program, (None, None, 0))(x, z, weights), expected)


OTHERS = ("leaky_relu", "maxout", "options", "ffn", "softmax_glu", "rms_norm_gated")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in OTHERS]


@pytest.mark.parametrize("name", ["bias", *SLOW])
def test_every_package_loads(tmp_path, name):
    check_package(tmp_path, model(name).eval())


@pytest.mark.slow
def test_infinite_numbers_in_a_package(tmp_path):
    check_package(tmp_path, Infinite())


def check_package(tmp_path, module):
    x, _, _ = operands(3, 8, dtype=torch.float32)
    with torch.no_grad():
        path = torch._inductor.aoti_compile_and_package(
            torch.export.export(module, (x,)), package_path=str(tmp_path / "block.pt2")
        )
        torch.testing.assert_close(torch._inductor.aoti_load_package(path)(x), module(x))


@pytest.mark.parametrize("limit", [None, INF])
def test_no_limit_keeps_infinity(limit):
    x = torch.tensor([[INF, -INF, 1.0, 2.0]])
    expected = torch.tensor([[INF, -INF]])
    assert torch.equal(fused_acts.reglu(x, limit=limit)[:, :1], expected[:, :1])
    ops = torch.ops.fused_acts
    rest = None, None, None, None, 1.0, 1.0, limit, 1.0, 2, 0
    assert torch.equal(ops.gated(x, *rest), ops.glu_forward_options(x, *rest))


@pytest.mark.parametrize("name", ["swiglu", "leaky_relu", "bias", "ffn", "softmax_glu"])
def test_onnx(tmp_path, name):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    module = model(name).eval()
    x, _, _ = operands(3, 8, dtype=torch.float32)
    path = str(tmp_path / "model.onnx")
    torch.onnx.export(module, (x,), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), module(x).detach(), rtol=1e-4, atol=1e-5)


def test_torch_jit_script_is_refused():
    for what in (fused_acts.swiglu, nn.SiLU(), torch.nn.Sequential(nn.GatedFFN(8, 8))):
        with pytest.raises(TypeError, match="torch.jit.script: .*torch.compile"):
            torch.jit.script(what)


@pytest.mark.parametrize("name", ["gated", "maxout", "softmax_glu", "row_unit"])
def test_opcheck(name):
    gate, up, _ = (t.requires_grad_() for t in operands(3, 8, dtype=torch.float32))
    calls = {
        "gated": (gate, up, None, None, None, 1.5, 1.0, None, 1.0, 5, 0),
        "maxout": (gate, 2),
        "softmax_glu": (gate, up),
        "row_unit": (gate, up, gate[0].detach(), None, 0, 1e-6, 2),
    }
    results = torch.library.opcheck(getattr(torch.ops.fused_acts, name), calls[name])
    assert set(results.values()) == {"SUCCESS"}
