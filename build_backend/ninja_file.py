"""Finds ninja, and writes the build.ninja of a shared library."""

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

RULES = """\
ninja_required_version = 1.5
builddir = {folder}
rule cxx
  command = {cxx} -MMD -MF $out.d $flags -c $in -o $out
  depfile = $out.d
  deps = gcc
  description = $in
rule nvcc
  command = {nvcc} -MD -MF $out.d $flags -c $in -o $out
  depfile = $out.d
  deps = gcc
  description = $in
rule link
  command = {cxx} -shared -o $out @$out.rsp $flags
  rspfile = $out.rsp
  rspfile_content = $in
  description = $out
"""


@dataclass(frozen=True)
class SharedLibrary:
    name: str  # of the file
    sources: Sequence[str]
    cxx_flags: Sequence[str]
    link_flags: Sequence[str]
    nvcc_flags: Sequence[str] = ()


def find_ninja(environ: Mapping[str, str] = os.environ) -> str:
    """The ninja of the Python package, or of the system."""
    try:
        import ninja

        path = os.pathsep.join([ninja.BIN_DIR, environ.get("PATH", os.defpath)])
    except ImportError:
        path = environ.get("PATH", os.defpath)
    if found := shutil.which("ninja", path=path):
        return found
    raise SystemExit(
        "fused-acts is built by ninja, which is neither a package of this Python nor on PATH: "
        "pip install ninja"
    )


def write(
    folder: Path,
    cxx: Sequence[str],
    nvcc: str | None,
    library: SharedLibrary,
    longest: Sequence[str] = (),
) -> Path:
    """folder/build.ninja, for ninja to run where the sources' paths start.

    ninja starts files as they stand there. longest are patterns of those that take longest, which
    come first, or one of them runs alone in the end.
    """
    place = folder / library.name.partition(".")[0]
    place.mkdir(parents=True, exist_ok=True)
    lines = [RULES.format(folder=_path(folder), cxx=_words(cxx), nvcc=_words([nvcc or "nvcc"]))]
    lines += [f"cxx_flags = {_words(library.cxx_flags)}"]
    lines += [f"nvcc_flags = {_words(library.nvcc_flags)}"]
    objects: list[str] = []
    compilations: list[tuple[int, str]] = []
    for source in library.sources:
        rule = "nvcc" if source.endswith(".cu") else "cxx"
        objects.append(_path((place / source).with_suffix(".o")))
        ranks = [n for n, pattern in enumerate(longest) if fnmatch(source, pattern)]
        edge = f"build {objects[-1]}: {rule} {_path(source)}\n  flags = ${rule}_flags"
        compilations.append((min(ranks, default=len(longest)), edge))
    lines += [edge for _, edge in sorted(compilations, key=lambda pair: pair[0])]
    exports = place / "exports.map"
    _write_changed(exports, "{ local: *; };\n")  # weak templates of the standard too
    flags = [f"-Wl,--version-script={exports}", *library.link_flags]
    target = _path(folder / library.name)
    lines += [f"build {target}: link {' '.join(objects)} | {_path(exports)}"]
    lines += [f"  flags = {_words(flags)}"]
    path = folder / "build.ninja"
    _write_changed(path, "\n".join(lines) + "\n")
    return path


def _write_changed(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)


def _words(words: Sequence[str]) -> str:
    return " ".join(shlex.quote(word) for word in words).replace("$", "$$")


def _path(path: str | Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")
