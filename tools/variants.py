"""The rows of csrc/math/variants.h."""

import re

from machine_code import ROOT


def variants() -> dict[tuple[str, str], str]:
    """{(f, g): name} of the tables of csrc/math/variants.h, the first of those that share one."""
    text = (ROOT / "csrc/math/variants.h").read_text()
    rows = re.findall(r"X\((\w+), ([A-Z]\w+), ([A-Z]\w+)\)", text)
    return {(f, g): n for n, f, g in reversed(rows)}


def plain_variants() -> list[str]:
    """Those that have kernels without numbers too."""
    tables = (ROOT / "csrc/math/variants.h").read_text().split("#define ")
    plain = "".join(table for table in tables if table.startswith("FUSED_ACTS_PLAIN"))
    return re.findall(r"X\((\w+), \w+, \w+\)", plain)
