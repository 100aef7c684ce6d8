"""Checks that an include never goes up, and that the oracle is only an oracle.

    python tools/check_layers.py [ROOT]

Prints file:line for each include or import that breaks a rule, and exits with 1 if there is one.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

# {folder of csrc/: the folders whose headers it may include}
LAYERS = {
    "math": {"math"},
    "kernels": {"math", "kernels"},
    "ops": {"math", "kernels", "ops"},
    "cpu": {"math", "kernels", "cpu"},
    "cuda": {"math", "kernels", "cuda"},
    "own": {"math", "kernels", "own"},
    "info": {"math", "kernels", "ops", "cpu", "cuda", "info"},
}
# What is not ours: {start of the header's name: the folder that may include it}
OUTSIDE = {"torch/": "ops", "ATen/": None, "c10/": None, "pybind11/": None, "cuda": "cuda"}
STABLE = ("torch/csrc/stable/", "torch/csrc/inductor/aoti_torch/c/", "torch/headeronly/")


def check_include(csrc: Path, folder: str, quote: str, header: str) -> str | None:
    if quote == '"':
        other = header.split("/")[0]
        if header.startswith(".") or other not in LAYERS or not (csrc / header).is_file():
            return f'"{header}" is no file relative to csrc/'
        return None if other in LAYERS[folder] else f"{folder}/ may not include {other}/"
    for start, owner in OUTSIDE.items():
        if header.startswith(start) and owner != folder:
            return f"{folder}/ may not include <{header}>" + (f", {owner}/ may" if owner else "")
    if header.startswith("torch/") and not header.startswith(STABLE):
        return f"<{header}> is not of the stable ABI"
    return None


def broken_includes(root: Path) -> Iterator[str]:
    csrc = root / "csrc"
    for path in sorted(p for p in csrc.rglob("*") if p.suffix in (".h", ".cuh", ".cpp", ".cu")):
        folder = path.relative_to(csrc).parts[0]
        if folder not in LAYERS:
            yield f"{path}:1: csrc/{folder} is no layer"
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = re.match(r'\s*#\s*include\s*(["<])([^">]+)', line)
            if found and (reason := check_include(csrc, folder, *found.groups())):
                yield f"{path}:{number}: {reason}"


def imported(node: ast.AST) -> list[str]:
    """The modules that an import may load, without the leading dots of relative ones."""
    if isinstance(node, ast.Import):
        return [name.name for name in node.names]
    if isinstance(node, ast.ImportFrom):
        module = node.module or ""
        return [module, *(f"{module}.{name.name}".strip(".") for name in node.names)]
    return []


def broken_imports(root: Path) -> Iterator[str]:
    package = root / "fused_acts"
    named = {package / name for name in ("__init__.py", "reference.py", "_selftest.py")}
    allowed = named | {*package.glob("gallery/**/*.py")}
    for path in sorted({*package.rglob("*.py")} - allowed):
        for node in ast.walk(ast.parse(path.read_text())):
            if any(m.removeprefix("fused_acts.") == "reference" for m in imported(node)):
                yield f"{path}:{node.lineno}: reference.py is the oracle, and not for the package"


def main() -> None:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    broken = [*broken_includes(root), *broken_imports(root)]
    print(*broken, sep="\n", end="\n" if broken else "")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
