"""Where compiled units lie: a folder for each, which is there whole or not at all."""

import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LIBRARY = "unit.so"
SUM = "unit.so.sha256"  # as sha256sum writes and checks it


def cache_folder() -> Path:
    try:
        if asked := os.environ.get("FUSED_ACTS_CACHE"):
            return Path(asked).expanduser().absolute()
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(base, "fused_acts").absolute()
    except RuntimeError:  # an unknown user
        raise RuntimeError(
            "fused_acts.define keeps what it compiles in the user's home folder, and there is "
            "none: set FUSED_ACTS_CACHE to a folder that can be written"
        ) from None


def find(entry: Path) -> Path | None:
    """The library of an entry of the cache, if it is what was built: a part of one kills who loads
    it."""
    library = entry / LIBRARY
    if not library.is_file():
        return None
    _check_owner(library)
    try:
        is_whole = (entry / SUM).read_bytes() == _sum(library)
    except OSError:
        return None
    return library if is_whole else None


def _sum(library: Path) -> bytes:
    return f"{hashlib.sha256(library.read_bytes()).hexdigest()}  {library.name}\n".encode()


def find_or_build(entry: Path, build: Callable[[Path], None], waiting: Callable[[], None]) -> Path:
    """The library of an entry; build(folder) makes it there if no process has done so yet.

    The folder becomes the entry by its name: what a process that died left behind never counts.
    waiting: called if another process is at it.
    """
    if library := find(entry):
        return library
    with _locked(entry, waiting):
        if library := find(entry):
            return library
        folder = entry.with_name(f"{entry.name}.building")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o755)
        try:
            build(folder)
            _finish(folder)
            shutil.rmtree(entry, ignore_errors=True)
            folder.rename(entry)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return entry / LIBRARY


def _finish(folder: Path) -> None:
    """On disk before the name is, and no one else's to write, whatever the umask."""
    library = folder / LIBRARY
    library.chmod(library.stat().st_mode & ~0o022)
    (folder / SUM).write_bytes(_sum(library))
    for path in (library, folder / SUM):
        with path.open("rb") as file:
            os.fsync(file.fileno())


@contextmanager
def _locked(entry: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """The system opens the lock of a process that dies."""
    try:
        _make_private(entry.parent)
        lock = entry.with_name(f"{entry.name}.lock").open("w")
    except OSError as error:
        raise OSError(
            error.errno,
            f"fused_acts.define keeps what it compiles in {entry.parent}, which cannot be written "
            f"({error.strerror}): set FUSED_ACTS_CACHE to a folder that can",
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_private(folder: Path) -> None:
    for path in reversed([folder, *folder.parents]):
        path.mkdir(mode=0o700, exist_ok=True)  # with parents=True theirs would be the umask's


def _check_owner(library: Path) -> None:
    """Refuses a library that others could have put there: it is run."""
    for path in (library, library.parent, library.parent.parent):
        found = path.stat()
        others = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
        if found.st_uid not in (os.getuid(), 0) or others:
            raise PermissionError(
                f"{path} belongs to another user, or can be written by all: fused_acts.define runs "
                "what lies there. Set FUSED_ACTS_CACHE to a folder of your own"
            )
