"""The commands of `python -m bench`; every variant has a right eager form to be compared with."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from cases import VARIANTS

sys.path.append(str(Path(__file__).parent.parent))  # last: the package tested is the installed one

pytest.importorskip("numpy")

from bench import __main__ as command_line  # noqa: E402
from bench import machine, targets, units  # noqa: E402
from bench.cases import Case, Model, make_inputs  # noqa: E402
from bench.check import Oracle  # noqa: E402
from bench.competitors import Form, eager  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture
def called(monkeypatch):
    """The command that was run, and its options; the modules are not looked at."""
    calls = []

    def load(name, package):
        module = type(sys)(name)
        module.add_arguments = lambda parser: parser.add_argument("--quick", action="store_true")
        module.main = lambda args: calls.append((name.removeprefix("."), args)) or 0
        return module

    monkeypatch.setattr(command_line.importlib, "import_module", load)
    return calls


@pytest.mark.parametrize(
    ("arguments", "command"),
    [([], "run"), (["--quick"], "run"), (["ffn", "--quick"], "ffn"), (["run"], "run")],
)
def test_commands(arguments, command, called, tmp_path):
    assert command_line.main([*arguments, "--output", str(tmp_path)]) == 0
    ((name, args),) = called
    assert name == command and args.quick == ("--quick" in arguments)
    assert args.device == machine.default_device() and args.output == tmp_path


def test_a_wrong_command_is_refused(called, capsys):
    with pytest.raises(SystemExit) as stopped:
        command_line.main(["targts"])
    assert stopped.value.code == 2 and "invalid choice: 'targts'" in capsys.readouterr().err


def test_help_lists_all_commands(capsys):
    with pytest.raises(SystemExit) as stopped:
        command_line.main(["--help"])
    out = capsys.readouterr().out
    assert stopped.value.code == 0 and all(name in out for name in command_line.COMMANDS)


def test_a_command_that_needs_what_is_not_there_says_so(called, monkeypatch, tmp_path, capsys):
    load = command_line.importlib.import_module

    def without_rich(name, package):
        if name == ".ffn":
            raise ModuleNotFoundError("No module named 'rich'", name="rich")
        return load(name, package)

    monkeypatch.setattr(importlib, "import_module", without_rich)
    assert command_line.main(["units", "--output", str(tmp_path)]) == 0
    assert command_line.main(["ffn", "--output", str(tmp_path)]) == 2
    assert "pip install 'fused-acts[bench]'" in capsys.readouterr().err


def test_facts_of_the_machine():
    facts = machine.describe(CPU)
    assert facts["cpu"] and facts["torch"] == torch.__version__ and "Python" in facts["system"]


LSCPU = """Architecture:            x86_64
Model name:              Some: CPU
L1d cache:               48 KiB (1 instance)
L3 cache:                32 MiB (1 instance)
"""


def test_facts_of_the_processor(monkeypatch):
    monkeypatch.setattr(machine.collect_env, "get_cpu_info", lambda run: LSCPU)
    machine.processor.cache_clear()
    assert machine.cpu_model() == "Some: CPU"
    assert machine.last_level_cache() == "32 MiB (1 instance)"
    monkeypatch.setattr(machine.collect_env, "get_cpu_info", lambda run: None)  # no lscpu
    machine.processor.cache_clear()
    assert machine.cpu_model() and machine.last_level_cache() == ""
    machine.processor.cache_clear()


@pytest.mark.parametrize("layout", ["separate", "interleaved"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_eager_forms(variant, layout):
    for dtype in (torch.float32, torch.bfloat16):
        case = Case(Model("any", 64, variant, layout), 8, dtype, backward=False)
        (inputs,) = make_inputs(case, CPU)
        form = eager(Form(variant, layout, dtype, CPU))
        oracle = Oracle(case, inputs)
        inputs.out.fill_(torch.nan)
        form.given(*inputs.tensors, out=inputs.out)
        for result in (form.fresh(*inputs.tensors), inputs.out):
            assert oracle.error([result]).acceptable


@pytest.mark.parametrize("form, code", [("ratio", 1), ("count", 1), ("seconds", 0)])
def test_targets(form, code, monkeypatch, tmp_path, capsys):
    """A line with one cell above its limit, a count of them, and one that is met."""
    values = {"ratio": (1.0, 1.34), "count": (0.0, 1.0), "seconds": (0.5, 1.0)}[form]
    cells = [("good", values[0]), ("slow", values[1])]
    line = targets.Target("a line", "1.5", 0 if form == "count" else 1.2, lambda _: cells, 0, form)
    monkeypatch.setattr(targets, "all_targets", lambda quick: [line])
    assert command_line.main(["targets", "--output", str(tmp_path)]) == code
    out = capsys.readouterr().out
    text = {"ratio": "1.00-1.34", "count": "1 of 2", "seconds": "1 s"}[form]
    assert text in out and f"{1 - code} of 1 lines met" in out
    assert ("missed" in out and "slow" in out) == bool(code)
    rows = (tmp_path / "targets.csv").read_text().splitlines()
    assert rows[0] == "what,cell,at_most,measured" and len(rows) == 3


SMALL = ["--tokens", "1", "3", "--d-ff", "64", "--seconds", "0", "--rounds", "1", "--no-compile"]


@pytest.fixture(autouse=True)
def no_bandwidth(monkeypatch):
    """Which takes seconds to measure."""
    monkeypatch.setattr(units, "measure_bandwidth", lambda device, memory: [])


@pytest.mark.slow
def test_units(tmp_path):
    chosen = ["--device", "cpu", "--variants", "swiglu", "swiglu_oai", "--output", str(tmp_path)]
    assert command_line.main(["units", *SMALL, *chosen]) == 0
    content = json.loads((tmp_path / "units.json").read_text())
    found = [(u["variant"], u["tokens"], u["direction"]) for u in content["units"]]
    expected = [
        (variant, tokens, direction)
        for variant in ("swiglu", "swiglu_oai")
        for tokens in (1, 3)
        for direction in ("forward", "forward+backward")
    ]
    assert sorted(found) == sorted(expected) and content["notes"] == []
    page = (tmp_path / "units.md").read_text()
    assert page.count("| tokens | 1 | 3 |") == 2 and page.count("| swiglu_oai | ") == 2


def test_units_that_time_has_left_out_are_named(tmp_path):
    chosen = ["--device", "cpu", "--variants", "glu", "--budget", "0", "--output", str(tmp_path)]
    assert command_line.main(["units", *SMALL, *chosen]) == 1
    notes = json.loads((tmp_path / "units.json").read_text())["notes"]
    assert len(notes) == 4 and all("time was up" in note for note in notes)


def test_a_unit_that_is_wrong_is_not_timed(monkeypatch, tmp_path):
    right = units.build_competitors

    def wrong(form, mode):
        competitors, failures = right(form, mode)
        own = competitors[0]
        broken = units.replace(own, fresh=lambda gate, up: own.fresh(gate, up) * 1.1)
        return [broken, *competitors[1:]], failures

    monkeypatch.setattr(units, "build_competitors", wrong)
    chosen = ["--device", "cpu", "--variants", "glu", "--output", str(tmp_path)]
    assert command_line.main(["units", *SMALL, *chosen]) == 1
    notes = json.loads((tmp_path / "units.json").read_text())["notes"]
    assert len(notes) == 4 and all("fused-acts wrong: off by" in note for note in notes)
