"""`python -m fused_acts`: what it says of an installation, and that it finds a broken one."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import fused_acts
from fused_acts import _build_info, _info, _selftest, functional
from fused_acts.__main__ import main

CPU = ["selftest", "--device", "cpu", "--no-speed"]


def test_info_is_a_list_and_a_line(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    facts, line = text.rstrip("\n").split("\n\nFor a report, in one line:\n")
    assert facts.startswith(fused_acts.show_build())
    assert line == facts.replace("\n  - ", "; ") and "\n" not in line
    assert f"Python {sys.version.split()[0]}" in line


@pytest.mark.parametrize(
    ("architectures", "capability", "served"),
    [
        ("9.0", (9, 0), True),
        ("8.0;9.0", (8, 6), True),  # machine code, on a later GPU of its generation
        ("8.6", (8, 0), False),
        ("8.0;9.0", (10, 0), False),
        ("8.0;9.0+PTX", (10, 0), True),
        ("9.0+PTX;8.0", (8, 9), True),
        ("9.0+PTX", (8, 9), False),
        ("9.0a+PTX", (9, 0), True),
        ("9.0a+PTX", (10, 0), False),
        ("10.0f+PTX", (10, 3), True),
        ("10.0f+PTX", (12, 0), False),
        ("12.0", (12, 1), True),
        ("Hopper", (9, 0), None),
    ],
)
def test_which_gpus_a_build_serves(architectures, capability, served):
    assert _info.serves(architectures, capability) is served


@pytest.mark.parametrize(
    ("architectures", "expected"),
    [
        ("", "compute capability 9.0, not served by this build: FUSED_ACTS_CUDA=1 pip install ."),
        ("8.0", "9.0, not served by this build: TORCH_CUDA_ARCH_LIST=9.0 pip install ."),
        ("9.0", "9.0, served by this build"),
        ("native", "9.0, this build is for native"),
    ],
)
def test_info_says_of_a_gpu_whether_it_is_served(architectures, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setitem(_info.BUILD, "cuda_architectures", architectures)
    (line,) = [fact for fact in _info.facts() if fact.startswith("GPU 0: Some GPU")]
    assert line.endswith(expected)


@pytest.mark.parametrize(
    ("cuda_version", "gpus", "count"), [("", 1, 1), ("", 0, 0), ("13.0", 1, 0)]
)
def test_a_gpu_and_a_cpu_build_give_a_warning(cuda_version, gpus, count, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setitem(_build_info.BUILD, "cuda_version", cuda_version)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _build_info.check_gpu()
    assert [("FUSED_ACTS_CUDA=1" in str(each.message)) for each in caught] == [True] * count


def test_the_warning_is_given_once_and_on_import():
    code = """if True:
        import warnings
        import torch
        torch.cuda.device_count = lambda: 1
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import fused_acts, fused_acts.nn
            fused_acts.swiglu(torch.ones(3), torch.ones(3))
        print(sum("without CUDA kernels" in str(each.message) for each in caught))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == (0 if _build_info.BUILD["cuda_version"] else 1)


def test_selftest(capsys):
    assert main(CPU) == 0
    out = capsys.readouterr().out
    assert out.startswith("cpu: ") and out.count("\n") == 1 and "calls with gradients, right" in out


def test_selftest_measures_a_speed(monkeypatch, capsys):
    monkeypatch.setitem(_selftest.SPEED_ROWS, "cpu", 1)
    monkeypatch.setattr(_selftest, "checks", lambda: [])
    assert main(["selftest", "--device", "cpu"]) == 0
    assert "swiglu 1 x 4096 bfloat16: " in capsys.readouterr().out


def larger(out):
    return out * 1.05


def wrong_gradient(out):
    return out + (out - out.detach()) * 0.05


def one_nan(out):
    mask = torch.zeros_like(out, dtype=torch.bool)
    mask.view(-1)[-1] = True
    return out.masked_fill(mask, torch.nan)


def refused(out):
    raise RuntimeError("no kernel image is available")


@pytest.mark.parametrize("function", ["gated", "activation", "maxout", "softmax_glu"])
@pytest.mark.parametrize("broken", [larger, wrong_gradient, one_nan, refused])
def test_selftest_finds_what_is_broken(function, broken, monkeypatch, capsys):
    right = getattr(functional, function)
    monkeypatch.setattr(functional, function, lambda *args, **given: broken(right(*args, **given)))
    one_type = {torch.bfloat16: _selftest.TOLERANCES[torch.bfloat16]}
    monkeypatch.setattr(_selftest, "TOLERANCES", one_type)
    assert main(CPU) == 1
    verdict, failures = capsys.readouterr().out.split("\n", 1)
    assert "WRONG" in verdict and len(failures.splitlines()) <= _selftest.SHOWN + 1


def test_selftest_covers_every_function():
    names = {check.name.partition(" ")[0] for check in _selftest.checks()}
    rows = {*fused_acts.variants(), *fused_acts.activations()}
    of_rows = {"softmax_glu", "rms_norm_gated", "polynorm_glu", "topk_geglu"}
    assert names == rows | of_rows | {"maxout"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_selftest_of_a_gpu_that_is_not_there_fails(capsys):
    assert main(["selftest", "--device", "cuda"]) == 1
    assert "no GPU" in capsys.readouterr().out


def test_selftest_leaves_a_gpu_out_for_which_nothing_was_built(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    monkeypatch.setitem(_selftest.BUILD, "cuda_version", "")
    monkeypatch.setattr(_selftest, "checks", lambda: [])
    assert main(["selftest", "--no-speed"]) == 0
    assert "cuda:0 (Some GPU): left out" in capsys.readouterr().out
    assert main(["selftest", "--device", "cuda", "--no-speed"]) == 1


@pytest.mark.cuda
def test_selftest_of_a_gpu(capsys):
    assert main(["selftest", "--device", "cuda", "--no-speed"]) == 0
    assert "calls with gradients, right" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["fused_acts", "fused_acts.gallery"])
def test_modules_that_run(module):
    arguments = ["gallery", "--help"] if module == "fused_acts" else ["--help"]
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    assert "usage: python -m fused_acts gallery" in done.stdout and "--beta" in done.stdout
