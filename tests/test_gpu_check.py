"""tools/gpu_check.sh without a GPU: a Python in its place that does as it is told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))

from gpu_report import CUT, FAILED, LEFT_OUT, PASSED, judge  # noqa: E402

PYTHON = f"""#!/bin/sh
case "$*" in
  -c*) echo 9.0 ;;
  *gpu_report.py*) exec {sys.executable} "$@" ;;
  *"-m pip"*) exit $BUILD ;;
  *test_ffn.py) echo "ModuleNotFoundError: No module named 'hypothesis'" && exit 2 ;;
  *test_options.py) echo "1 failed, 3 passed in 0.1s" && exit 1 ;;
  *test_values.py) echo "5 passed in 0.1s" ;;
  *"-m pytest"*) exit 5 ;;
  *"-m bench units"*)
    mkdir units
    echo '{{"units": [1]}}' > units/units.json && echo "the table" > units/units.md ;;
esac
"""


def check(tmp_path, build=0, arguments=()):
    """The exit status, what it printed, and the verdicts by part."""
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    tools = {"PYTHON": str(python), "BUILD": str(build)}
    done = subprocess.run(
        [ROOT / "tools/gpu_check.sh", *arguments, tmp_path / "out"],
        env={**os.environ, **tools, "PATH": "/usr/bin:/bin", "CUDA_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    content = json.loads((tmp_path / "out/gpu_check.json").read_text())
    return done, content, {part["name"]: part["verdict"] for part in content["parts"]}


def test_one_that_fails_stops_no_other(tmp_path):
    done, content, verdicts = check(tmp_path)
    assert done.returncode == 1
    expected = {"build": PASSED, "info": PASSED, "selftest": PASSED, "timings": PASSED}
    expected |= {"test_values": PASSED, "test_options": FAILED, "test_ffn": LEFT_OUT}
    assert {name: verdicts[name] for name in expected} == expected
    assert set(verdicts) == {*expected, "memcheck", "racecheck"}  # files without tests are nothing
    assert content["units"] == [1]
    page = (tmp_path / "out/gpu_check.md").read_text()
    assert page.startswith("the table") and "| test_options | failed |" in page
    assert "=== test_values: passed\n5 passed" in (tmp_path / "out/gpu_check.log").read_text()


def test_what_is_left_out_is_said(tmp_path):
    _, content, verdicts = check(tmp_path, arguments=["--no-timings"])
    notes = {part["name"]: part["note"] for part in content["parts"]}
    assert verdicts["timings"] == LEFT_OUT and notes["timings"] == "by --no-timings"
    assert "hypothesis" in notes["test_ffn"] and "units" not in content


def test_nothing_follows_a_build_that_fails(tmp_path):
    done, _, verdicts = check(tmp_path, build=1)
    assert done.returncode == 1 and verdicts == {"build": FAILED}


def test_no_part_starts_when_time_is_up(tmp_path):
    done, _, verdicts = check(tmp_path, arguments=["--seconds", "10"])
    assert done.returncode == 1 and verdicts == {"build": LEFT_OUT}


@pytest.mark.parametrize(
    ("name", "status", "log", "verdict", "note"),
    [
        (
            "test_x",
            "0",
            "...\n12 passed, 3 deselected in 2.1s\n",
            PASSED,
            "12 passed, 3 deselected",
        ),
        ("test_x", "1", "1 failed, 12 passed in 2.1s", FAILED, "1 failed"),
        ("test_x", "124", "!! KeyboardInterrupt !!\n12 passed in 9.0s", CUT, "12 passed"),
        ("test_x", "124", "1 failed, 12 passed in 9.0s", FAILED, "1 failed"),
        ("test_x", "137", "", CUT, "time was up"),
        ("test_x", "-", "time was up\n", LEFT_OUT, "time was up"),
        ("test_x", "2", "E   ModuleNotFoundError: No module named 'rich.x'", LEFT_OUT, "rich.x"),
        ("test_x", "2", "E   ModuleNotFoundError: No module named 'fused_acts'", FAILED, ""),
        ("test_x", "1", "No module named 'rich'\n1 failed, 2 passed in 1s", FAILED, "1 failed"),
        (
            "selftest",
            "1",
            "cuda:0 (H): 9 calls with gradients, 2 of 9 calls WRONG",
            FAILED,
            "WRONG",
        ),
        ("memcheck", "9", "========= ERROR SUMMARY: 3 errors", FAILED, "ERROR SUMMARY: 3 errors"),
        ("memcheck", "1", "========= Error: Device not supported. Try", LEFT_OUT, "not supported"),
        ("build", "124", "[3/40]", FAILED, "[3/40]"),
        ("timings", "1", "failed: unit glu", FAILED, "failed: unit glu"),
    ],
)
def test_verdicts(name, status, log, verdict, note):
    said = judge(name, status, log, 7)
    assert said[:2] == (verdict, 7) and note in said[2]
