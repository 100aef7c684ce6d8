"""Builds the operators, fused_acts/libfused_acts.so, and the module fused_acts._C.

Everything else about the package is in pyproject.toml. FUSED_ACTS_CUDA=auto|0|1 and
TORCH_CUDA_ARCH_LIST choose the CUDA kernels, MAX_JOBS the number of compilers that run at once.
"""

import os
import re
import shutil
import subprocess
import sys
from glob import glob
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "build_backend"))
import cuda_config  # noqa: E402

CXX_FLAGS = [
    "-std=c++17",
    "-O3",
    "-g0",
    "-fvisibility=hidden",
    # What the vectoriser needs; NaN, infinities and the order of operations keep their meaning.
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp-simd",
    "-fno-thread-jumps",  # it takes minima and maxima apart, which vectors have instructions for
    "-Wno-psabi",
]
NVCC_FLAGS = [
    "-std=c++17",
    "-O3",
    "--fmad=false",  # all that is to be fused is written so
    "-Xcompiler=-fvisibility=hidden",
]


def cuda_home(torch):
    """The toolkit to build the CUDA kernels with, or None for a build without them."""
    home = cuda_config.find_cuda_home(os.environ, shutil.which("nvcc"))
    wanted = cuda_config.wants_cuda(
        setting=os.environ.get("FUSED_ACTS_CUDA", "auto"),
        torch_version=torch.__version__,
        torch_cuda=torch.version.cuda,
        cuda_home=home,
        has_gpu=torch.cuda.is_available(),
    )
    return home if wanted else None


def nvcc(home, option):
    return subprocess.check_output([home / "bin/nvcc", option], text=True)


OPERATORS = "fused_acts.libfused_acts"


def extensions(torch, home):
    """The operators, a library without Python, and the module that tells about the build."""
    from pybind11 import get_include
    from torch.utils.cpp_extension import include_paths, library_paths

    device = "cuda" if home else "cpu"
    sources = glob("csrc/ops/*.cpp") + glob("csrc/cpu/*.cpp")
    libraries = ["torch_cpu"]
    macros = {"TORCH_TARGET_VERSION": "0x020a000000000000"}  # the stable ABI as of torch 2.10
    facts = {"FUSED_ACTS_TORCH_VERSION": f'"{torch.__version__}"'}
    if home:
        sources += glob("csrc/cuda/**/*.cu", recursive=True)
        libraries += ["torch_cuda", "cudart"]
        macros |= {"USE_CUDA": None, "FUSED_ACTS_WITH_CUDA": None}
        cuda_version = re.search(r"release (\S+),", nvcc(home, "--version"))[1]
        facts |= {
            "FUSED_ACTS_CUDA_VERSION": f'"{cuda_version}"',
            "FUSED_ACTS_CUDA_ARCHITECTURES": f'"{os.environ["TORCH_CUDA_ARCH_LIST"]}"',
        }
    flags = {"cxx": CXX_FLAGS, "nvcc": NVCC_FLAGS}
    return [
        Extension(
            OPERATORS,
            sources=sorted(sources),
            include_dirs=[str(ROOT / "csrc"), *include_paths(device)],
            library_dirs=library_paths(device),
            libraries=libraries,
            define_macros=list(macros.items()),
            extra_compile_args=flags,
            language="c++",
        ),
        Extension(
            "fused_acts._C",
            sources=["csrc/cpu/isa.cpp", "csrc/python/module.cpp"],
            include_dirs=[str(ROOT / "csrc"), get_include()],
            define_macros=list(facts.items()),
            extra_compile_args=flags,
            language="c++",
        ),
    ]


def build_arguments():
    import ninja
    import torch

    if torch.torch_version.TorchVersion(torch.__version__) < (2, 10):
        sys.exit(f"fused-acts needs torch 2.10 or later, and this is {torch.__version__}")
    os.environ["PATH"] = ninja.BIN_DIR + os.pathsep + os.environ["PATH"]
    home = cuda_home(torch)
    if home:
        # Read by torch.utils.cpp_extension, which guesses both where they are not set.
        os.environ["CUDA_HOME"] = str(home)
        os.environ["TORCH_CUDA_ARCH_LIST"] = cuda_config.architectures(
            os.environ.get("TORCH_CUDA_ARCH_LIST"), nvcc(home, "--list-gpu-arch").split()
        )
    print(f"fused_acts: torch {torch.__version__}, CUDA from {home}", flush=True)

    from torch.utils.cpp_extension import BuildExtension

    class Build(BuildExtension):
        def finalize_options(self):
            super().finalize_options()
            # A folder of its own for each torch, which outlives editable builds, so that only what
            # changed is compiled again.
            self.build_temp = self.folder = f"build/torch-{torch.__version__}"

        def build_extension(self, ext):
            self.build_temp = f"{self.folder}/{ext.name}"
            super().build_extension(ext)

        def get_ext_filename(self, fullname):
            name = super().get_ext_filename(fullname)
            is_operators = fullname.rpartition(".")[2] == OPERATORS.rpartition(".")[2]
            return name.partition(".")[0] + ".so" if is_operators else name

    return {"ext_modules": extensions(torch, home), "cmdclass": {"build_ext": Build}}


# A source distribution is made without torch.
setup(**({} if "sdist" in sys.argv else build_arguments()))
