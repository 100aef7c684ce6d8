"""Programmatic dependent launch: kernels wait for the one ahead of them, and are launched so."""

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from cases import VARIANTS, operands
from subprocess_runner import run_alone

import fused_acts

pytestmark = pytest.mark.cuda

NEEDS_MEMORY = re.compile(r"\s(ld|st|atom|red|cp)\.\S*global")
# A branch or return ahead of it would be a way around.
BEFORE_THE_WAIT = re.compile(r"\b((ld|st|atom|red|cp)\.\S*global|bra|brx\S*|ret|exit|trap)\b")
# Ahead of the CUDA runtime: what it would say of code that was compiled from older PTX.
OLDER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <driver_types.h>
int cudaFuncGetAttributes(struct cudaFuncAttributes* attributes, const void* kernel) {
  int (*next)(struct cudaFuncAttributes*, const void*) = dlsym(RTLD_NEXT, "cudaFuncGetAttributes");
  const int error = next(attributes, kernel);
  attributes->ptxVersion = 80;
  return error;
}
"""


@cache
def cuobjdump():
    """Of the toolkit, or of the package that has it; None where there is neither."""
    folders = [folder / "bin" for base in sys.path for folder in Path(base).glob("nvidia/*")]
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)])
    return shutil.which("cuobjdump", path=path)


@cache
def kernels():
    """{name: PTX} of those that were compiled for sm_90 or later."""
    library = Path(fused_acts.__file__).parent / "libfused_acts.so"
    listing = subprocess.check_output([cuobjdump(), "-ptx", library], text=True)
    found = {}
    for module in listing.split(".version ")[1:]:
        architecture = int(re.search(r"\.target sm_(\d+)", module)[1])
        for text in module.split(".entry ")[1:] if architecture >= 90 else ():
            found[architecture, text.split("(")[0].strip()] = text.partition("\n{")[2]
    if not found:  # machine code alone, as TORCH_CUDA_ARCH_LIST may ask for
        pytest.skip("no PTX for sm_90 or later in this build")
    return found


@pytest.mark.skipif(not cuobjdump(), reason="needs cuobjdump")
def test_every_kernel_waits_before_it_reads_writes_or_leaves():
    touches_memory = {name: text for name, text in kernels().items() if NEEDS_MEMORY.search(text)}
    assert len(touches_memory) > 100
    for name, text in touches_memory.items():
        before, wait, _ = text.partition("griddepcontrol.wait;")
        assert wait, name
        assert "griddepcontrol.launch_dependents;" in before, name
        assert not BEFORE_THE_WAIT.search(before), (name, BEFORE_THE_WAIT.search(before))


@pytest.mark.skipif(not cuobjdump(), reason="needs cuobjdump")
def test_no_kernel_reads_past_the_coherent_path():
    """ptxas moves such loads ahead of the wait, and they may miss what the launch itself writes."""
    for name, text in kernels().items():
        assert not re.search(r"ld\.global\S*\.nc", text), name


def one_of_each():
    gate, up, grad_out = (t.cuda() for t in operands(70, 64, dtype=torch.float32))  # in row blocks
    bias = torch.zeros(64).cuda()
    fused_acts.swiglu(gate, up)
    fused_acts.swiglu(gate, up, limit=1.0)
    fused_acts.maxout(gate, 2)
    fused_acts.softmax_glu(gate, up)
    fused_acts.rms_norm_gated(gate, up, bias)
    fused_acts.gated_quantized(gate, up, format="fp8_row")
    options = bias, None, None, 1.0, 1.0, None, 1.0, VARIANTS.index("swiglu"), 0
    torch.ops.fused_acts.glu_backward_options(grad_out, gate, up, *options, 7)
    offs = torch.tensor([10, 60]).int().cuda()
    torch.ops.fused_acts.glu_forward_options(gate, up, *options, None, offs, 1)


@pytest.mark.skipif("SOFTGPU_HOME" not in os.environ, reason="softgpu tells how it was launched")
@pytest.mark.parametrize("older", [False, True])
def test_launches_ask_for_it_where_the_code_waits(older, tmp_path, capfd):
    """The code decides, not the device: from older PTX there is no wait, and nothing else would."""
    library = ""
    if older:
        source, library = tmp_path / "older.c", str(tmp_path / "older.so")
        source.write_text(OLDER)
        include = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"
        subprocess.run(
            ["cc", "-shared", "-fPIC", f"-I{include}", source, "-o", library, "-ldl"], check=True
        )
        library += ":"
    run_alone(one_of_each, SOFTGPU_TRACE="1", LD_PRELOAD=library + os.environ.get("LD_PRELOAD", ""))
    launches = [line for line in capfd.readouterr().err.splitlines() if "<<<(" in line]
    assert len(launches) >= 9
    for line in launches:
        assert (">>> pdl " in line) == (not older), line
