"""Definitions for the tests, which some run in processes of their own."""

import os
import pickle
import stat
import sys
import time
from pathlib import Path

import torch

import fused_acts
from fused_acts import _rows
from fused_acts._definitions import cache


def sinlu(x, a):
    return x * torch.sigmoid(x) + a * torch.tanh(x)


def logish(x):
    return x * torch.log1p(torch.sigmoid(x))


def bent(x, a, b):
    return a * torch.where(x > 0, x * x, torch.expm1(b * x))


# One of each kind: a parameter and no g; an activation alone; two parameters, statements, and g.
SINLU = {"f": "x * sigmoid(x) + a * tanh(x)", "parameters": {"a": 0.125}, "reference": sinlu}
LOGISH = {"f": "x * log1p(sigmoid(x))", "g": None, "reference": logish}
BENT = {
    "f_source": "auto below = expm1(b * x);\nreturn a * select(x > 0.0, x * x, below);",
    "parameters": {"a": 0.5, "b": 1.5},
    "g": "tanh",
    "reference": bent,
}
UNITS = {"sinlu_glu": SINLU, "logish": LOGISH, "bent_glu": BENT}


def define(unit, **changed):
    return fused_acts.define(**{"name": unit, "verbose": False, **UNITS[unit], **changed})


def forget(*names):
    for name in names:
        if name in _rows.ROW_INDEX:
            _rows.remove_row(name)


def logging_compiler(folder: Path) -> Path:
    """A compiler that writes a line into $UNIT_COMPILERS each time that it runs."""
    program = folder / "logging-c++"
    if not program.is_file():
        compiler = os.environ.get("CXX", "c++")
        made = folder / f"{os.getpid()}"
        made.write_text(f"""#!/bin/sh
[ -z "$UNIT_COMPILERS" ] || echo "$@" >> "$UNIT_COMPILERS"
exec {compiler} "$@"
""")
        made.chmod(made.stat().st_mode | stat.S_IXUSR)
        made.rename(program)
    return program


def again():
    """In a process that finds all in the cache."""
    for name in UNITS:
        assert define(name)(*[torch.ones(2, 4)] * (1 if name == "logish" else 2)).shape == (2, 4)


def slow_build(entry: str, log: str, seconds: float, die: bool = False) -> None:
    """Builds an entry of a cache, in its own time."""

    def build(folder: Path) -> None:
        with open(log, "a") as runs:
            runs.write("build\n")
        (folder / cache.LIBRARY).write_text("half")
        time.sleep(seconds)
        if die:
            os.kill(os.getpid(), 9)
        (folder / cache.LIBRARY).write_text("whole")

    library = cache.find_or_build(Path(entry), build, lambda: print("waits", file=sys.stderr))
    assert library.read_text() == "whole"


def unpickled(path: str) -> None:
    """A module of another process, whose definition comes along."""
    module, x, expected = pickle.loads(Path(path).read_bytes())
    assert "sinlu_glu" in fused_acts.variants()
    assert torch.equal(module(x), expected)


def exported(path: str, define_first: bool) -> None:
    """A program that needs a definition before it runs."""
    if define_first:
        define("sinlu_glu")
    x, expected = torch.load(f"{path}.pt")
    try:
        program = torch.export.load(path)
        out = program.module()(x)
    except Exception as error:
        assert not define_first and "fused_acts.define" in str(error), error
    else:
        assert define_first and torch.equal(out, expected)
