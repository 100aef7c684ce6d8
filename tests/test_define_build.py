"""How units of one's own are compiled, and every error."""

import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from define_cases import UNITS, again, define, forget, sinlu
from subprocess_runner import run_alone

import fused_acts
from fused_acts._definitions import build, cache, target
from fused_acts._definitions.compile import Command, Failed, Output, job_count, run_all
from fused_acts._definitions.definition import make_definition
from fused_acts._definitions.expression import FUNCTIONS
from fused_acts._definitions.source import check_source, own_unit
from fused_acts._toolchain import cxx

TESTS = Path(__file__).parent


def test_a_second_process_runs_no_compiler(own_units, monkeypatch, tmp_path):
    for name in UNITS:
        define(name)
    forget(*UNITS)
    log = tmp_path / "compilers"
    monkeypatch.setenv("UNIT_COMPILERS", str(log))
    run_alone(again)
    assert not log.exists()
    with pytest.raises(ValueError, match="does not compile"):
        fused_acts.define("none", "x * (", reference=torch.sin, verbose=False)
    assert log.read_text()


def test_the_cache_says_what_it_holds(own_units):
    define("sinlu_glu")
    found = cache.cache_folder().glob("*/definition.json")
    (entry,) = (path.parent for path in found if '"sinlu_glu"' in path.read_text())
    assert not entry.with_name(f"{entry.name}.building").exists()
    assert stat.S_IMODE(cache.cache_folder().stat().st_mode) & 0o022 == 0
    forget("sinlu_glu")


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (
            "x * sinh(x)",
            r"no function sinh.*\n    x \* sinh\(x\)\n        \^\nthere are abs, .*tanh",
        ),
        ("x * sigmod(x)", "no function sigmod; did you mean sigmoid"),
        ("x + y", r"no name y\n    x \+ y\n        \^\nthere are x, a"),
        ("x ** 2", r"no \*\* here: write square\(x\) or pow\(x, 3\)"),
        ("x ^ 2", r"no \^ here"),
        ("x > 0 ? x : a", r"no \? here: write select\(condition, a, b\)"),
        ("x # a", r"'#' is no part of an expression"),
        ("", "expected an expression over x, got nothing"),
        ("x * 2", "parameters: a does not stand in f"),
        # what the compiler says, and where
        ("a * (x + ", r"f: does not compile: .*\n    a \* \(x \+"),
        ("a * select(x > 0, x)", r"f: does not compile: .*select.*\n    a \* select\(x > 0, x\)"),
        ("1 + a * x x", r"f: does not compile: .*\n    1 \+ a \* x x\n              \^"),
    ],
)
def test_expressions_that_are_none(own_units, f, message):
    with pytest.raises(ValueError, match=message) as caught:
        fused_acts.define("none", f, parameters={"a": 1.0}, reference=sinlu, verbose=False)
    assert len(str(caught.value).splitlines()) <= 6
    assert "none" not in fused_acts.variants()


def test_sources_of_another_build(monkeypatch):
    monkeypatch.setitem(build.BUILD, "sources", "others")
    with pytest.raises(RuntimeError, match="not what this fused_acts was built from"):
        fused_acts.define("none", "x * 2", reference=lambda x: x * 2)
    assert "none" not in fused_acts.variants()


def test_without_nvcc(monkeypatch, tmp_path, capsys):
    def compile_unit(definition, folder, compiler, gpus, output):
        assert gpus is None
        (folder / cache.LIBRARY).touch()

    monkeypatch.setattr(build, "compile_unit", compile_unit)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(build.BUILD, "cuda_version", "13.0")
    monkeypatch.setattr(target.cuda, "find_cuda_home", lambda environment, nvcc: None)
    monkeypatch.setenv("FUSED_ACTS_CACHE", str(tmp_path))
    build.library(make_definition("unit", "x * tanh(x)", None, None, None), None)
    assert "compiled for the CPU alone, as nvcc is neither in $CUDA_HOME" in capsys.readouterr().err


