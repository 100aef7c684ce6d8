"""Writes the build.ninja of all libraries at once, so that no core waits between two of them."""

import shlex
from collections.abc import Sequence
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
    exports: Sequence[str] = ()  # everything else is local, weak templates of the standard too


def write(
    folder: Path,
    cxx: Sequence[str],
    nvcc: str | None,
    libraries: Sequence[SharedLibrary],
    longest: Sequence[str] = (),
) -> Path:
    """folder/build.ninja, for ninja to run where the sources' paths start.

    ninja starts files as they stand there. longest are patterns of those that take longest, which
    come first, or one of them runs alone in the end.
    """
    compilations: list[tuple[int, str]] = []
    links: list[str] = []
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
            ranks = [n for n, pattern in enumerate(longest) if fnmatch(source, pattern)]
            edge = f"build {objects[-1]}: {rule} {_path(source)}\n  flags = ${place.name}_{rule}"
            compilations.append((min(ranks, default=len(longest)), edge))
        exports = place / "exports.map"
        public = f"global: {' '.join(library.exports)}; " if library.exports else ""
        _write_changed(exports, f"{{ {public}local: *; }};\n")
        flags = [f"-Wl,--version-script={exports}", *library.link_flags]
        target = _path(folder / library.name)
        links += [f"build {target}: link {' '.join(objects)} | {_path(exports)}"]
        links += [f"  flags = {_words(flags)}"]
    lines += [edge for _, edge in sorted(compilations, key=lambda pair: pair[0])] + links
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
