"""What a build says before its first file is compiled, and which torch it is compiled against."""

import platform
import subprocess
import sys
from pathlib import Path

import ninja_file
import pytest
import target_environment
from target_environment import Process, check_torch, prefixes, search_path

from fused_acts._toolchain import cxx
from fused_acts._toolchain.cuda import check_toolkit, nvcc_architectures, toolkit_version

ROOT = Path(__file__).resolve().parent.parent


def program(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_the_first_compiler_that_works_is_taken(tmp_path):
    program(tmp_path, "c++", "echo cannot open crt1.o; exit 1")
    program(tmp_path, "clang++", "exit 0")
    assert cxx.find_compiler({"PATH": str(tmp_path)}) == ["clang++"]
    found = cxx.find_compiler({"CXX": f"{tmp_path}/clang++ -m64", "PATH": ""})
    assert found == [f"{tmp_path}/clang++", "-m64"]
    assert cxx.program(["ccache", *found]) == f"{tmp_path}/clang++"


def test_no_compiler_on_path(tmp_path):
    with pytest.raises(
        SystemExit, match=r"^fused-acts needs a C\+\+17 compiler, and none of c\+\+"
    ):
        cxx.find_compiler({"PATH": str(tmp_path)})


def test_the_compiler_asked_for_is_not_there(tmp_path):
    program(tmp_path, "c++", "exit 0")
    with pytest.raises(SystemExit, match="CXX=icpx is not on PATH"):
        cxx.find_compiler({"CXX": "icpx", "PATH": str(tmp_path)})


def test_a_compiler_without_headers_is_named_with_what_it_says(tmp_path):
    broken = program(tmp_path, "c++", "echo fatal error: optional: No such file; echo; exit 1")
    with pytest.raises(SystemExit, match=r"does not compile a line of it \(fatal error: optional"):
        cxx.find_compiler({"CXX": str(broken), "PATH": str(tmp_path)})


def test_flags_the_compiler_does_not_know_are_left_out(tmp_path):
    script = 'case "$*" in *-fno-thread-jumps*) echo unknown argument; exit 1;; esac'
    clang = program(tmp_path, "clang++", script)
    flags = ["-fno-thread-jumps", "-Wno-psabi"]
    assert cxx.accepted([str(clang)], flags) == ["-Wno-psabi"]


def test_ninja_is_taken_from_path_or_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ninja", None)
    with pytest.raises(SystemExit, match="pip install ninja"):
        ninja_file.find_ninja({"PATH": str(tmp_path)})
    ninja = program(tmp_path, "ninja", "exit 0")
    assert ninja_file.find_ninja({"PATH": str(tmp_path)}) == str(ninja)


def test_a_torch_without_the_stable_abi_is_refused():
    check_torch("2.10.0+cpu")
    check_torch("3.0.0a0+git1234567")
    with pytest.raises(SystemExit, match=r"needs torch 2\.10 or later, and this is torch 2\.9\.1"):
        check_torch("2.9.1+cu128")


def test_the_version_of_a_toolkit():
    assert toolkit_version("Cuda compilation tools, release 13.0, V13.0.88\n") == "13.0"
    with pytest.raises(SystemExit, match="says no release"):
        toolkit_version("nvcc: wrapper is not set up")


def test_a_toolkit_of_another_major_version_is_refused():
    home = Path("/usr/local/cuda")
    check_toolkit("13.1", home, "2.14.1+cu130", "13.0")
    with pytest.raises(SystemExit, match=r"built for CUDA 13\.0, and .*/usr/local/cuda is 12\.4"):
        check_toolkit("12.4", home, "2.14.1+cu130", "13.0")


def test_architectures_become_flags_of_nvcc():
    assert nvcc_architectures("8.0;10.0+PTX") == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_100,code=sm_100",
        "-gencode=arch=compute_100,code=compute_100",
    ]
    assert nvcc_architectures("9.0a") == ["-gencode=arch=compute_90a,code=sm_90a"]
    assert nvcc_architectures("native") == ["-arch=native"]
    assert nvcc_architectures("Hopper") == nvcc_architectures("9.0+PTX")
    with pytest.raises(SystemExit, match="TORCH_CUDA_ARCH_LIST must be numbers .* not 'sm_90'"):
        nvcc_architectures("9.0;sm_90")