def test_statements_that_do_not_compile(own_units):
    source = "auto s = sigmoid(x);\nreturn s * sinh(x);"
    with pytest.raises(ValueError, match=r"f_source: .*\n    return s \* sinh\(x\);\n +\^"):
        fused_acts.define("none", f_source=source, reference=torch.sinh, verbose=False)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"name": "my glu"}, ValueError, "name: expected an identifier"),
        ({"name": 3}, TypeError, "name: expected a str"),
        ({"name": "swiglu"}, ValueError, "name: the library has a swiglu"),
        ({"name": "silu"}, ValueError, "name: the library has a silu"),
        ({"f": None}, TypeError, "f: expected either f"),
        ({"f_source": "return x;"}, TypeError, "f: expected either f"),
        ({"f": 3}, TypeError, "f: expected an expression as a str, got int"),
        ({"g": "swish"}, ValueError, "g: expected one of identity, sigmoid"),
        ({"parameters": {"a": 1, "b": 1, "c": 1}}, ValueError, "parameters: expected at most 2"),
        ({"parameters": [1]}, TypeError, "parameters: expected a dict"),
        ({"parameters": {"a": "1"}}, TypeError, "a: expected a number, got str"),
        ({"parameters": {"a": float("inf")}}, ValueError, "a: expected a finite number"),
        ({"parameters": {"x": 1.0}}, ValueError, "parameters: x has another meaning"),
        ({"parameters": {"tanh": 1.0}}, ValueError, "parameters: tanh has another meaning"),
        ({"parameters": {"int": 1.0}}, ValueError, "parameters: int has another meaning"),
        ({"parameters": {"a b": 1.0}}, ValueError, "names that are identifiers"),
        ({"reference": None}, TypeError, r"reference: expected a function of \(x, a\) in torch"),
        ({"reference": 3}, TypeError, "reference: expected .*, got int"),
        ({"reference": lambda x: x}, TypeError, r"got one of \(x\)"),
        ({"fallback": "numpy"}, ValueError, "fallback: expected torch or None"),
    ],
)
def test_arguments_that_are_none(changed, error, message):
    with pytest.raises(error, match=message):
        define("sinlu_glu", **{"name": "none", **changed})


def test_no_compiler(own_units, monkeypatch, tmp_path):
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"C\+\+17 compiler, and none of .*apt install g\+\+"):
        fused_acts.define("lost_glu", "x * a", parameters={"a": 2.0}, reference=lambda x, a: x * a)
    assert "lost_glu" not in fused_acts.variants()


def test_without_a_compiler_what_another_compiled_is_found(own_units, monkeypatch, tmp_path):
    define("sinlu_glu")
    forget("sinlu_glu")
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    define("sinlu_glu")
    forget("sinlu_glu")


def test_composed_without_a_compiler(own_units, monkeypatch, tmp_path, fresh_dynamo):
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    function = fused_acts.define(
        "lost_glu",
        "x * a",
        parameters={"a": 2.0},
        reference=lambda x, a: x * a,
        fallback="torch",
    )
    gate, up = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
    bias = torch.randn(3)
    out = function(gate, up, gate_bias=bias, a=3.0)
    assert torch.allclose(out, (gate + bias) * 3.0 * up)
    assert torch.allclose(torch.autograd.grad(out.sum(), gate)[0], 3.0 * up)
    module = fused_acts.nn.GatedActivation("lost_glu")
    for call in (module, torch.compile(module, fullgraph=True, backend="aot_eager")):
        assert torch.allclose(call(gate, up), 2.0 * gate * up)
    forget("lost_glu")


def test_progress(capsys, monkeypatch):
    monkeypatch.setenv("MAX_JOBS", "2")
    *commands, last = [Command(f"{i}.cpp", ("true",)) for i in range(3)]
    for verbose, expected in ((False, 0), (None, 3), (True, 6)):
        assert run_all(commands, last, Output("unit", verbose)) is None
        said = capsys.readouterr().err
        assert len(said.splitlines()) == expected
    assert re.search(r"^fused_acts.define unit: \[3/3, 0 s\] 2.cpp$", said, re.M)


