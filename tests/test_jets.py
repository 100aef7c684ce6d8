"""Numbers with derivatives, in programs that the compiler of the library compiles."""

import subprocess
from pathlib import Path

import pytest

from fused_acts._toolchain import cxx

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ["-std=c++17", "-O2", "-fno-math-errno", "-ffp-contract=off", "-w", f"-I{ROOT}/csrc"]
FORMS = {  # of own_unit.h, by what an expression is written in
    "an unknown function": "x * sigmod(x)",
    "a missing operand": "x * * x",
    "a parameter that depends on x": "elu(x, x)",
    "a condition where a number is wanted": "x * (x > 0)",
}


@pytest.fixture(scope="module")
def compiler() -> list[str]:
    return list(cxx.find_compiler())


def compiled(compiler: list[str], source: Path, program: Path, *flags: str) -> str:
    """What the compiler says."""
    command = [*compiler, *FLAGS, *flags, str(source), "-o", str(program)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600).stderr


@pytest.mark.parametrize("program", ["table", "expressions", "whole_range"])
def test_derivatives(compiler, program, tmp_path):
    # the registers of this processor; others compile them as the library does
    flags = ["-march=native"] if program == "whole_range" else []
    said = compiled(compiler, ROOT / f"tests/jets/{program}.cpp", tmp_path / program, *flags)
    assert (tmp_path / program).exists(), said
    done = subprocess.run([tmp_path / program], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout


def unit(expression: str) -> str:
    return f"""
#include "math/jet_functions.h"
using namespace fused_acts;
struct Own {{
  template <class X>
  static FUSED_ACTS_INLINE auto of(X x) {{
    return
#line 1 "f"
{expression};
  }}
}};
double in_double = JetFunction<Math64, Own, 0>().triple(0.5).value;
float in_float = JetFunction<Math32<float>, Own, 0>().value(0.5f);
int main() {{}}
"""


def test_an_expression_compiles(compiler, tmp_path):
    (tmp_path / "own.cpp").write_text(unit("x * sigmoid(x) + 1_i / 2_i * max(x, 0)"))
    said = compiled(compiler, tmp_path / "own.cpp", tmp_path / "own")
    assert (tmp_path / "own").exists(), said


@pytest.mark.parametrize("expression", FORMS.values(), ids=FORMS.keys())
def test_what_is_none_is_an_error_at_its_place(compiler, expression, tmp_path):
    (tmp_path / "own.cpp").write_text(unit(expression))
    said = compiled(compiler, tmp_path / "own.cpp", tmp_path / "own")
    assert not (tmp_path / "own").exists()
    assert "f:1:" in said and "error" in said
    if "elu" in expression:
        assert "must not depend on x" in said
