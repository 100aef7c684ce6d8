"""The two tables of rows, in C++ and in Python, and what is made from them."""

import inspect
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import (
    ACTIVATIONS,
    FUNCTIONS,
    LAYOUTS,
    ROWS,
    VARIANTS,
    as_inputs,
    operands,
    same_bits,
)

import fused_acts
from fused_acts import _build_info, _library, reference, tables

ROOT = Path(__file__).resolve().parent.parent


def test_the_tables_agree():
    python = [(name, row.f.__name__, row.g.__name__) for name, row in tables.VARIANTS.items()]
    assert _build_info.compiled_variants() == python
    assert fused_acts.variants() == tuple(name for name, _, _ in python)
    python = [(name, row.f.__name__) for name, row in tables.ACTIVATIONS.items()]
    assert _build_info.compiled_activations() == python
    assert fused_acts.activations() == tuple(name for name, _ in python)
    names = VARIANTS + ACTIVATIONS
    assert len(set(names)) == len(names) == len(tables.ROWS) > 0


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


OF_ROWS = {"weight": 1.0, "offs": None, "counts": None, "row_expert": None, "padding": "skip"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_signatures_are_alike(variant):
    """`gated` takes the options of them all, each variant's function its own, by name."""
    row = reference.VARIANTS[variant]
    keyword = inspect.Parameter.KEYWORD_ONLY
    expected = signature(fused_acts.gated)
    assert list(expected) == ["gate", "up", "variant", "layout", "dim", "out", "options"]
    del expected["variant"], expected["options"]
    expected |= {name: (keyword, value) for name, value in row.parameters.items()}
    expected |= {"limit": (keyword, row.limit)} if row.limits else {}
    expected |= {name: (keyword, None) for name in ("gate_bias", "up_bias", "bias")}
    expected |= {option: (keyword, default) for option, default in OF_ROWS.items()}
    expected |= {"block": (keyword, 1)}
    expected |= {"rounding": (keyword, "single"), "inplace_backward": (keyword, False)}
    expected |= {"save": (keyword, None)}
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


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_function_for_each_activation(name):
    x, bias, _ = operands(3, 8, dtype=torch.float32)
    function = getattr(fused_acts, name)
    assert same_bits(function(x), fused_acts.activation(x, name))
    assert same_bits(function(x, bias[0]), fused_acts.activation(x, name, bias[0]))
    assert same_bits(function(x, bias=bias[0]), fused_acts.activation(x, name, bias=bias[0]))
    assert name in fused_acts.__all__


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_signatures_of_activations_are_alike(name):
    """`activation` takes the parameters of them all, each one's function its own, by name."""
    row = ROWS[name]
    expected = signature(fused_acts.activation)
    assert list(expected)[:4] == ["x", "name", "bias", "out"]
    expected = {option: expected[option] for option in ("x", "bias", "out")}
    keyword = inspect.Parameter.KEYWORD_ONLY
    expected |= {name: (keyword, value) for name, value in row.parameters.items()}
    expected |= {option: (keyword, default) for option, default in OF_ROWS.items()}
    expected |= {"save": (keyword, None)}
    actual = signature(getattr(fused_acts, name))
    assert actual == expected and list(actual) == list(expected)


def test_names_are_exported():
    assert set(fused_acts.__all__) >= {*VARIANTS, "gated", "nn", "reference", "show_build"}
    for name in fused_acts.__all__:
        assert hasattr(fused_acts, name)


def test_dir_shows_the_public_names():
    shown = dir(fused_acts)
    assert shown == sorted(fused_acts.__all__) and not any(n.startswith("_f") for n in shown)
    for name in ("swigul", "qwerty"):
        with pytest.raises(AttributeError, match=name):
            getattr(fused_acts, name)


def test_defaults_are_swiglu_and_gate_up():
    gate, up, _ = operands(3, 8, dtype=torch.float32)
    expected = fused_acts.gated(gate, up, variant="swiglu")
    assert same_bits(fused_acts.gated(gate, up), expected)
    assert same_bits(fused_acts.gated(torch.cat((gate, up), -1)), expected)
    assert same_bits(fused_acts.nn.GatedActivation()(gate, up), expected)


WORDS = {"glu", "swiglu", "sigmoid", "relu", "swish", "silu", "gelu", "gelu_tanh", "elu"}  # of text


def test_one_row_is_a_functor_a_row_and_a_row():
    """Everything else iterates over the tables: no other file of the library has the names."""
    functions = {f for f, _ in FUNCTIONS.values()} - {"identity"}  # which is a word too
    names = {name for name in {*ROWS, *functions} - WORDS if not hasattr(math, name)}
    assert {"geglu_tanh", "gtu", "leaky_relu", "prelu", "mish"} <= names
    pattern = re.compile(rf"(?<![\w.])({'|'.join(names)})(?!\w)")
    functors = ("activations_piecewise.h", "activations_smooth.h")
    allowed = (*functors, "variants.h", "tables.py", "_formulas.py", "_names.py")
    # Where other libraries' names, functions of mathematics and those of expressions are.
    exempt = {
        "jet_functions.h",
        "nn/activations.py",
        "nn/torch_modules.py",
        "gallery/page.py",
        "integrations",
        "elementary.h",
        "functions.h",
        "row_units",
        "reference.py",
    }
    found = {name: set() for name in allowed}
    sources = [*ROOT.glob("csrc/**/*"), *ROOT.glob("fused_acts/**/*.py")]
    assert len(sources) > 10
    for path in sources:
        readable = path.suffix in (".h", ".cpp", ".cu", ".cuh", ".py")
        if readable and not any(part in str(path) for part in exempt):
            here = set(pattern.findall(path.read_text(encoding="utf-8")))
            assert path.name in allowed or not here, (path, here)
            found.get(path.name, set()).update(here)
    assert found["variants.h"] >= names & set(ROWS) <= found["tables.py"]
    assert set().union(*(found[name] for name in functors)) >= names & functions


def test_show_build():
    text = fused_acts.show_build()
    capability = _build_info.cpu_capability()
    assert ("without CUDA" in text) == (not _library.BUILD["cuda_version"])
    built = [_library.BUILD[key] for key in ("torch_version", "compiler", "cuda_architectures")]
    for value in (torch.__version__, *built, capability, fused_acts.__version__):
        assert value in text


def test_the_instruction_set_in_use_can_be_lowered():
    code = "from fused_acts import _build_info; print(_build_info.cpu_capability())"
    environment = os.environ | {"FUSED_ACTS_CPU_CAPABILITY": "baseline"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.stdout.split() == [b"baseline"]
