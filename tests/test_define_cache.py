"""Where compiled units lie, with builds that compile nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from define_cases import slow_build

from fused_acts._definitions import cache

TESTS = Path(__file__).parent


def in_process(*arguments):
    code = f"import define_cases; define_cases.slow_build(*{arguments!r})"
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=TESTS, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_of_several_processes_one_builds(tmp_path):
    entry, log = tmp_path / "entry", tmp_path / "log"
    running = [in_process(str(entry), str(log), 1.0) for _ in range(3)]
    said = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    assert log.read_text() == "build\n"


def test_a_killed_build_leaves_nothing(tmp_path):
    entry, log = tmp_path / "entry", tmp_path / "log"
    killed = in_process(str(entry), str(log), 0.0, True)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert cache.find(entry) is None
    slow_build(str(entry), str(log), 0.0)
    assert log.read_text() == "build\nbuild\n"
    assert not [*tmp_path.glob("*.building")]


@pytest.mark.parametrize("name", [cache.LIBRARY, cache.SUM])
@pytest.mark.parametrize("size", [None, 0, 3])
def test_a_part_of_a_library_is_built_again(tmp_path, name, size):
    entry, log = tmp_path / "entry", tmp_path / "log"
    slow_build(str(entry), str(log), 0.0)
    if size is None:
        (entry / name).unlink()
    else:
        os.truncate(entry / name, size)
    assert cache.find(entry) is None
    slow_build(str(entry), str(log), 0.0)
    assert log.read_text() == "build\nbuild\n"


def test_the_umask_does_not_matter(tmp_path):
    before = os.umask(0)
    try:
        slow_build(str(tmp_path / "home/cache/entry"), str(tmp_path / "log"), 0.0)
    finally:
        os.umask(before)
    assert cache.find(tmp_path / "home/cache/entry")
    assert not (tmp_path / "home").stat().st_mode & 0o022


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def fail(folder):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.find_or_build(tmp_path / "entry", fail, lambda: None)
    assert [path.name for path in tmp_path.iterdir()] == ["entry.lock"]


def test_a_library_that_others_can_change_is_not_run(tmp_path):
    slow_build(str(tmp_path / "entry"), str(tmp_path / "log"), 0.0)
    assert cache.find(tmp_path / "entry")
    (tmp_path / "entry").chmod(0o777)
    with pytest.raises(PermissionError, match=r"Set FUSED_ACTS_CACHE to a folder of your own"):
        cache.find(tmp_path / "entry")


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("FUSED_ACTS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "fused_acts"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache/fused_acts"
    monkeypatch.setenv("FUSED_ACTS_CACHE", "~/units")
    assert cache.cache_folder() == tmp_path / "units"
    monkeypatch.delenv("FUSED_ACTS_CACHE")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    with pytest.raises(RuntimeError, match="set FUSED_ACTS_CACHE to a folder"):
        cache.cache_folder()


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"set FUSED_ACTS_CACHE to a folder that can"):
        cache.find_or_build(tmp_path / "file/cache/entry", lambda folder: None, lambda: None)
