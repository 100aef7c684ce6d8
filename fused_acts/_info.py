"""What is installed and what it runs on: the first thing a report of a problem should say."""

import argparse
import platform
import re

import torch

from fused_acts._build_info import build_facts
from fused_acts._library import BUILD


def serves(architectures: str, capability: tuple[int, int]) -> bool | None:
    """Whether a GPU runs what was compiled for a TORCH_CUDA_ARCH_LIST such as "8.0;9.0a;10.0+PTX".

    Machine code runs on later GPUs of its generation, PTX on all later ones; with an "a" both run
    on that GPU alone, with an "f" on its generation. None for a name, such as "Hopper".
    """
    numbers = re.findall(r"(\d+)\.(\d)([af]?)(\+PTX)?", architectures)
    for major, minor, kind, ptx in numbers:
        built_for = int(major), int(minor)
        later = capability > built_for and kind != "a"
        same_generation = capability[0] == built_for[0]
        if capability == built_for or (later and (same_generation or (ptx and not kind))):
            return True
    return False if numbers else None


def gpu(index: int) -> str:
    """A line about a GPU that torch sees."""
    capability = torch.cuda.get_device_capability(index)
    number = ".".join(map(str, capability))
    built_for = BUILD["cuda_architectures"]
    if not built_for:
        verdict = "not served by this build: FUSED_ACTS_CUDA=1 pip install ."
    elif (served := serves(built_for, capability)) is None:
        verdict = f"this build is for {built_for}"
    elif served:
        verdict = "served by this build"
    else:
        verdict = f"not served by this build: TORCH_CUDA_ARCH_LIST={number} pip install ."
    return (
        f"GPU {index}: {torch.cuda.get_device_name(index)}, compute capability {number}, {verdict}"
    )


def facts() -> list[str]:
    """Those of `show_build`, the GPUs, Python and the system."""
    gpus = [gpu(index) for index in range(torch.cuda.device_count())]
    system = f"Python {platform.python_version()}, {platform.platform()}"
    return [*build_facts(), *(gpus or ["no GPU that torch can use"]), system]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> int:
    lines = facts()
    print("\n  - ".join(lines))
    print(f"\nFor a report, in one line:\n{'; '.join(lines)}")
    return 0
