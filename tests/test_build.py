"""What decides about CUDA, what the library needs, and what it has in it."""

import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

import fused_acts
from fused_acts import _library
from fused_acts._definitions.definition import make_definition
from fused_acts._definitions.source import own_unit
from fused_acts._toolchain import cxx
from fused_acts._toolchain.cuda import (
    DEFAULT_ARCHITECTURES,
    architectures,
    find_cuda_home,
    wants_cuda,
)

ROOT = Path(__file__).resolve().parent.parent
TOOLKIT = Path("/usr/local/cuda")
NVCC_13 = [f"compute_{number}" for number in (75, 80, 86, 90, 100, 103, 120, 121)]


def decide(setting: str, torch_cuda: str | None, home: Path | None, has_gpu: bool) -> bool:
    torch_version = "2.13.0+cu130" if torch_cuda else "2.13.0+cpu"
    return wants_cuda(setting, torch_version, torch_cuda, home, has_gpu)


@pytest.mark.parametrize("has_gpu", [False, True])
@pytest.mark.parametrize("torch_cuda", [None, "13.0"])
@pytest.mark.parametrize("home", [None, TOOLKIT])
def test_zero_never_builds_cuda(torch_cuda, home, has_gpu):
    assert decide("0", torch_cuda, home, has_gpu) is False


@pytest.mark.parametrize("setting", ["auto", "1"])
@pytest.mark.parametrize("has_gpu", [False, True])
def test_cuda_torch_and_toolkit_build_cuda_with_or_without_gpu(setting, has_gpu):
    assert decide(setting, "13.0", TOOLKIT, has_gpu) is True


@pytest.mark.parametrize("has_gpu", [False, True])
@pytest.mark.parametrize("home", [None, TOOLKIT])
def test_auto_with_a_cpu_torch_builds_for_the_cpu(home, has_gpu):
    assert decide("auto", None, home, has_gpu) is False


def test_auto_without_toolkit_and_gpu_builds_for_the_cpu():
    assert decide("auto", "13.0", None, has_gpu=False) is False


def test_auto_with_gpu_but_no_toolkit_names_both_ways_out():
    with pytest.raises(SystemExit, match=r"toolkit 13\.0 .*nvcc.*CUDA_HOME.*FUSED_ACTS_CUDA=0"):
        decide("auto", "13.0", None, has_gpu=True)


@pytest.mark.parametrize("has_gpu", [False, True])
def test_one_names_everything_that_is_missing(has_gpu):
    with pytest.raises(SystemExit, match=r"CUDA build of torch \(torch 2\.13\.0\+cpu is not one\)"):
        decide("1", None, TOOLKIT, has_gpu)
    with pytest.raises(SystemExit, match=r"the CUDA toolkit 13\.0 \(bin/nvcc"):
        decide("1", "13.0", None, has_gpu)
    with pytest.raises(SystemExit, match=r"CUDA build of torch .*, and the CUDA toolkit"):
        decide("1", None, None, has_gpu)


@pytest.mark.parametrize("setting", ["", "yes", "AUTO", "2"])
def test_other_settings_are_refused(setting):
    with pytest.raises(SystemExit, match=f"auto, 0 or 1, not {setting!r}"):
        decide(setting, "13.0", TOOLKIT, has_gpu=True)


def make_toolkit(home: Path, files=("bin/nvcc", "include/cuda_runtime.h")) -> Path:
    for file in files:
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        (home / file).touch()
    return home


def test_cuda_home_is_searched_in_order(tmp_path):
    named, on_path, default = (make_toolkit(tmp_path / name) for name in ("named", "path", "usual"))
    nvcc = str(on_path / "bin/nvcc")
    assert find_cuda_home({"CUDA_HOME": str(named)}, nvcc, default) == named
    assert find_cuda_home({"CUDA_HOME": ""}, nvcc, default) == on_path
    assert find_cuda_home({}, nvcc, default) == on_path
    assert find_cuda_home({}, None, default) == default
    assert find_cuda_home({}, None, tmp_path / "nowhere") is None


@pytest.mark.parametrize("files", [["bin/nvcc"], ["include/cuda_runtime.h"]])
def test_cuda_home_needs_compiler_and_headers(tmp_path, files):
    wrapper = make_toolkit(tmp_path / "wrapper", files)
    default = make_toolkit(tmp_path / "usual")
    nvcc = str(wrapper / "bin/nvcc")
    assert find_cuda_home({}, nvcc, default) == default
    assert find_cuda_home({"CUDA_HOME": str(wrapper)}, nvcc, default) == default
    assert find_cuda_home({}, nvcc, wrapper) is None


def test_cuda_home_follows_a_link_to_nvcc(tmp_path):
    toolkit = make_toolkit(tmp_path / "toolkit")
    link = tmp_path / "usr/bin/nvcc"
    link.parent.mkdir(parents=True)
    link.symlink_to(toolkit / "bin/nvcc")
    assert find_cuda_home({}, str(link), tmp_path / "nowhere") == toolkit


def test_architectures_are_cut_to_what_nvcc_supports():
    assert architectures(None, NVCC_13) == ";".join(DEFAULT_ARCHITECTURES) + "+PTX"
    assert architectures("", ["compute_80", "compute_90"]) == "8.0;9.0+PTX"
    with pytest.raises(SystemExit, match="TORCH_CUDA_ARCH_LIST"):
        architectures(None, ["compute_70"])


