"""The plugin of vLLM: its activations are ours, where VLLM_PLUGINS names them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tolerances import check_model

from fused_acts.integrations import vllm as ours

vllm = pytest.importorskip("vllm", exc_type=ImportError)
from vllm.config import VllmConfig, set_current_vllm_config  # noqa: E402
from vllm.model_executor import custom_op  # noqa: E402
from vllm.model_executor.layers import activation  # noqa: E402
from vllm.platforms import current_platform  # noqa: E402

TESTS = Path(__file__).resolve().parent
ARGUMENTS = {
    "FatreluAndMul": [{"threshold": 0.3}],
    "GeluAndMul": [{}, {"approximate": "tanh"}],
    "SiluAndMulWithClamp": [
        {"swiglu_limit": 0.5},
        {"swiglu_limit": 0.5, "alpha": 1.7},
        {"swiglu_limit": 0.5, "alpha": 1.7, "beta": 1.0},
        {"swiglu_limit": 0.5, "beta": 0.5},
    ],
    "SwigluOAIAndMul": [{}, {"alpha": 1.5, "limit": 0.5}],
}


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(custom_op, "op_registry_oot", {})
    current_platform.import_kernels()  # which their own classes look for
    names = ours.register()
    with set_current_vllm_config(VllmConfig()):
        yield names


def test_every_activation(registered):
    assert set(registered) == set(ours._FORWARDS) and ours.register() == []
    x = torch.randn(5, 16)
    for name in registered:
        for arguments in ARGUMENTS.get(name, [{}]):
            module = getattr(activation, name)(**arguments)
            assert type(module).__module__ == ours.__name__ and type(module).__name__ == name
            check_model(module(x), module.forward_native(x))


def test_only_if_asked_for(monkeypatch):
    monkeypatch.setattr(custom_op, "op_registry_oot", {})
    for plugins in (None, "", "other", "fused"):
        if plugins is None:
            monkeypatch.delenv("VLLM_PLUGINS", raising=False)
        else:
            monkeypatch.setenv("VLLM_PLUGINS", plugins)
        ours.plugin()
        assert not custom_op.op_registry_oot
    monkeypatch.setenv("VLLM_PLUGINS", "other,fused_acts")
    ours.plugin()
    assert custom_op.op_registry_oot


def test_a_model(tmp_path):
    """By the entry point, as of an installed package."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())["project"]
    installed = tmp_path / "installed" / "fused_acts_of_test-0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: fused_acts_of_test\nVersion: 0\n"
    )
    ((group, points),) = project["entry-points"].items()
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (installed / "entry_points.txt").write_text("\n".join(lines))
    path = os.pathsep.join([str(TESTS.parent), str(installed.parent)])
    results = []
    for plugins in ("", "fused_acts"):
        command = [sys.executable, TESTS / "vllm_model.py", tmp_path / "model"]
        environment = {**os.environ, "PYTHONPATH": path, "VLLM_PLUGINS": plugins}
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        results.append(json.loads(run.stdout.splitlines()[-1]))
    (theirs, tokens, chosen), (kinds, tokens_after, chosen_after) = results
    assert theirs == ["vllm.model_executor.layers.activation"] * 2
    assert kinds == [ours.__name__] * 2
    assert tokens == tokens_after
    check_model(torch.tensor(chosen_after), torch.tensor(chosen))
