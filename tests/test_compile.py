"""torch.compile with options, the choice between the kernel and the formula, and AOTInductor."""

import pytest
import torch
from cases import (
    UNARY,
    as_inputs,
    operands,
    random,
    same_bits,
)
from compile_cases import Graphs
from derivative_cases import of
from torch._dynamo.testing import CompileCounter

import fused_acts

pytestmark = pytest.mark.usefixtures("fresh_dynamo")

ROWS = {
    "gate_bias": random(8, dtype=torch.float32, seed=7),
    "up_bias": random(8, dtype=torch.float32, seed=8),
}
# Every kind of option, alone and together.
OPTIONS = [
    ("gtu", ROWS),
    ("glu", {"bias": random(16, dtype=torch.float32, seed=6)}),
    ("geglu", {"limit": 1.25}),
    ("swiglu_oai", {}),
    ("elu_glu", {"alpha": 0.6}),
    ("preglu", {"slope": torch.tensor(0.3)}),
    ("swiglu", {**ROWS, "limit": 1.25, "beta": random(8, dtype=torch.float32, seed=9)}),
]
OF_ACTIVATIONS = [
    ("gelu", {"bias": ROWS["up_bias"]}),
    ("softplus", {"beta": 0.6}),
    ("swish", {"beta": random(8, dtype=torch.float32, seed=9), "bias": ROWS["gate_bias"]}),
    ("prelu", {"slope": torch.tensor(0.3)}),
]


@pytest.mark.parametrize(
    "layout, dynamic",
    [("separate", True), ("interleaved", True), ("up_gate", False), (UNARY, True), (UNARY, False)],
)
def test_options(layout, dynamic):
    """Both passes in one graph each, equal to the last bit to those without compilation."""
    chosen = OF_ACTIVATIONS if layout == UNARY else OPTIONS
    chosen = chosen[::3] if dynamic else chosen  # symbolic shapes take their time

    def every(inputs, rows):
        rows = iter(rows)
        return [
            of(
                name,
                layout=layout,
                **{n: next(rows) if isinstance(v, torch.Tensor) else v for n, v in options.items()},
            )[0](*inputs)
            for name, options in chosen
        ]

    compiled = torch.compile(every, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    given = [v for _, o in chosen for v in o.values() if isinstance(v, torch.Tensor)]
    for shape in ((4, 8), (6, 8))[: 1 + dynamic]:
        gate, up, grad_out = operands(*shape, dtype=torch.bfloat16)
        results = []
        for function in (every, compiled):
            leaves = [t.clone().requires_grad_() for t in as_inputs(gate, up, layout)]
            rows = [t.clone().requires_grad_() for t in given]
            outs = function(leaves, rows)
            grads = torch.autograd.grad(outs, [*leaves, *rows], [grad_out] * len(outs))
            results.append([*(out.detach() for out in outs), *grads])
        assert all(map(same_bits, *results))


def test_a_graph_holds_one_operator_for_each_pass():
    graphs = Graphs()
    gate, up, _ = (t.requires_grad_() for t in operands(4, 8, dtype=torch.float32))
    bias = torch.zeros(8, requires_grad=True)
    compiled = torch.compile(fused_acts.swiglu, backend=graphs.backend(), fullgraph=True)
    compiled(gate, up).sum().backward()
    assert graphs.ours() == ["fused_acts.glu_backward.default", "fused_acts.glu_forward.default"]
    graphs.targets.clear()
    compiled(gate, up, gate_bias=bias, limit=3.0).sum().backward()
    assert graphs.ours() == [
        "fused_acts.glu_backward_options.default",
        "fused_acts.glu_forward_options.default",
    ]


def test_numbers_are_not_stale():
    """Each value of an option is compiled for, not the first one kept."""
    gate, up, _ = operands(4, 8, dtype=torch.float32)
    compiled = torch.compile(fused_acts.swiglu, backend="aot_eager", fullgraph=True)
    for options in ({"beta": 1.0}, {"beta": 2.0}, {"limit": 1.0}, {"limit": 0.0}, {"limit": None}):
        assert same_bits(compiled(gate, up, **options), fused_acts.swiglu(gate, up, **options))


def test_a_learned_parameter_is_not_compiled_in():
    module = fused_acts.nn.GatedActivation("swiglu", beta="learned")
    counter = CompileCounter()
    compiled = torch.compile(module, backend=counter, fullgraph=True)
    gate, up, _ = operands(4, 8, dtype=torch.float32)
    for value in (1.0, 1.5, -0.3):
        with torch.no_grad():
            module.beta.fill_(value)
        assert same_bits(compiled(gate, up).detach(), fused_acts.swiglu(gate, up, beta=value))
    assert counter.frame_count == 1


def test_export_with_options():
    module = fused_acts.nn.GatedActivation(
        "swiglu", "interleaved", beta="per_channel", num_channels=8, limit=2.0
    )
    (x,) = as_inputs(*operands(4, 8, dtype=torch.float32)[:2], "interleaved")
    rows = torch.export.Dim("rows")
    exported = torch.export.export(module, (x,), dynamic_shapes=[{0: rows}])
    targets = [str(node.target) for node in exported.graph.nodes]
    assert targets.count("fused_acts.gated.default") == 1
    other = random(9, 16, dtype=torch.float32, seed=5)
    assert same_bits(exported.module()(other), module(other))
    assert list(exported.state_dict) == ["beta"]


@pytest.mark.slow
def test_aotinductor_package(tmp_path):
    """A compiled package that is loaded from a file calls the kernels, options and all."""

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.act = fused_acts.nn.GatedActivation("swiglu", beta="learned", limit=2.0)

        def forward(self, x):
            return self.act(x)

    block = Block().eval()
    (x,) = as_inputs(*operands(4, 8, dtype=torch.float32)[:2], "interleaved")
    rows = torch.export.Dim("rows", min=2, max=1024)
    with torch.no_grad():
        exported = torch.export.export(block, (x,), dynamic_shapes=[{0: rows}])
        path = torch._inductor.aoti_compile_and_package(
            exported, package_path=str(tmp_path / "block.pt2")
        )
        package = torch._inductor.aoti_load_package(path)
        for inputs in (x, random(9, 16, dtype=torch.float32, seed=5)):
            torch.testing.assert_close(package(inputs), block(inputs))
