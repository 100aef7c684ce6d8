"""What the numbers were measured on."""

import datetime
import functools
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils import collect_env

from fused_acts import _build_info, _library


def read(path: str) -> str:
    """A small system file, empty where there is none."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


@functools.cache
def processor() -> dict[str, str]:
    """What the system says of its processor, by torch's own report for bugs: lscpu's lines."""
    said = collect_env.get_cpu_info(collect_env.run) or ""
    lines = (line.partition(":") for line in said.splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def cpu_model() -> str:
    return processor().get("Model name") or platform.processor() or platform.machine()


def usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy() -> bool:
    """Whether other work takes a good part of the processor."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.4 * usable_cpus()


def last_level_cache() -> str:
    caches = {key: size for key, size in processor().items() if re.fullmatch(r"L\d cache", key)}
    return caches[max(caches)] if caches else ""


def default_device() -> torch.device:
    """CUDA where there is a GPU and this build of fused-acts has kernels for it."""
    cuda = torch.cuda.is_available() and bool(_library.BUILD["cuda_version"])
    return torch.device("cuda" if cuda else "cpu")


def free_memories(device: torch.device) -> Iterator[int]:
    """Bytes free by every account there is: the device, the system, the container."""
    if device.type == "cuda":
        yield torch.cuda.mem_get_info(device)[0]
    for line in read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024
    limit, used = read("/sys/fs/cgroup/memory.max"), read("/sys/fs/cgroup/memory.current")
    if limit.isdigit() and used.isdigit():
        yield int(limit) - int(used)


def free_memory(device: torch.device) -> int:
    """Bytes that may be allocated on `device`; 4 GB where the system does not say."""
    return max(0, min(free_memories(device), default=4 * 10**9))


def describe(device: torch.device) -> dict[str, str]:
    """The machine, the software and the build, as they are printed and written to the results."""
    facts = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "cores": f"{usable_cpus()} usable, {torch.get_num_threads()} torch threads",
        "last-level cache": last_level_cache(),
        "memory": f"{free_memory(torch.device('cpu')) / 1e9:.1f} GB free",
        "system": f"{collect_env.get_os(collect_env.run)}, Python {platform.python_version()}",
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda or ""
        facts["driver"] = collect_env.get_nvidia_driver_version(collect_env.run) or ""
    build = _library.BUILD | {"cpu capability": _build_info.cpu_capability()}
    facts |= {f"fused-acts {key.replace('_', ' ')}": value for key, value in build.items()}
    return {key: value for key, value in facts.items() if value}
