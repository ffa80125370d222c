"""Files written whole or not at all: beside others who write and read, and over nobody else's."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from uuid import uuid4

from poe.core.errors import StorageError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

TEMPORARY = re.compile(r"\..*\.poe-([0-9a-f]{8})-([0-9]+)-([0-9a-f]+)-[0-9a-f]{8}(\.[^.]*)?")
"""Names of files that are being written: host, process and the process's start are in it."""
LONGEST_STEM = 64


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file whole or not at all.

    Args:
        path: The file; what was there is replaced.
        content: All of it.

    Raises:
        StorageError: Where no file can be written there.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "report.json"
    >>> write_bytes(path, b"{}")
    >>> path.read_text(), len(list(path.parent.iterdir()))
    ('{}', 1)
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file to write in place of ``path``, which takes its place once all of it is written.

    Where ``path`` is a symbolic link, what it points to is replaced, and not the link. What
    processes that are gone left unfinished in the folder is removed.

    Args:
        path: The file to write in the end; what was there stays until then.

    Yields:
        A path in the same folder with the same suffix, which the block must write to. Where the
        block raises, nothing is left of it.

    Raises:
        StorageError: Where no file can be written there: a folder, a device, no such folder.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "table.csv"
    >>> with replacing(path) as temporary:
    ...     _ = temporary.write_text("a, b")
    >>> path.read_text(), temporary.exists()
    ('a, b', False)
    """
    path = _followed(path)
    _require_place(path)
    clean_up(path.parent)
    temporary = path.with_name(_temporary_name(path))
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def require_room(path: str | os.PathLike[str]) -> None:
    """See that a file can be written at ``path``, before it takes an hour to have one to write.

    Args:
        path: The file, which need not be there.

    Raises:
        StorageError: Where it is a folder or a device, or its folder is not there or cannot be
            written to.

    Example:
        >>> require_room("/nowhere/run")
        Traceback (most recent call last):
        poe.StorageError: expected a file in a folder that exists at /nowhere/run, found no ...
    """
    real = _followed(path)
    _require_place(real)
    trial = real.with_name(_temporary_name(real))
    try:
        trial.touch()
    except OSError as error:
        raise StorageError(
            f"expected a folder that can be written to for {path}, got {real.parent} "
            f"({error.strerror}): give another path"
        ) from error
    finally:
        _unlink(trial)


def content_of(path: str | os.PathLike[str]) -> bytes:
    """All of a file, which is one: no folder, and no pipe or device that would never end.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        OSError: Where there is none, or it cannot be read.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path} is no regular file")
        return file.read()


@contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Keep out others who ask as well, whichever process or thread they are of.

    Args:
        folder: A folder that is there.

    Yields:
        Whether the others are kept out; False where the system has no such locks.
    """
    if fcntl is None:
        yield False
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield _locked(handle)
    finally:
        os.close(handle)  # which unlocks it, as the end of the process does


def clean_up(folder: Path) -> None:
    """Remove what processes of this machine that are gone left unfinished.

    Args:
        folder: Where to look; what others have there is left alone.
    """
    for entry in os.scandir(folder):
        found = TEMPORARY.fullmatch(entry.name)
        if found and found[1] == _host() and _is_gone(int(found[2]), found[3]):
            _unlink(folder / entry.name)


def _followed(path: str | os.PathLike[str]) -> Path:
    """Where a path leads, links followed."""
    try:
        return Path(os.path.realpath(path))
    except ValueError as error:  # a zero within
        raise StorageError(
            f"expected the path of a file, got {os.fspath(path)!r} ({error}): give another"
        ) from error


def _require_place(path: Path) -> None:
    if not path.parent.is_dir():
        raise StorageError(
            f"expected a file in a folder that exists at {path}, found no folder {path.parent}: "
            "make it first"
        )
    is_loop = path.is_symlink()  # other links have been followed
    if is_loop or (path.exists() and not path.is_file()):
        what = (
            "a link to itself" if is_loop else "a folder" if path.is_dir() else "a device or a pipe"
        )
        raise StorageError(
            f"expected a file in a folder that exists, got {what} at {path}: give another path"
        )


def _temporary_name(path: Path) -> str:
    stem = path.stem.encode(errors="ignore")[:LONGEST_STEM].decode(errors="ignore")
    maker = f"{_host()}-{os.getpid()}-{_began(os.getpid()) or '0'}"
    return f".{stem}.poe-{maker}-{uuid4().hex[:8]}{path.suffix[:LONGEST_STEM]}"


@cache
def _host() -> str:
    """This machine, and the room within it in which process numbers have their meaning."""
    try:
        room = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        room = 0
    return hashlib.sha256(f"{socket.gethostname()} {room}".encode()).hexdigest()[:8]


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return ""


def _began(pid: int) -> str | None:
    """When a process started, which tells it from a later one of its number; None if unknown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    ticks = int(text.rpartition(")")[2].split()[19])
    return f"{_boot()}{ticks:x}"


def _is_gone(pid: int, began: str) -> bool:
    if os.name != "posix":
        return False
    if (now := _began(pid)) is not None:
        return began not in (now, "0")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is another user's
        return False
    return False


def _locked(handle: int) -> bool:
    assert fcntl is not None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:  # a file system without locks
        return False
    return True


def _unlink(path: Path) -> None:
    """Remove what may be gone already, or may be another user's."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def _without_waiting(path: str, flags: int) -> int:
    """A pipe without a writer would keep its reader waiting."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
