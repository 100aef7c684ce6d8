"""The files from which kernel-builder makes a kernel of the Hugging Face Hub."""

import subprocess
import sys
from pathlib import Path

import hub_kernel
import ninja_file
import pytest
from subprocess_runner import run_alone
from torch.utils import cpp_extension

from fused_acts import _library
from fused_acts._definitions import target
from fused_acts._toolchain import cxx

ROOT = Path(__file__).resolve().parent.parent
NAMESPACE = "_fused_acts_cpu_1234567"  # kernel-builder ends the name with a hash of the source


def test_build_toml_lists_the_sources():
    subprocess.run([sys.executable, ROOT / "tools/write_hub.py", "--check"], check=True)
    tomllib = pytest.importorskip("tomllib")
    build = tomllib.loads((ROOT / "build.toml").read_text())
    parts = [build["torch"], *build["kernel"].values()]
    listed = [ROOT / name for part in parts for name in part["src"]]
    assert all(path.is_file() for path in listed)
    own = {*ROOT.glob("csrc/own/*")}  # which another library is compiled of
    assert {*ROOT.glob("csrc/**/*.c*")} - own <= {*listed}
    assert (ROOT / "torch-ext" / build["general"]["name"].replace("-", "_")).is_dir()


def test_the_package_imports_itself_and_torch_only():
    for path in hub_kernel.PACKAGE.glob("*.py"):
        lines = [line.split() for line in path.read_text().splitlines()]
        modules = {words[1] for words in lines if words and words[0] in ("import", "from")}
        assert all(m.startswith(".") or m in ("torch", "typing", "__future__") for m in modules), (
            path
        )


def test_layers_and_functions_are_torchs():
    run_alone(hub_kernel.check, str(_library._FOLDER / "libfused_acts.so"), "fused_acts")


@pytest.mark.slow
def test_compiled_as_kernel_builder_does(tmp_path):
    """Its sources, flags and macros; its namespace is another, so the package is there as well.

    In little time: slow loops of this processor are enough to see that nothing is missing.
    """
    tomllib = pytest.importorskip("tomllib")
    build = tomllib.loads((ROOT / "build.toml").read_text())
    parts = [build["torch"], build["kernel"]["loops"]]
    (tmp_path / "registration.h").write_text("#define REGISTER_EXTENSION(NAME)\n")
    flags = [f"-DTORCH_EXTENSION_NAME={NAMESPACE}", "-DCPU_KERNEL", "-std=c++20", "-fPIC"]
    flags += ["-DTORCH_TARGET_VERSION=0x020a000000000000", f"-I{tmp_path}", *parts[0]["cxx-flags"]]
    flags += [f"-I{ROOT / folder}" for folder in build["torch"]["include"]]
    flags += [f"-isystem{folder}" for folder in cpp_extension.include_paths()]
    flags += [*target.cpu_flags(), "-O1"]
    library = ninja_file.SharedLibrary(
        name="kernel.so",
        sources=[name for part in parts for name in part["src"] if name.endswith(".cpp")],
        cxx_flags=flags,
        link_flags=[*(f"-L{path}" for path in cpp_extension.library_paths()), "-ltorch_cpu"],
    )
    path = ninja_file.write(tmp_path, cxx.find_compiler(), None, library)
    subprocess.run([ninja_file.find_ninja(), "-f", path], cwd=ROOT, check=True)
    run_alone(hub_kernel.check, str(tmp_path / "kernel.so"), NAMESPACE, True)
