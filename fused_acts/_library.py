"""Loads the operators, a shared library that needs no Python, and knows what it was built with."""

import json
from pathlib import Path

import torch

_FOLDER = Path(__file__).parent


def _read_record(path: Path) -> dict[str, str]:
    try:
        record: dict[str, str] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record


# torch_version, torch_cuda (of that torch), cuda_version (of the toolkit), cuda_architectures,
# compiler, sources (a digest); "" for what there is not. Empty where nothing was built.
BUILD = _read_record(_FOLDER / "_build.json")


def _torch(version: str, cuda: str | None) -> str:
    return f"torch {version} ({f'CUDA {cuda}' if cuda else 'CPU only'})"


def load(library: Path = _FOLDER / "libfused_acts.so", build: dict[str, str] = BUILD) -> None:
    """Registers torch.ops.fused_acts.*; an ImportError says which torch was expected."""
    here = _torch(torch.__version__, torch.version.cuda)
    again = (
        "Build it with `pip install .` in the source folder, or with `pip install -e .` to import "
        "fused_acts from there. It needs torch 2.10 or later."
    )
    if not library.is_file():
        raise ImportError(f"{library}, the compiled operators, is missing, for {here}. {again}")
    try:
        torch.ops.load_library(library)
    except OSError as error:
        built_for = "an unknown torch"
        if build:
            built_for = _torch(build["torch_version"], build["torch_cuda"])
            built_for += ", with CUDA kernels" if build["cuda_version"] else ", for the CPU alone"
        raise ImportError(
            f"{library}, the compiled operators, was built with {built_for}, and does not load "
            f"with {here}: {error.__cause__ or error}. {again}"
        ) from error
