"""The C++ compiler and its flags."""

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

FLAGS = [
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
OPTIONAL_FLAGS = [
    "-fno-thread-jumps",  # it takes minima and maxima apart, which vectors have instructions for
    "-Wno-psabi",
    "-Wno-pass-failed",  # clang tells of each loop that it leaves scalar
    "-Wno-maybe-uninitialized",  # GCC 12 finds it in its own AVX-512 headers
]
COMPILERS = ("c++", "g++", "clang++")
PROGRAM = "#include <optional>\nint main() { return std::optional<int>(0).value(); }\n"


def _compile(
    compiler: Sequence[str], flags: Sequence[str], environ: Mapping[str, str]
) -> str | None:
    """None if compiler takes flags and PROGRAM, else what it said."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text(PROGRAM)
        command = [*compiler, "-std=c++17", *flags, "-c", str(source), "-o", f"{folder}/probe.o"]
        done = subprocess.run(command, capture_output=True, text=True, env=environ)
        said = (done.stderr + done.stdout).strip()
        return (said or "no message") if done.returncode else None


def compilers(environ: Mapping[str, str] = os.environ) -> list[list[str]]:
    """The words of $CXX, or those of COMPILERS, as far as they are on PATH."""
    asked = shlex.split(environ.get("CXX", ""))
    path = environ.get("PATH", os.defpath)
    found = [asked] if asked else [[name] for name in COMPILERS]
    return [words for words in found if shutil.which(words[0], path=path)]


def find_compiler(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The first of `compilers` that compiles C++17."""
    found = compilers(environ)
    hint = "install g++ or clang++ (Debian and Ubuntu: apt install g++) or set CXX to a compiler"
    if not found:
        what = (
            f"CXX={environ['CXX']} is not on PATH"
            if environ.get("CXX")
            else (f"none of {', '.join(COMPILERS)} is on PATH")
        )
        raise SystemExit(f"fused-acts needs a C++17 compiler, and {what}: {hint}")
    for words in found:
        said = _compile(words, [], environ)
        if said is None:
            return words
        first = said.splitlines()[0]
    raise SystemExit(
        f"fused-acts needs a C++17 compiler, and {shlex.join(words)} does not compile a line of it "
        f"({first}): {hint}"
    )


def accepted(compiler: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Those of flags that compiler knows: clang takes some of GCC's for errors."""
    return [flag for flag in flags if _compile(compiler, ["-Werror", flag], os.environ) is None]


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def cpu_flags(compiler: Sequence[str], environ: Mapping[str, str] = os.environ) -> list[str]:
    """What FUSED_ACTS_CPU asks for: the loops of all instruction sets, or of this processor's."""
    setting = environ.get("FUSED_ACTS_CPU", "all")
    if setting not in ("all", "native"):
        raise SystemExit(f"FUSED_ACTS_CPU must be all or native, not {setting!r}")
    if setting == "all" or not _output([*compiler, "-dumpmachine"]).startswith("x86_64"):
        return []
    probe = [*compiler, "-march=native", "-dM", "-E", "-x", "c++", os.devnull]
    macros = _output(probe).split()
    avx512 = all(f"__AVX512{part}__" in macros for part in ("F", "BW", "DQ", "VL"))
    avx2 = all(f"__{part}__" in macros for part in ("AVX2", "FMA", "F16C"))
    level = 3 if avx512 and "__AVX512BF16__" in macros else 2 if avx512 else int(avx2)
    return [f"-DFUSED_ACTS_NATIVE={level}"]


def program(compiler: Sequence[str]) -> str:
    """The compiler itself, of words such as "ccache g++ -m64"."""
    return [word for word in compiler if not word.startswith("-")][-1]


def describe(compiler: Sequence[str]) -> str:
    return _output([*compiler, "--version"]).partition("\n")[0]
