import os
import re
from pathlib import Path

import pytest

# Threads that wait for each other spin, and take many times as long on a busy machine. To be said
# before OpenMP is loaded, with torch.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch  # noqa: E402

import fused_acts  # noqa: E402

LEFT_OUT = pytest.StashKey[str]()
SUPPORT_PAGE = Path(__file__).resolve().parent.parent / "docs" / "support.md"


# Tests that are about threads ask for them.
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-support", action="store_true", help="write docs/support.md")


def why_no_cuda() -> str | None:
    if not fused_acts._library.BUILD["cuda_version"]:
        return "fused_acts was built without CUDA"
    if not torch.cuda.is_available():
        return "no CUDA device"
    return None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cpu: never on CUDA, where `cases.KINDS` stand for all rows")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    on_cuda = [item for item in items if "cuda" in item.keywords]
    reason = why_no_cuda()
    left_out = on_cuda if reason else [item for item in on_cuda if "cpu" in item.keywords]
    if reason and on_cuda:
        config.stash[LEFT_OUT] = f"CUDA: {len(on_cuda)} tests left out, {reason}"
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]


def pytest_report_collectionfinish(config: pytest.Config) -> str | None:
    return config.stash.get(LEFT_OUT, None)


def pytest_make_parametrize_id(val: object) -> str | None:
    return str(val).removeprefix("torch.") if isinstance(val, torch.dtype) else None


def pytest_terminal_summary(terminalreporter, config) -> None:
    if reason := config.stash.get(LEFT_OUT, None):
        terminalreporter.write_line(reason)
    if config.getoption("--write-support"):
        write_support([report.nodeid for report in terminalreporter.stats.get("passed", [])])


def write_support(passed: list[str]) -> None:
    """Writes the cells whose tests passed, see test_support.py; lines of other devices stay."""
    found = [re.search(r"::test_cell\[(\w+)-(cpu|cuda)-(\w+)\]", n) for n in passed]
    cells = {match.groups() for match in found if match}
    devices = {device for _, device, _ in cells}
    features = [
        "forward",
        "backward",
        "double_backward",
        "jvp",
        "vmap",
        "compiled",
        "bias",
        "learned_parameter",
    ]
    text = SUPPORT_PAGE.read_text()
    head, old = text.split("\n|", 1)
    kept = {
        (name, device.lower()): line
        for line, name, device in re.findall(r"^(\| (\w+) \| (CPU|CUDA) \|.*)$", old, re.M)
    }
    lines = [
        f"| variant | device | {' | '.join(name.replace('_', ' ') for name in features)} |",
        "|---" * (2 + len(features)) + "|",
    ]
    for name in fused_acts.variants():
        for device in ("cpu", "cuda"):
            said = ["yes" if (name, device, feature) in cells else "-" for feature in features]
            line = f"| {name} | {device.upper()} | {' | '.join(said)} |"
            lines.append(line if device in devices else kept.get((name, device), line))
    SUPPORT_PAGE.write_text("\n".join((head, *lines)) + "\n")


@pytest.fixture
def threads():
    """Sets the number of threads for one test; the setting is torch's and global."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def fresh_dynamo():
    """Nothing compiled before, and the default form of compilation again afterwards."""
    torch._dynamo.reset()
    yield
    fused_acts.compile_as("kernel")
    torch._dynamo.reset()