@pytest.mark.parametrize("capability", ["avx512_bf16", "avx512", "avx2", "baseline", "other"])
def test_what_is_left_out_is_empty(monkeypatch, capability):
    monkeypatch.setattr(target, "cpu_capability", lambda: capability)
    command = [*cxx.find_compiler(), *target.cpu_flags(), "-dM", "-E", "-x", "c++"]
    isa = subprocess.run([*command, build.csrc() / "cpu/isa.h"], capture_output=True, text=True)
    for path in build.csrc().glob("cpu/loops_*.cpp"):
        needs = re.search(r"^#ifdef (\w+)", path.read_text(), re.M)
        if needs is None or f"#define {needs[1]} " in isa.stdout:
            assert any(path.relative_to(build.csrc()).match(loops) for loops in target.cpu_loops())


def test_a_failure_ends_the_others(monkeypatch):
    monkeypatch.setenv("MAX_JOBS", "2")
    commands = [Command("long", ("sleep", "60")), Command("short", ("sh", "-c", "echo no; exit 1"))]
    last = Command("last", ("sleep", "60"))
    start = time.monotonic()
    failed = run_all([*commands, last], last, Output("unit", False))
    assert time.monotonic() - start < 30
    assert failed and failed.command.name == "short" and failed.said == "no\n"


def test_the_first_errors_are_shown(monkeypatch, tmp_path):
    said = "first error\n" + "another\n" * 1000
    monkeypatch.setattr(build, "run_all", lambda jobs, last, output: Failed(last, said))
    definition = make_definition("unit", "x * tanh(x)", None, None, None)
    with pytest.raises(RuntimeError, match=r"unit: unit\.so does not compile:\n.*\nfirst error"):
        build.compile_unit(definition, tmp_path, cxx.find_compiler(), None, Output("unit", False))


def test_how_many_compilers_run_at_once(monkeypatch):
    monkeypatch.setenv("MAX_JOBS", "3")
    assert job_count() == 3
    monkeypatch.delenv("MAX_JOBS")
    assert job_count() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert job_count() == os.cpu_count()


def test_the_page_has_every_function():
    page = (TESTS.parent / "docs/own-units.md").read_text(encoding="utf-8")
    page = re.sub(r"^```.*?^```", "", page, flags=re.M | re.S)
    words = {word for code in re.findall(r"`([^`]+)`", page) for word in re.findall(r"\w+", code)}
    assert {*FUNCTIONS} <= words


def test_sources_are_found():
    assert (build.csrc() / "own/unit.cpp").is_file()


CALLS = {"select": "select(x > 0, x, 0.5)", "pow": "pow(x, 3)", "fma": "fma(x, 2, x)"}
CALLS |= {"max": "max(x, 0.5) + max(x, x)", "min": "min(0.5, x)", "clamp": "clamp(x, -1, 1)"}


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_compiles(name, tmp_path):
    """As it is listed, with a parameter for what stands behind x."""
    _, *others = FUNCTIONS[name].rstrip(")").partition("(")[2].split(", ")
    f = CALLS.get(name, f"{name}({', '.join(['x', *others])})")
    parameters = {} if name in CALLS else dict.fromkeys(others, 0.5)
    definition = make_definition("unit", f, None, parameters, None)
    (tmp_path / "own_unit.h").write_text(own_unit(definition))
    flags = [*cxx.FLAGS, "-DFUSED_ACTS_OWN", f"-I{build.csrc()}", f"-I{tmp_path}"]
    check_source(definition, tmp_path, [*cxx.find_compiler(), *flags], Output("unit", False))


@pytest.mark.slow
def test_two_processes_define_at_once(tmp_path):
    code = "import define_cases; define_cases.define('logish', verbose=None)"
    env = os.environ | {"FUSED_ACTS_CACHE": str(tmp_path)}
    running = [
        subprocess.Popen([sys.executable, "-c", code], cwd=TESTS, env=env, stderr=-1, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert sorted("another process compiles it" in text for text in said) == [False, True]
