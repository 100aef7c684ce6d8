"""The documentation site, by `make docs`: README.md, the pages of docs/ and the API.

Sphinx reads the repository from its root, so that the links of every page are those of its file.
"""

import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the package as it is here

import fused_acts  # noqa: E402
from fused_acts import functional, nn, reference  # noqa: E402

project = "fused-acts"
version = release = fused_acts.__version__
root_doc = "README"
include_patterns = [
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "csrc/README.md", "examples/README.md"),
    *("docs/*.md", "docs/api.rst", "docs/api/*.rst"),
]
exclude_patterns = [".*", "build", "site"]
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]

# Furo brings its own files, so that no page asks another server for anything.
templates_path = [str(ROOT / "docs" / "_templates")]  # autosummary looks from the root
html_theme = "furo"
html_title = f"fused-acts {version}"
html_extra_path = ["_extra"]  # index.html, which leads to README.html
html_static_path = ["_static"]
html_favicon = "_static/icon.svg"
html_css_files = ["site.css"]
html_copy_source = html_show_copyright = False
highlight_language = "none"
smartquotes_action = "D"  # dashes only: quotes and dots are code in docstrings
pygments_style, pygments_dark_style = "friendly", "github-dark"

myst_heading_anchors = 3

# Pages of the API: a table for each module and a page for each name, of what the package has.
UNITS = fused_acts.variants()
ACTIVATIONS = [name for name in functional.FUNCTIONS if name not in UNITS]  # silu too
OTHERS = [name for name in fused_acts.__all__ if name not in (*UNITS, *ACTIVATIONS)]
autosummary_context = {
    "tables": {
        "fused_acts": {
            "Gated units": UNITS,
            "Activations": ACTIVATIONS,
            "By name, and others": [name for name in OTHERS if name not in ("nn", "reference")],
        },
        "fused_acts.nn": {"": nn.__all__},
        "fused_acts.distributed": {"": ["ExpertParallel", "PackedColwiseParallel"]},
        "fused_acts.integrations.kernels": {"": ["mapping"]},
        "fused_acts.integrations.transformers": {"": ["patch", "register", "unpatch"]},
        "fused_acts.integrations.vllm": {"": ["register"]},
        "fused_acts.reference": {"": reference.__all__},
    }
}
DATA = {
    "fused_acts.__version__": "The version of the package.",
    "fused_acts.reference.ACTIVATIONS": "The rows of the activations by name.",
    "fused_acts.reference.VARIANTS": "The rows of the gated units by name.",
}
autodoc_docstring_signature = False  # "gtu(gate, up) = sigmoid(gate) * tanh(up)" is none
autodoc_typehints = "signature"
python_maximum_signature_line_length = 80
python_display_short_literal_types = True
default_role = "py:obj"
napoleon_numpy_docstring = False

CONTENTS = """
```{toctree}
:hidden:
:caption: Guide

docs/first-steps
docs/activations
docs/ffn
docs/moe
docs/quantised
docs/own-units
docs/transformers
docs/models
docs/distributed
```
```{toctree}
:hidden:
:caption: Reference

docs/api
docs/support
docs/numerics
docs/cpu
docs/kernels
docs/benchmarks
docs/field
```
```{toctree}
:hidden:
:caption: Development

CHANGELOG
docs/releases
docs/packages
CONTRIBUTING
csrc/README
examples/README
```
"""


def add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """The tree of pages, which README.md does not hold because GitHub would show it."""
    if page == root_doc:
        source[0] += CONTENTS


def describe(
    app: Sphinx, kind: str, name: str, object: Any, options: Any, lines: list[str]
) -> None:
    """What has no docstring of its own here."""
    if kind == "data":
        lines[:] = [DATA[name]]
    elif kind == "class" and object.__module__.startswith("torch."):
        lines[:] = [f"``torch.nn.{object.__name__}`` itself."]


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", describe, priority=400)  # before napoleon
