"""The blocks of Python in README.md and docs/ run, in the order of their page."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from define_cases import forget
from tolerances import TRAINED_LOSS

import fused_acts
from fused_acts import _rows

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
RECIPE = ROOT / "docs/distributed.md"  # a program for torchrun
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if page != RECIPE and BLOCK.search(page.read_text(encoding="utf-8"))
]


def blocks(page: Path) -> list[str]:
    """Each after so many empty lines that a traceback names the line of the page."""
    text = page.read_text(encoding="utf-8")
    return ["\n" * text.count("\n", 0, found.start(1)) + found[1] for found in BLOCK.finditer(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_runs(page, own_units):
    if "transformers" in "".join(blocks(page)):
        pytest.importorskip("transformers")
    torch.manual_seed(0)
    namespace, of_the_library = {"__name__": page.stem}, {*_rows.ROW_INDEX}
    try:
        for block in blocks(page):
            exec(compile(block, page, "exec"), namespace)
    finally:
        fused_acts.compile_as("kernel")
        forget(*(name for name in _rows.ROW_INDEX if name not in of_the_library))


def test_messages_to_look_up_are_those_of_the_code():
    """In README's table "..." is what differs from case to case."""
    sources = [*ROOT.glob("build_backend/*.py"), *ROOT.glob("fused_acts/_library.py")]
    sources += ROOT.glob("fused_acts/_toolchain/*.py")
    sources += ROOT.glob("csrc/ops/*.cpp")
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    code = re.sub(r'"\s*f?"', "", code)  # literals that stand beside each other are one
    _, _, table = (ROOT / "README.md").read_text(encoding="utf-8").partition("| it says |")
    messages = re.findall(r"^\| `(?!`)([^`]+)` \|", table, re.M)
    assert len(messages) > 5
    for message in messages:
        for piece in message.removeprefix("ImportError: ").split("..."):
            assert piece in code, message


@pytest.mark.slow  # starts torch six times
@pytest.mark.skipif(torch.__version__ < (2, 13), reason="PackedColwiseParallel needs torch 2.13")
def test_the_recipe_for_processes_runs(tmp_path):
    """And its kinds begin with the same loss, for the first process has the same batch."""
    program = tmp_path / "train.py"
    program.write_text(blocks(RECIPE)[0] + "\nfrom subprocess_runner import leave\nleave()\n")
    first = []
    for kind in ("ddp", "fsdp", "tp"):
        run = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
            + [program, kind],
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        losses = [float(line.split()[1]) for line in run.stdout.splitlines()]
        assert len(losses) == 10
        first.append(losses[0])
    assert first == pytest.approx(first[:1] * 3, rel=TRAINED_LOSS)
