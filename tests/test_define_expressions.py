"""Expressions of units of one's own: what is refused, and what a compiler is told."""

import pytest
from define_cases import sinlu

import fused_acts
from fused_acts._definitions.build import csrc
from fused_acts._definitions.compile import Output
from fused_acts._definitions.definition import make_definition
from fused_acts._definitions.expression import in_cpp, position_of
from fused_acts._definitions.source import check_source, own_unit
from fused_acts._toolchain import cxx


@pytest.mark.parametrize(
    ("f", "message"),
    [
        ("x * tanh(a) // 2", "no // here"),
        ("x /* a */ * a", r"no /\* here"),
        ("1,5 * x * a", r"no , here.*\n    1,5 \* x \* a\n     \^"),
        ("max((x, a), 0)", "no , here"),
        ("2x * a", r"no 2x here: write 2 \* x"),
        ("2.5a * x", r"write 2\.5 \* a"),
        ("a * x < 0", "f: expected an expression that is a number; got a condition"),
        ("a * -x x", r"f: does not compile: .*\n    a \* -x x\n           \^"),
    ],
)
def test_expressions_that_are_none(own_units, f, message):
    with pytest.raises(ValueError, match=message):
        fused_acts.define("none", f, parameters={"a": 1.0}, reference=sinlu, verbose=False)


def test_statements_that_return_nothing(own_units):
    with pytest.raises(ValueError, match="f_source: expected an expression .* nothing returned"):
        fused_acts.define(
            "none",
            f_source="auto y = x * a;",
            parameters={"a": 1.0},
            reference=sinlu,
            verbose=False,
        )


@pytest.mark.parametrize(
    "name", ["thread_local", "bitand", "NULL", "OwnFirst", "FUSED_ACTS_INLINE", "_A", "a__b"]
)
def test_parameters_with_another_meaning(name):
    with pytest.raises(ValueError, match=f"parameters: {name} has another meaning"):
        make_definition("none", f"x * {name}", None, {name: 1.0}, None)


def test_what_the_compiler_reads():
    assert in_cpp("1 / 2") == "1_i / 2_i"
    assert in_cpp("x2 + 08 * 1e5") == "x2  + 8_i * 1e5"
    assert in_cpp("x--1") == "x - -1_i"
    assert in_cpp("99999999999999999999 * x") == "99999999999999999999.0 * x"
    for f in ("1 / 2 + x", "-x--pow(x, 12)"):
        for character in "xp/":
            if character in f:
                assert position_of(f, in_cpp(f).index(character)) == f.index(character)


def test_blanks_and_lines_do_not_matter():
    spread = make_definition("one", " x *\n    tanh(x) ", None, None, None)
    assert spread == make_definition("one", "x * tanh(x)", None, None, None)
    assert make_definition("one", " gelu ", None, None, None).f == "gelu(x)"


@pytest.mark.parametrize("f", ["elu(x, a) + b", "a * select(x > b, x, expm1(x))", "1"])
def test_an_expression_that_compiles(tmp_path, f):
    parameters = None if f == "1" else {"a": 1.0, "b": 2.0}
    definition = make_definition("one", f, None, parameters, None)
    (tmp_path / "own_unit.h").write_text(own_unit(definition))
    flags = ["-std=c++17", "-w", "-DFUSED_ACTS_OWN", f"-I{csrc()}", f"-I{tmp_path}"]
    check_source(definition, tmp_path, [*cxx.find_compiler(), *flags], Output("one", False))
