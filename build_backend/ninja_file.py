"""Writes the build.ninja of all libraries at once, so that no core waits between two of them."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
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
    """sources in the order in which they start: the longest first, or a core idles at the end."""

    name: str  # of the file
    sources: Sequence[str]
    cxx_flags: Sequence[str]
    link_flags: Sequence[str]
    nvcc_flags: Sequence[str] = ()
    exports: Sequence[str] = ()  # everything else is local, weak templates of the standard too


def write(
    folder: Path, cxx: Sequence[str], nvcc: str | None, libraries: Sequence[SharedLibrary]
) -> Path:
    """folder/build.ninja, for ninja to run where the sources' paths start."""
    lines = [RULES.format(folder=_path(folder), cxx=_words(cxx), nvcc=_words([nvcc or "nvcc"]))]
    for library in libraries:
        place = folder / library.name.partition(".")[0]
        place.mkdir(parents=True, exist_ok=True)
        lines += [f"{place.name}_cxx = {_words(library.cxx_flags)}"]
        lines += [f"{place.name}_nvcc = {_words(library.nvcc_flags)}"]
        objects = []
        for source in library.sources:
            rule = "nvcc" if source.endswith(".cu") else "cxx"
            objects.append(_path((place / source).with_suffix(".o")))
            lines += [f"build {objects[-1]}: {rule} {_path(source)}"]
            lines += [f"  flags = ${place.name}_{rule}"]
        exports = place / "exports.map"
        public = f"global: {' '.join(library.exports)}; " if library.exports else ""
        _write_changed(exports, f"{{ {public}local: *; }};\n")
        flags = [f"-Wl,--version-script={exports}", *library.link_flags]
        lines += [
            f"build {_path(folder / library.name)}: link {' '.join(objects)} | {_path(exports)}"
        ]
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
