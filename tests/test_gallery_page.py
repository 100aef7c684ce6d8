"""docs/activations.md and its pictures: current, reproducible, and for other parameters too."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fused_acts
from fused_acts import gallery, reference, tables
from fused_acts.__main__ import main
from fused_acts.gallery import entry, formulas, page

pytest.importorskip("matplotlib")  # which the extra `test` brings

from fused_acts.gallery import draw  # noqa: E402

DOCS = Path(__file__).resolve().parent.parent / "docs"
PICTURES = DOCS / page.FOLDER
NAMES = fused_acts.activations() + fused_acts.variants()


def written() -> str:
    return (DOCS / "activations.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def galleries():
    return page.galleries(entry.entries())


def test_the_page_is_current(galleries):
    assert written() == page.page(galleries), "run `make gallery`"


def test_a_section_and_a_picture_for_each(galleries):
    assert re.findall(r"^### (\w+)$", written(), re.M) == [*NAMES, *formulas.OF_SEVERAL]
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", written())
    assert set(shown) == {str(path.relative_to(DOCS)) for path in PICTURES.iterdir()}
    assert {f"{page.FOLDER}/{name}.svg" for name in NAMES} < set(shown)
    assert sum(path.stat().st_size for path in PICTURES.iterdir()) < 1_500_000


def test_a_new_row_makes_the_page_stale(monkeypatch):
    for table in (reference.ACTIVATIONS, reference.VARIANTS):
        name, row = next(iter(table.items()))
        one = entry.entries([name])
        before = page.page(page.galleries(one))
        monkeypatch.setitem(table, name, row._replace(source="elsewhere"))
        assert page.page(page.galleries(entry.entries([name]))) != before
        assert [e.name for e in entry.entries()].count(name) == 1
        monkeypatch.setitem(table, "new", row)
        assert "new" in [e.name for e in entry.entries()]


@pytest.mark.parametrize("name", ["tanh", "tanh_glu", "gtu"])
def test_a_function_without_a_formula_has_all_else(name, monkeypatch):
    """A new row needs no text beside it."""
    one = entry.entries([name])
    before = page.page(page.galleries(one)).splitlines()
    monkeypatch.setattr(tables.tanh, "__doc__", None)
    after = page.page(page.galleries(one)).splitlines()
    gone = [line for line in before if line not in after]
    assert len(gone) == 1 and "tanh(" in gone[0] and set(after) < set(before)


def words(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_pictures_at_a_glance_are_current(galleries, tmp_path):
    """Their words: names, marked figures, axes. The lines change a little with matplotlib."""
    with draw.plt.rc_context(draw.STYLE):
        for one, gated in zip(galleries, (False, True), strict=True):
            path = tmp_path / page.overview_name(gated)
            draw.save(draw.draw_overview(one, gated), path)
            drawn = words(path.read_text())
            assert drawn == words((PICTURES / path.name).read_text()), "run `make gallery`"
            assert {entry.name for entry in one} < set(drawn)


def test_pictures_are_the_same_bytes_each_time(tmp_path):
    for folder in ("one", "other"):
        assert main(["gallery", "swish", "glu", "--out", str(tmp_path / folder)]) == 0
    files = sorted(path for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 5
    for path in files:
        other = tmp_path / "other" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == other.read_bytes()


def test_other_parameters(tmp_path):
    assert main(["gallery", "swish", "tanh", "--beta", "2", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "activations.md").read_text()
    assert re.findall(r"^### (\w+)$", text, re.M) == ["swish", "tanh"]
    # x * sigmoid(2 * x) is half of swish at 2 * x.
    assert "| here | beta = 2 |" in text
    assert "| range | [-0.1392, inf), smallest at x = -0.6392 |" in text
    assert "| largest derivative | 1.0998 at x = 1.1997 |" in text
    drawn = words((tmp_path / page.FOLDER / "swish.svg").read_text())
    assert {"swish", "beta = 2", "1.0998", "-0.1392"} < set(drawn)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["swich"], "name: expected one of sigmoid"),
        (["tanh", "--beta", "2"], "beta: none of tanh has such an option"),
        (["--limit", "0"], "limit: expected a positive number, got 0"),
        (["softplus", "--beta", "0"], "softplus: expected finite values, got others"),
        (["--beta", "wide"], "--beta: invalid float value"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path, capsys):
    try:
        code = main(["gallery", *arguments, "--out", str(tmp_path)])
    except SystemExit as stopped:  # of argparse
        code = stopped.code
    assert code == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_extra_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, draw.__name__)
    monkeypatch.delattr(gallery, "draw")
    assert main(["gallery", "--out", str(tmp_path)]) == 2
    assert "pip install 'fused-acts[gallery]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_figures_need_no_matplotlib():
    code = """if True:
        import sys
        from fused_acts.gallery import entry, page
        assert "### tanh" in page.page(page.galleries(entry.entries(["tanh"])))
        assert "matplotlib" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], cwd=DOCS.parent / "tests", check=True)
