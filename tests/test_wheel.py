"""The source archive and the wheel: what is in them, and that units are compiled from a wheel."""

import os
import sys
import sysconfig
import tarfile
import zipfile

import pytest
from test_build import ROOT, run


def in_tree(*patterns: str) -> set[str]:
    files = (path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file())
    files = (path for path in files if path.suffix not in (".pyc", ".so"))
    return {str(path.relative_to(ROOT)) for path in files if path.name != "_build.json"}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    # setuptools adds what an earlier list of files has, whatever MANIFEST.in says now
    (ROOT / "fused_acts.egg-info/SOURCES.txt").unlink(missing_ok=True)
    build = f"import backend; backend.build_sdist({str(folder)!r})"
    run(sys.executable, "-c", build, cwd=ROOT, env=os.environ | {"PYTHONPATH": "build_backend"})
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """Built from the sdist, as pip does by default: isolated, against the torch of this process."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(sdist.parent, filter="data")
    source = sdist.with_name(sdist.name.removesuffix(".tar.gz"))
    # of an earlier build, which the wheel is to have nothing of
    place = f"build/lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}/fused_acts"
    (source / place).mkdir(parents=True)
    (source / place / "stale.py").touch()
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir"]
    # in little time: slow loops of this processor are enough to see that nothing is missing
    quick = {"FUSED_ACTS_CUDA": "0", "FUSED_ACTS_CPU": "native", "CXXFLAGS": "-O1"}
    run(*pip, folder, source, env=os.environ | quick)
    (path,) = folder.iterdir()
    return path


@pytest.mark.slow
def test_sdist_has_all_that_a_build_and_its_tests_need(sdist):
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    folders = ("fused_acts", "csrc", "build_backend", "tests", "bench", "examples", "torch-ext")
    expected = in_tree(*(f"{folder}/**/*" for folder in folders), "*.py", "*.toml", "*.md")
    assert expected | {"LICENSE", "Makefile"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc", ".o"))]


@pytest.mark.slow
def test_wheel_has_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    assert wheel.name.split("-")[2:4] == ["py3", "none"]
    built = {"fused_acts/libfused_acts.so", "fused_acts/_build.json"}
    folders = ("math", "kernels", "cpu", "cuda", "own")  # what units of one's own are compiled from
    sources = {f"fused_acts/{name}" for name in in_tree(*(f"csrc/{f}/**/*" for f in folders))}
    assert names - built == in_tree("fused_acts/**/*") | sources
    assert built <= names


DEFINE = """
import fused_acts, torch
from fused_acts._definitions import build
assert build.csrc().parent.name == "fused_acts"
cube = fused_acts.define("cube", "pow(x, 3)", g=None, reference=lambda x: x**3)
assert cube(torch.full((2,), 3.0)).tolist() == [27.0, 27.0]
"""


@pytest.mark.slow
def test_units_are_compiled_from_a_wheel_that_cannot_be_written(wheel, tmp_path):
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    run(*pip, site, wheel)
    files = sorted(site.rglob("*"))
    for path in files:
        path.chmod(path.stat().st_mode & ~0o222)
    elsewhere = {"FUSED_ACTS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(site)}
    run(sys.executable, "-c", DEFINE, cwd=tmp_path, env=os.environ | elsewhere)
    assert sorted(site.rglob("*")) == files
    for path in files:
        path.chmod(path.stat().st_mode | 0o200)
