import os
from types import SimpleNamespace

import pytest

# Threads that wait for each other spin, and take many times as long on a busy machine. To be said
# before OpenMP is loaded, with torch.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch  # noqa: E402

import fused_acts  # noqa: E402

LEFT_OUT = pytest.StashKey[str]()  # why tests that need CUDA are
DESELECTED = pytest.StashKey[int]()  # how many tests, for whatever reason


# Tests that are about threads ask for them.
torch.set_num_threads(1)


def pytest_report_header() -> str:
    return f"fused_acts: CPU instruction set {fused_acts._build_info.cpu_capability()}"


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


def pytest_deselected(items: list[pytest.Item]) -> None:
    if items:
        stash = items[0].config.stash
        stash[DESELECTED] = stash.get(DESELECTED, 0) + len(items)


# pytest-xdist's processes select, and the one that reports does not know.
def pytest_sessionfinish(session: pytest.Session) -> None:
    if output := getattr(session.config, "workeroutput", None):
        stash = session.config.stash
        output["left out"] = stash.get(LEFT_OUT, None), stash.get(DESELECTED, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    if output := getattr(node, "workeroutput", None):  # each has the same
        reason, count = output["left out"]
        reporter = node.config.pluginmanager.get_plugin("terminalreporter")
        reporter.stats["deselected"] = [SimpleNamespace()] * count
        if reason:
            node.config.stash[LEFT_OUT] = reason


def pytest_report_collectionfinish(config: pytest.Config) -> str | None:
    return config.stash.get(LEFT_OUT, None)


def pytest_make_parametrize_id(val: object) -> str | None:
    return str(val).removeprefix("torch.") if isinstance(val, torch.dtype) else None


def pytest_terminal_summary(terminalreporter, config) -> None:
    if reason := config.stash.get(LEFT_OUT, None):
        terminalreporter.write_line(reason)
    if config.getoption("--write-support"):
        import support_page

        reports = [terminalreporter.stats.get(outcome, []) for outcome in ("passed", "failed")]
        support_page.write(*([report.nodeid for report in part] for part in reports))


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


@pytest.fixture(scope="module")
def own_units(tmp_path_factory):
    """Units of one's own are compiled into a cache for tests, which pytest-xdist's processes share.

    A process with UNIT_COMPILERS in its environment writes a line there for each compiler it runs.
    """
    from define_cases import logging_compiler

    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "own-units"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUSED_ACTS_CACHE", str(folder / "cache"))
        patch.setenv("CXX", str(logging_compiler(folder)))
        yield
