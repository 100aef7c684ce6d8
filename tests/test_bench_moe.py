"""The benchmark of experts compares what computes the same, and says what it left out."""

import csv
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent))  # last: the package tested is the installed one

pytest.importorskip("numpy")
pytest.importorskip("rich")

from bench import __main__ as command_line  # noqa: E402
from bench import experts, moe  # noqa: E402

CPU = torch.device("cpu")
SIZE = experts.Size(experts=4, top_k=2, d_model=64, d_ff=32)


def test_units():
    case = experts.unit_case(SIZE, "bf16", 8, CPU, compiles=False)
    names = [each.name for each in case.contenders]
    assert names == ["eager", "fused-acts, weight", "fused-acts, weight and offs"]
    assert case.x.shape == (16, 64)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_whole_experts(dtype):
    """Each agrees with the loop in float64, or there would be no case."""
    pytest.importorskip("transformers")
    case = experts.block_case(SIZE, dtype, 8, CPU)
    ours = [f"fused-acts, {level}" for level in ("none", "product", "all")]
    assert [each.name for each in case.contenders] == [*experts.TRANSFORMERS, *ours]
    kept = {usage.contender: usage.saved_bytes for usage in moe.usages(case)}
    assert kept[ours[2]] < kept[ours[1]] < kept[ours[0]] < kept[experts.TRANSFORMERS[0]]


def test_a_contender_that_is_wrong_is_found():
    case = experts.unit_case(SIZE, "fp32", 8, CPU, compiles=False)
    own = case.contenders[1]
    wrong = replace(own, function=lambda x: own.function(x) * 1.001)
    exact = [own.function(case.x), *own.training(case.x, case.grad_y)()]
    experts.check(replace(case, contenders=[own]), exact, slice(None))
    with pytest.raises(RuntimeError, match="weight: result 0 is off by 1.0e-03"):
        experts.check(replace(case, contenders=[wrong]), exact, slice(None))


def test_without_transformers(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(experts, "has_transformers", lambda: False)
    monkeypatch.setattr(moe, "has_transformers", lambda: False)
    size = ["--experts", "4", "--top-k", "2", "--d-model", "64", "--d-ff", "32", "--tokens", "8"]
    few = ["--seconds", "0", "--dtypes", "bf16", "--no-compile", "--device", "cpu"]
    assert command_line.main(["moe", *size, *few, "--output", str(tmp_path)]) == 0
    assert "not installed: transformers" in capsys.readouterr().out
    with (tmp_path / "moe.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["what"] for row in rows} == {"unit"} and len(rows) == 6
    assert {row["direction"] for row in rows} == {"forward", "forward+backward"}
    assert all(float(row["ratio"]) == 1 for row in rows if row["contender"] == "eager")
