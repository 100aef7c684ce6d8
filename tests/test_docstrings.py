"""Docstrings say what a function takes: all of it, and nothing else."""

import inspect
import re

import pytest
import torch
from cases import ROWS, VARIANTS

import fused_acts

OF_ROWS = ("softmax_glu", "rms_norm_gated", "polynorm_glu", "topk_geglu")
OF_SEVERAL = ("gated", "activation", "maxout", *OF_ROWS)
ROW_FUNCTIONS = [name for name in fused_acts.__all__ if name in ROWS]
# Those that are torch.nn's in all but the kernel have its documentation.
CLASSES = [name for name in fused_acts.nn.__all__ if not hasattr(torch.nn, name)]


def documented(text):
    """The names under "Args:", each line of which is `name: text` or `name, other: text`."""
    _, _, rest = inspect.cleandoc(text).partition("Args:\n")
    block = re.match(r"(?:    .*\n?|\n)*", rest)[0]
    lines = re.findall(r"^ {4}((?:\*\*)?\w+(?:, \w+)*): ", block, re.M)
    return [name for line in lines for name in line.split(", ")]


def taken_by(function):
    """The names of its parameters; "**" for any others."""
    signature = inspect.signature(function)
    kinds = inspect.Parameter
    names = [p.name for p in signature.parameters.values() if p.kind is not kinds.VAR_KEYWORD]
    return names if len(names) == len(signature.parameters) else [*names, "**"]


def check(names, taken):
    """In any order, and each once."""
    assert sorted(names) == sorted(taken), f"differ in {set(names) ^ set(taken)}"


@pytest.mark.parametrize("name", ROW_FUNCTIONS)
def test_a_row_documents_its_arguments(name):
    function = getattr(fused_acts, name)
    check(documented(function.__doc__), taken_by(function))


@pytest.mark.parametrize("name", OF_SEVERAL)
def test_a_function_of_all_rows_documents_every_option(name):
    """One that takes **options documents those that any row's own function has."""
    function = getattr(fused_acts, name)
    taken = taken_by(function)
    if "**" in taken:
        rows = [n for n in ROW_FUNCTIONS if (n in VARIANTS) == (name == "gated")]
        options = {option for n in rows for option in taken_by(getattr(fused_acts, n))}
        taken = {*taken, *options} - {"**"}
    check(documented(function.__doc__), taken)


def test_the_quantised_unit_documents_its_arguments():
    """And names the functions whose options it takes."""
    names = documented(fused_acts.gated_quantized.__doc__)
    taken = taken_by(fused_acts.gated_quantized)
    check(names, [*(name for name in taken if name != "**"), "options"])


@pytest.mark.parametrize("name", CLASSES)
def test_a_module_documents_its_arguments(name):
    """One that takes options of a function has a line for `**options`."""
    kind = getattr(fused_acts.nn, name)
    names = ["**" if n.startswith("**") else n for n in documented(kind.__doc__)]
    taken = [] if kind.__init__ is torch.nn.Module.__init__ else taken_by(kind)
    check(names, taken)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_says_what_it_computes_and_whose_it_is(name):
    text, row = getattr(fused_acts, name).__doc__, ROWS[name]
    start = f"{name}(gate, up) = " if name in VARIANTS else f"{name}(x) = "
    assert text.startswith(start + row.formula) and row.source in text
    for expected in ("[..., cols]", "float16", "TypeError", "ValueError"):
        assert expected in text