def test_architectures_asked_for_are_taken_as_they_are():
    assert architectures("9.0+PTX 10.0", NVCC_13) == "9.0+PTX;10.0"
    assert architectures("7.5", NVCC_13) == "7.5"


def run(*command: object, **options) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout[-5000:]}"
    return done.stdout


PACKAGE = Path(fused_acts.__file__).parent
OPERATORS = PACKAGE / "libfused_acts.so"


def output(tool: str, *arguments: object) -> str:
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool}")
    return run(tool, *arguments)


def test_imports_only_what_the_stable_abi_has():
    imported = output("nm", "--dynamic", "--undefined-only", OPERATORS)
    assert "aoti_torch_" in imported
    assert not re.findall(r" U (_ZN?K?\w*(?:2at|3c10|5torch)\w*)", imported)


def test_operators_need_no_python_and_export_nothing():
    assert output("nm", "--dynamic", "--defined-only", OPERATORS).split() == []
    assert not re.findall(r" U (_?Py\w+)", output("nm", "--dynamic", OPERATORS))
    assert "libpython" not in output("readelf", "--dynamic", OPERATORS)


def test_the_library_holds_no_path_of_the_machine_that_built_it():
    text = output("strings", "--all", OPERATORS)
    places = [ROOT, Path.home(), tempfile.gettempdir(), sys.prefix, sys.base_prefix]
    places += [Path(torch.__file__).parent, *TOOLKIT.parents[:1]]
    assert not [line for line in text.splitlines() if any(f"{p}/" in line for p in places)]
    assert not re.findall(r"(?:RPATH|RUNPATH)", output("readelf", "--dynamic", OPERATORS))


# What of a file compiled for one instruction set another file could get in place of its own copy.
SHARED = r" [WVu] (.+)"
X86 = platform.machine() in ("x86_64", "AMD64")
ONE_SET = sorted((ROOT / "csrc/cpu").glob("loops_avx*.cpp" if X86 else "loops_neon*.cpp"))


def test_objects_for_one_instruction_set_share_no_symbol():
    objects = [o for s in ONE_SET for o in ROOT.glob(f"build/torch-*/**/{s.stem}.o")]
    if not objects:
        pytest.skip("no objects: this package was not built here")
    for path in objects:
        assert not re.findall(SHARED, output("nm", "--demangle", path)), path


@pytest.mark.slow
@pytest.mark.parametrize("source", ONE_SET, ids=lambda path: path.stem)
def test_no_symbol_is_shared_whatever_is_inlined(source, tmp_path):
    """Functions of units are those of float32 in every file: the others are compiled with one."""
    flags = ["-std=c++17", "-O0", "-fPIC", "-fvisibility=hidden", "-w", f"-I{ROOT}/csrc"]
    if not source.stem.endswith("f32"):
        (tmp_path / "own_unit.h").write_text(
            own_unit(make_definition("unit", "gelu", None, {}, "tanh"))
        )
        flags += ["-DFUSED_ACTS_OWN", f"-I{tmp_path}"]
    run(*cxx.find_compiler(), *flags, "-c", source, "-o", tmp_path / "probe.o")
    symbols = output("nm", "--demangle", tmp_path / "probe.o")
    assert "fused_acts::cpu::k" in symbols
    assert not re.findall(SHARED, symbols)


def test_a_missing_library_says_how_to_build(tmp_path):
    with pytest.raises(ImportError, match=r"libfused_acts\.so.* is missing.*`pip install \.`"):
        _library.load(tmp_path / "libfused_acts.so")


@pytest.mark.parametrize(
    ("cuda", "kernels", "expected"),
    [
        ("13.0", "13.0", r"torch 2\.99\.0 \(CUDA 13\.0\), with CUDA kernels"),
        ("13.0", "", r"torch 2\.99\.0 \(CUDA 13\.0\), for the CPU alone"),
        ("", "", r"torch 2\.99\.0 \(CPU only\), for the CPU alone"),
    ],
)
def test_a_library_that_does_not_load_names_both_torches(tmp_path, cuda, kernels, expected):
    library = tmp_path / "libfused_acts.so"
    library.write_text("no library")
    build = _library.BUILD | {
        "torch_version": "2.99.0",
        "torch_cuda": cuda,
        "cuda_version": kernels,
    }
    here = re.escape(f"does not load with torch {torch.__version__} (")
    with pytest.raises(ImportError, match=f"was built with {expected}, and {here}.*pip install"):
        _library.load(library, build)
    with pytest.raises(ImportError, match="an unknown torch"):
        _library.load(library, {})


def test_the_build_record_is_there():
    keys = {"torch_version", "torch_cuda", "cuda_version", "cuda_architectures", "compiler"}
    keys |= {"sources"}
    assert set(_library.BUILD) == keys
    assert _library.BUILD["torch_version"] and _library.BUILD["compiler"]


def test_the_version_is_the_same_everywhere():
    found = [
        re.search(pattern, (ROOT / name).read_text(), re.M)[1]
        for name, pattern in {
            "pyproject.toml": r'^version = "(.*)"$',
            "CITATION.cff": r"^version: (.*)$",
            "CHANGELOG.md": r"^## (\d.*?)(?: |$)",
        }.items()
    ]
    assert len(set(found)) == 1