def environment(folder: Path, torch: bool = True) -> Path:
    """A virtual environment by its looks."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    program(folder / "bin", "python", "exit 1")
    site_packages = folder / "lib" / version / "site-packages"
    (site_packages / "torch").mkdir(parents=True)
    if torch:
        (site_packages / "torch/__init__.py").touch()
    return site_packages


@pytest.fixture
def isolated(monkeypatch):
    """As in the environment that pip, uv and build make: without a torch of its own."""
    monkeypatch.setattr(target_environment.site, "getsitepackages", lambda: [])
    monkeypatch.setattr(target_environment.site, "getusersitepackages", lambda: "/nowhere")


@pytest.mark.parametrize(
    "command",
    [
        ["uv", "pip", "install", "--python", "there", "."],
        ["/opt/uv", "pip", "install", "-p", "there/bin/python", "."],
        ["uv", "pip", "install", "--python=there", "."],
        ["there/bin/python", "-m", "build", "--wheel"],
    ],
)
def test_the_frontend_names_the_environment(isolated, tmp_path, command):
    site_packages = environment(tmp_path / "there")
    environment(tmp_path / "active")
    process = Process(command, {"VIRTUAL_ENV": str(tmp_path / "active")}, tmp_path)
    assert search_path({}, process) == [str(site_packages)]


@pytest.mark.parametrize("name", ["VIRTUAL_ENV", "CONDA_PREFIX", "UV_PROJECT_ENVIRONMENT"])
@pytest.mark.parametrize("command", [["uv", "pip", "install", "."], ["pyproject-build"], []])
def test_the_active_environment_is_the_frontends_not_ours(isolated, tmp_path, name, command):
    site_packages = environment(tmp_path / "active")
    own = {"VIRTUAL_ENV": str(tmp_path / "isolated")}
    process = Process(command, {name: str(tmp_path / "active")}, tmp_path)
    assert search_path(own, process) == [str(site_packages)]


def test_uv_takes_the_venv_of_the_folder_or_one_above(isolated, tmp_path):
    site_packages = environment(tmp_path / ".venv")
    (tmp_path / "source").mkdir()
    process = Process(["uv", "pip", "install", "."], {}, tmp_path / "source")
    assert search_path({}, process) == [str(site_packages)]
    assert tmp_path / ".venv" not in prefixes({}, Process([], {}, tmp_path / "source"))


def test_a_venv_over_the_systems_packages_shows_them(isolated, tmp_path):
    site_packages = environment(tmp_path / "below")
    environment(tmp_path / "over", torch=False)
    (tmp_path / "over/pyvenv.cfg").write_text(
        f"home = {tmp_path}/below/bin\ninclude-system-site-packages = true\n"
    )
    process = Process([], {"VIRTUAL_ENV": str(tmp_path / "over")})
    assert search_path({}, process)[-1] == str(site_packages)


def test_under_pip_only_its_own_environment_counts(isolated, tmp_path):
    environment(tmp_path / "active")
    process = Process(["pip"], {"VIRTUAL_ENV": str(tmp_path / "active")})
    with pytest.raises(SystemExit, match=f"none was found in {sys.prefix}: install torch first"):
        search_path({"PIP_BUILD_TRACKER": "/tmp"}, process)


def test_without_a_torch_one_line_says_where_it_was_looked_for(isolated, tmp_path):
    environment(tmp_path / "empty", torch=False)
    process = Process([], {"VIRTUAL_ENV": str(tmp_path / "empty")})
    with pytest.raises(SystemExit) as error:
        search_path({}, process)
    assert f"none was found in {tmp_path}/empty: install torch first" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_build_ends_with_that_line_alone(tmp_path):
    """setup.py, with an empty PATH: no traceback above it."""
    environ = {"PATH": str(tmp_path), "CXX": "missing-c++"}
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        "fused-acts needs a C++17 compiler, and CXX=miss"
    )


def test_the_loops_of_this_processor_alone(tmp_path):
    compiler, native = cxx.find_compiler(), {"FUSED_ACTS_CPU": "native"}
    cross = program(tmp_path, "cross", "echo aarch64-linux-gnu")
    assert cxx.cpu_flags(compiler, {}) == []
    assert cxx.cpu_flags([str(cross)], native) == []
    with pytest.raises(SystemExit, match="FUSED_ACTS_CPU must be all or native, not 'avx2'"):
        cxx.cpu_flags(compiler, {"FUSED_ACTS_CPU": "avx2"})
    if platform.machine() in ("x86_64", "AMD64"):
        (flag,) = cxx.cpu_flags(compiler, native)
        assert flag in [f"-DFUSED_ACTS_NATIVE={level}" for level in range(4)]
