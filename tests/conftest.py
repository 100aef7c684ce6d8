import pytest
import torch

import fused_acts


def why_no_cuda() -> str | None:
    if not fused_acts._C.build_info()["cuda_version"]:
        return "fused_acts was built without CUDA"
    if not torch.cuda.is_available():
        return "no CUDA device"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if reason := why_no_cuda():
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def threads():
    """Sets the number of threads for one test; the setting is torch's and global."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
