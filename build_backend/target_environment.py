"""Finds the environment that a wheel is built for, from inside the isolated one of its frontend.

An extension is compiled against the torch it will run with, and pip, uv and build hide that torch.
Nothing here needs torch or a compiler. A SystemExit carries the message for who runs the build.
"""

import os
import re
import shutil
import site
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MESSAGE = (
    "fused-acts is compiled against the torch it will run with, and none was found{where}: install "
    "torch first; where it is elsewhere, install setuptools and ninja beside it and use "
    "`uv pip install --no-build-isolation .`, `pip install --no-build-isolation .` or "
    "`python -m build --no-isolation`"
)


@dataclass(frozen=True)
class Process:
    """The frontend that started this build."""

    command: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    folder: Path = Path()


def parent() -> Process:
    """Our parent process; uv shows the environment it installs into nowhere else."""
    proc = Path(f"/proc/{os.getppid()}")
    try:
        command, environ = (
            os.fsdecode((proc / name).read_bytes()).split("\0") for name in ("cmdline", "environ")
        )
        variables = dict(item.split("=", 1) for item in environ if "=" in item)
        return Process(command, variables, (proc / "cwd").resolve())
    except OSError:
        return Process()


def _option(command: Sequence[str], *names: str) -> str | None:
    for word, following in zip(command, [*command[1:], ""], strict=True):
        if word in names:
            return following
        for name in names:
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
    return None


def _prefix(python: str, process: Process) -> Path | None:
    """The environment of an interpreter, given as uv's --python takes it: file, folder or name."""
    path = process.folder / python
    if path.is_dir():
        return path
    found = path if path.is_file() else shutil.which(python, path=process.environ.get("PATH"))
    # not resolved: the python of a virtual environment is a link to another one's
    return Path(found).parent.parent if found else None


def prefixes(environ: Mapping[str, str], process: Process) -> Iterator[Path]:
    """The environments to look at, the likeliest first."""
    if "PIP_BUILD_TRACKER" in environ:
        return  # under pip it is the environment of this interpreter, and no other
    program = Path(process.command[0]).name if process.command else ""
    if program == "uv":
        asked = _option(process.command, "--python", "-p", "--prefix") or environ.get("UV_PYTHON")
        if asked and (prefix := _prefix(asked, process)):
            yield prefix
            return
    elif program.startswith("python") and (prefix := _prefix(process.command[0], process)):
        yield prefix
    for name in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "CONDA_PREFIX"):
        if value := process.environ.get(name, environ.get(name)):
            yield process.folder / value
    if program == "uv":
        yield from (folder / ".venv" for folder in (process.folder, *process.folder.parents))
        if "--system" in process.command or environ.get("UV_SYSTEM_PYTHON"):
            yield Path(sys.base_prefix)


def _site_packages(prefix: Path) -> list[Path]:
    """Those of prefix, and of the Python below where a virtual environment shows them."""
    folder = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    found = [prefix / folder]
    config = prefix / "pyvenv.cfg"
    if config.is_file():
        text = config.read_text()
        below = re.search(r"^home\s*=\s*(.+?)\s*$", text, re.M)
        if below and re.search(r"^include-system-site-packages\s*=\s*true", text, re.M | re.I):
            found.append(Path(below[1]).parent / folder)
    return found


def search_path(
    environ: Mapping[str, str] = os.environ, process: Process | None = None
) -> list[str]:
    """What to append to sys.path so that `import torch` finds the torch of the target environment.

    Raises SystemExit where that environment has none.
    """
    folders = [Path(folder) for folder in site.getsitepackages()]
    if sys.prefix == sys.base_prefix:
        folders.append(Path(site.getusersitepackages()))
    environments = [folders]
    own = Path(sys.prefix)
    looked_at = dict.fromkeys(prefixes(environ, process or parent()))
    looked_at = [prefix for prefix in looked_at if prefix.is_dir() and prefix != own]
    environments += [_site_packages(prefix) for prefix in looked_at]
    for folders in environments:
        if any((folder / "torch/__init__.py").is_file() for folder in folders):
            return [str(folder) for folder in folders if folder.is_dir()]
    if not looked_at and "PIP_BUILD_TRACKER" in environ:
        looked_at = [own]
    where = f" in {' or '.join(map(str, looked_at))}" if looked_at else ""
    raise SystemExit(MESSAGE.format(where=where))


def check_torch(version: str) -> None:
    """Refuses a torch without the stable ABI that the operators are compiled against."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if not numbers or tuple(map(int, numbers.groups())) < (2, 10):
        raise SystemExit(f"fused-acts needs torch 2.10 or later, and this is torch {version}")
