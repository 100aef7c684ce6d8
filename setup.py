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

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "build_backend"))
import cuda_config  # noqa: E402
import ninja_file  # noqa: E402
import target_environment  # noqa: E402
import toolchain  # noqa: E402

CXX_FLAGS = [
    "-std=c++17",
    "-O3",
    "-DNDEBUG",
    "-fPIC",
    "-fvisibility=hidden",
    # What the vectoriser needs; NaN, infinities and the order of operations keep their meaning.
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",  # as on the device: all that is to be fused is written so
    "-fopenmp-simd",
    "-Wall",
]
# For compilers that know them.
OPTIONAL_CXX_FLAGS = [
    "-fno-thread-jumps",  # it takes minima and maxima apart, which vectors have instructions for
    "-Wno-psabi",
    "-Wno-pass-failed",  # clang tells of each loop that it leaves scalar
    "-Wno-maybe-uninitialized",  # GCC 12 finds it in its own AVX-512 headers
]
NVCC_FLAGS = [
    "-std=c++17",
    "-O3",
    "--fmad=false",  # all that is to be fused is written so
    "-Xcompiler=-fvisibility=hidden",
]
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


class Toolkit:
    """The CUDA toolkit that the kernels are compiled with."""

    def __init__(self, torch, home: Path):
        self.home = home
        self.nvcc = str(home / "bin/nvcc")
        self.version = cuda_config.toolkit_version(self._ask("--version"))
        cuda_config.check_toolkit(self.version, home, torch.__version__, torch.version.cuda)
        self.architectures = cuda_config.architectures(
            os.environ.get("TORCH_CUDA_ARCH_LIST"), self._ask("--list-gpu-arch").split()
        )

    def _ask(self, option: str) -> str:
        return subprocess.check_output([self.nvcc, option], text=True)

    @staticmethod
    def find(torch) -> "Toolkit | None":
        """None for a build without CUDA kernels."""
        home = cuda_config.find_cuda_home(os.environ, shutil.which("nvcc"))
        wanted = cuda_config.wants_cuda(
            setting=os.environ.get("FUSED_ACTS_CUDA", "auto"),
            torch_version=torch.__version__,
            torch_cuda=torch.version.cuda,
            cuda_home=home,
            has_gpu=torch.cuda.is_available(),
        )
        return Toolkit(torch, home) if wanted else None


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
    cxx = [*CXX_FLAGS, *toolchain.accepted(compiler, [*OPTIONAL_CXX_FLAGS, anonymous]), "-Icsrc"]
    cxx += toolchain.cpu_flags(compiler)
    cxx += shlex.split(os.environ.get("CXXFLAGS", ""))
    cxx += [STABLE_ABI, *include_flags(folder, torch_includes)]
    sources = list(SOURCES[OPERATORS])
    libraries = ["-ltorch_cpu", "-ldl"]
    nvcc = []
    if toolkit:
        cxx += ["-DUSE_CUDA", f"-isystem{toolkit.home}/include"]
        sources = CUDA_SOURCES + sources
        places = (f"-L{toolkit.home}/{folder}" for folder in ("lib64", "lib"))
        libraries += ["-ltorch_cuda", *places, "-lcudart"]
        nvcc = [*NVCC_FLAGS, "-Icsrc", "-Xcompiler=-fPIC"]  # kernels see nothing of torch
        nvcc += [f"-Xcompiler={anonymous}"]
        nvcc += cuda_config.nvcc_architectures(toolkit.architectures)
        if "CXX" in os.environ:
            nvcc += ["-ccbin", toolchain.program(compiler)]
    link = shlex.split(os.environ.get("LDFLAGS", ""))
    torch_libraries = [f"-L{path}" for path in cpp_extension.library_paths()]
    return ninja_file.SharedLibrary(
        name="libfused_acts.so",
        sources=sources,
        cxx_flags=cxx,
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
        ninja = toolchain.find_ninja()
        compiler = toolchain.find_compiler()
        torch = import_torch()
        toolkit = Toolkit.find(torch)
        record = {
            "torch_version": str(torch.__version__),
            "torch_cuda": torch.version.cuda or "",
            "cuda_version": toolkit.version if toolkit else "",
            "cuda_architectures": toolkit.architectures if toolkit else "",
            "compiler": toolchain.describe(compiler),
        }
        kernels = f"CUDA kernels for {toolkit.architectures}" if toolkit else "no CUDA kernels"
        print(f"fused-acts: torch {torch.__version__}, {record['compiler']}, {kernels}", flush=True)

        # A folder of its own for each torch and compiler, which outlives editable builds, so that
        # only what changed is compiled again.
        folder = Path(f"build/torch-{torch.__version__}-{Path(toolchain.program(compiler)).name}")
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


class Wheel(bdist_wheel):
    def run(self) -> None:
        # What an earlier build left there would be in the wheel.
        shutil.rmtree(self.get_finalized_command("build").build_lib, ignore_errors=True)
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension(name, sources) for name, sources in SOURCES.items()],
    cmdclass={"build_ext": Build, "bdist_wheel": Wheel},
)
