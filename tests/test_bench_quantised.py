"""The benchmark of quantised results compares what is the same, and counts its bytes."""

import csv
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent))  # last: the package tested is the installed one

pytest.importorskip("numpy")
pytest.importorskip("rich")

from bench import __main__ as command_line  # noqa: E402
from bench import quantised  # noqa: E402

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", quantised.FORMATS)
def test_who_is_wrong_is_found(name):
    gate, up = torch.randn(2, 16, 256).bfloat16()
    contenders = quantised.make_contenders(name, CPU, compiles=False)
    assert list(contenders) == ["eager", "fused-acts, unit alone", "fused-acts"]
    quantised.check(name, contenders, gate, up)
    wrong = {"wrong": lambda gate, up: contenders["fused-acts"](gate, 1.3 * up)}
    with pytest.raises(RuntimeError, match=f"wrong, {name}.*: off by"):
        quantised.check(name, wrong, gate, up)


def test_a_run(tmp_path, capsys):
    size = ["--tokens", "4", "--cols", "128", "--dtypes", "bf16", "fp32", "--no-compile"]
    few = ["--formats", "fp8_block128", "--seconds", "0", "--device", "cpu"]
    assert command_line.main(["quantised", *size, *few, "--output", str(tmp_path)]) == 0
    assert "fp8_block128: time" in capsys.readouterr().out
    with (tmp_path / "quantised.csv").open() as file:
        rows = {(row["contender"], row["dtype"]): row for row in csv.DictReader(file)}
    assert len(rows) == 6
    moved = {key: row["bytes_per_element"] for key, row in rows.items()}
    assert float(moved["fused-acts", "bf16"]) == 4 + 1 + 4 / 128
    assert float(moved["fused-acts, unit alone", "bf16"]) == 6 + 3 + 4 / 128
    assert float(moved["fused-acts", "fp32"]) == 8 + 1 + 4 / 128
    assert moved["eager", "bf16"] == ""
    assert all(float(row["ratio"]) == 1 for (who, _), row in rows.items() if who == "eager")
