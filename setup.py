"""Builds the operators, libfused_acts.so: one library, and so one wheel, for every Python.

Everything else about the package is in pyproject.toml. FUSED_ACTS_CUDA=auto|0|1 and
TORCH_CUDA_ARCH_LIST choose the CUDA kernels, FUSED_ACTS_CPU=all|native the CPU loops, CXX the
compiler, CXXFLAGS and LDFLAGS what it gets besides, MAX_JOBS the number of compilers that run at
once.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "build_backend"))
sys.path.append(str(ROOT / "fused_acts"))  # last, as it has names that others have too
import ninja_file  # noqa: E402
import target_environment  # noqa: E402
from _toolchain import cuda, cxx, sources  # noqa: E402

STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # as of torch 2.10

# setuptools gets the library by the name of an extension, and the record of its build with it.
OPERATORS, RECORD = "fused_acts.libfused_acts", "fused_acts._build"
FILES = {"libfused_acts": "libfused_acts.so", "_build": "_build.json"}
SOURCES = {
    OPERATORS: sorted(sum((glob(f"csrc/{layer}/*.cpp") for layer in ("ops", "cpu", "info")), [])),
    RECORD: [],
}
CUDA_SOURCES = sorted(glob("csrc/cuda/**/*.cu", recursive=True))
LONGEST_SOURCES = ["csrc/cuda/*", "csrc/cpu/loops_*", "csrc/ops/*"]


def import_torch():
    try:
        import torch
    except ImportError as error:
        sys.exit(f"fused-acts is compiled against the torch it will run with: {error}")
    target_environment.check_torch(torch.__version__)
    return torch


def include_flags(folder: Path, paths: list[str]) -> list[str]:
    """By links in folder: environments have torch each in another place, and a command that differs
    is run again. Nor does the library learn of those places."""
    flags = []
    for number, path in enumerate(paths):
        link = folder / "include" / f"torch{number or ''}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(path)
        flags.append(f"-isystem{link}")
    return flags


def shared_library(toolkit, compiler, folder) -> ninja_file.SharedLibrary:
    """Nothing in it tells where it was built."""
    if toolkit:
        os.environ["CUDA_HOME"] = str(toolkit.home)  # or the import below guesses, aloud
    from torch.utils import cpp_extension

    torch_includes = [path for path in cpp_extension.include_paths() if Path(path).is_dir()]
    anonymous = f"-ffile-prefix-map={ROOT}=."
    flags = [*cxx.FLAGS, *cxx.accepted(compiler, [*cxx.OPTIONAL_FLAGS, anonymous]), "-Icsrc"]
    flags += cxx.cpu_flags(compiler)
    flags += shlex.split(os.environ.get("CXXFLAGS", ""))
    flags += [STABLE_ABI, *include_flags(folder, torch_includes)]
    files = list(SOURCES[OPERATORS])
    libraries = ["-ltorch_cpu", "-ldl"]
    nvcc = []
    if toolkit:
        flags += ["-DUSE_CUDA", f"-isystem{toolkit.home}/include"]
        files = CUDA_SOURCES + files
        places = (f"-L{toolkit.home}/{folder}" for folder in ("lib64", "lib"))
        libraries += ["-ltorch_cuda", *places, "-lcudart"]
        nvcc = [*cuda.FLAGS, "-Icsrc", "-Xcompiler=-fPIC"]  # kernels see nothing of torch
        nvcc += [f"-Xcompiler={anonymous}"]
        nvcc += cuda.nvcc_architectures(toolkit.architectures)
        if "CXX" in os.environ:
            nvcc += ["-ccbin", cxx.program(compiler)]
    link = shlex.split(os.environ.get("LDFLAGS", ""))
    torch_libraries = [f"-L{path}" for path in cpp_extension.library_paths()]
    return ninja_file.SharedLibrary(
        name="libfused_acts.so",
        sources=files,
        cxx_flags=flags,
        nvcc_flags=nvcc,
        link_flags=[*link, "-Wl,-z,defs", *torch_libraries, *libraries],
    )


class Build(build_ext):
    def finalize_options(self) -> None:
        super().finalize_options()
        self.force = True  # the library of another torch or compiler may be the newer file

    def get_ext_filename(self, fullname: str) -> str:
        *package, name = fullname.split(".")
        return os.path.join(*package, FILES[name])

    def build_extensions(self) -> None:
        ninja = ninja_file.find_ninja()
        compiler = cxx.find_compiler()
        torch = import_torch()
        toolkit = cuda.Toolkit.find(
            torch.__version__, torch.version.cuda, torch.cuda.is_available()
        )
        record = {
            "torch_version": str(torch.__version__),
            "torch_cuda": torch.version.cuda or "",
            "cuda_version": toolkit.version if toolkit else "",
            "cuda_architectures": toolkit.architectures if toolkit else "",
            "compiler": cxx.describe(compiler),
            "sources": sources.digest(ROOT / "csrc"),
        }
        kernels = f"CUDA kernels for {toolkit.architectures}" if toolkit else "no CUDA kernels"
        print(f"fused-acts: torch {torch.__version__}, {record['compiler']}, {kernels}", flush=True)

        # A folder of its own for each torch and compiler, which outlives editable builds, so that
        # only what changed is compiled again.
        folder = Path(f"build/torch-{torch.__version__}-{Path(cxx.program(compiler)).name}")
        library = shared_library(toolkit, compiler, folder)
        nvcc = toolkit and toolkit.nvcc
        path = ninja_file.write(folder, compiler, nvcc, library, LONGEST_SOURCES)
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        status = os.environ | {"NINJA_STATUS": "[%f/%t, %es] "}
        if subprocess.run([ninja, "-f", str(path), *jobs], cwd=ROOT, env=status).returncode:
            sys.exit("fused-acts: a file does not compile; the compiler's message is above")
        (folder / "_build.json").write_text(json.dumps(record, indent=2) + "\n")
        for extension in self.extensions:
            target = Path(self.get_ext_fullpath(extension.name))
            target.parent.mkdir(parents=True, exist_ok=True)
            self.copy_file(str(folder / target.name), str(target))


class Package(build_py):
    def run(self) -> None:
        super().run()
        for layer in () if self.editable_mode else sources.SHIPPED:
            target = Path(self.build_lib, "fused_acts/csrc", layer)
            shutil.copytree(ROOT / "csrc" / layer, target, dirs_exist_ok=True)


class Wheel(bdist_wheel):
    def run(self) -> None:
        # What an earlier build left there would be in the wheel.
        shutil.rmtree(self.get_finalized_command("build").build_lib, ignore_errors=True)
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension(name, sources) for name, sources in SOURCES.items()],
    cmdclass={"build_ext": Build, "build_py": Package, "bdist_wheel": Wheel},
)
