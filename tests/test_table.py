"""The two tables of variants, in C++ and in Python, and what is made from them."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from cases import LAYOUTS, PACKED, VARIANTS, as_inputs, operands, same_bits

import fused_acts
from fused_acts import _C, options, reference

ROOT = Path(__file__).resolve().parent.parent


def test_the_tables_agree():
    python = [(name, row.f.__name__, row.g.__name__) for name, row in reference.VARIANTS.items()]
    assert _C.variants() == python
    assert fused_acts.variants() == tuple(name for name, _, _ in _C.variants())
    assert len(set(fused_acts.variants())) == len(fused_acts.variants()) > 0


def test_layouts_are_in_the_order_of_the_operators():
    gate, up, _ = operands(3, 4, dtype=torch.float32)
    for index, layout in enumerate(PACKED):
        for variant, name in enumerate(VARIANTS):
            (x,) = as_inputs(gate, up, layout)
            call = options.parse(name, layout, {}).call
            numbers = (call.scalar, call.limit, variant, index)
            out = torch.ops.fused_acts.glu_forward_options(x, None, None, None, None, *numbers)
            expected = fused_acts.gated(gate, up, variant=name)
            assert same_bits(out, expected)
            if call.plain:
                out = torch.ops.fused_acts.glu_forward(x, None, variant, index)
                assert same_bits(out, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_function_for_each_variant(variant, layout):
    function = getattr(fused_acts, variant)
    inputs = as_inputs(*operands(3, 8, dtype=torch.float32)[:2], layout)
    chosen = {} if layout == "separate" else {"layout": layout}
    expected = fused_acts.gated(*inputs, variant=variant, **chosen)
    assert same_bits(function(*inputs, **chosen), expected)
    out = torch.empty(3, 8)
    assert function(*inputs, **chosen, out=out) is out and same_bits(out, expected)


def signature(function):
    return {
        name: (parameter.kind, parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_signatures_are_alike(variant):
    """`gated` takes the options of them all, each variant's function its own, by name."""
    row = reference.VARIANTS[variant]
    keyword = inspect.Parameter.KEYWORD_ONLY
    expected = signature(fused_acts.gated)
    assert list(expected) == ["gate", "up", "variant", "layout", "out", "options"]
    del expected["variant"], expected["options"]
    expected |= {row.parameter: (keyword, row.default)} if row.parameter else {}
    expected |= {"limit": (keyword, row.limit)} if row.limits else {}
    expected |= {name: (keyword, None) for name in ("gate_bias", "up_bias", "bias")}
    expected |= {"rounding": (keyword, "single"), "inplace_backward": (keyword, False)}
    actual = signature(getattr(fused_acts, variant))
    if row.layout != "gate_up":  # that of packed inputs alone
        assert actual["layout"] == (keyword, None)
        actual["layout"] = expected["layout"]
    assert actual == expected and list(actual) == list(expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_inputs_have_the_layout_of_the_table(variant):
    gate, up, _ = operands(3, 8, dtype=torch.float32)
    function, layout = getattr(fused_acts, variant), reference.VARIANTS[variant].layout
    (x,) = as_inputs(gate, up, layout)
    assert same_bits(function(x), function(gate, up))


@pytest.mark.parametrize("variant", VARIANTS)
def test_docstrings_hold_formula_shapes_errors_and_source(variant):
    text = getattr(fused_acts, variant).__doc__
    assert reference.VARIANTS[variant].formula in text
    for expected in (variant, "[..., cols]", "float16", "TypeError", "ValueError", "arxiv.org"):
        assert expected in text


def test_names_are_exported():
    assert set(fused_acts.__all__) >= {*VARIANTS, "gated", "nn", "reference", "show_build"}
    for name in fused_acts.__all__:
        assert hasattr(fused_acts, name)


def test_defaults_are_swiglu_and_gate_up():
    gate, up, _ = operands(3, 8, dtype=torch.float32)
    expected = fused_acts.gated(gate, up, variant="swiglu")
    assert same_bits(fused_acts.gated(gate, up), expected)
    assert same_bits(fused_acts.gated(torch.cat((gate, up), -1)), expected)
    assert same_bits(fused_acts.nn.GatedActivation()(gate, up), expected)


def test_no_variant_is_named_outside_the_tables():
    """Kernels, dispatch and autograd work on the index; a new variant is a row on each side."""
    names = re.compile(rf"\b({'|'.join(set(VARIANTS) - {'glu', 'swiglu'})})\b", re.IGNORECASE)
    sources = [*ROOT.glob("csrc/**/*"), *ROOT.glob("fused_acts/**/*.py")]
    assert len(sources) > 10
    # integrations has a table too, of other libraries' names for them
    tables = {"variants.h", "tables.py", "transformers.py"}
    named = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in sources
        if path.is_file() and path.name not in tables
        for match in names.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not named


def test_build_information():
    build = _C.build_info()
    assert set(build) == {
        "torch_version",
        "cuda_version",
        "cuda_architectures",
        "compiler",
        "cpu_capability",
    }
    assert re.match(r"\d+\.\d+", build["torch_version"]) and build["compiler"]
    assert bool(build["cuda_version"]) == bool(build["cuda_architectures"])
    assert build["cpu_capability"]


def test_show_build():
    text = fused_acts.show_build()
    build = _C.build_info()
    for value in (torch.__version__, *build.values(), fused_acts.__version__):
        assert value in text
