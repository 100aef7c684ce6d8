"""docs/models.md is what tools/write_models.py writes."""

import subprocess
import sys
from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers")

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/models.md").read_text(encoding="utf-8")


@pytest.mark.slow  # builds 196 models
@pytest.mark.skipif(transformers.__version__ not in PAGE, reason="written of other transformers")
def test_the_page_is_up_to_date():
    tool = [sys.executable, str(ROOT / "tools/write_models.py"), "--check"]
    result = subprocess.run(tool, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
