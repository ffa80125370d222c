"""Files whole or not at all: over nothing else, and nothing left of who was killed."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import poe
from poe.files import atomic
from poe.files.atomic import alone_in, clean_up, content_of, replacing, require_room, write_bytes

OWN = f"{atomic._host()}-{{}}-{{}}-0123abcd"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


KILLED = """
import sys
from pathlib import Path
from poe.files.atomic import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    print("begun", flush=True)
    import time; time.sleep(60)
"""


@pytest.mark.process
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(poe.__file__).parents[1])}
    words = [sys.executable, "-c", KILLED, str(tmp_path / "run.safetensors")]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    [left] = names(tmp_path)
    write_bytes(tmp_path / "other", b"whole")
    assert names(tmp_path) == {left, "other"}, "it is still being written"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert names(tmp_path) == {left, "other"}
    write_bytes(tmp_path / "another", b"whole")
    assert names(tmp_path) == {"other", "another"}


def test_a_process_of_the_same_number_is_told_apart(tmp_path: Path) -> None:
    """Numbers are given again: by its start a process is known."""
    began = atomic._began(os.getpid())
    if began is None:
        pytest.skip("this system does not tell when a process began")
    mine = f".run.poe-{OWN.format(os.getpid(), began)}.safetensors"
    earlier = f".run.poe-{OWN.format(os.getpid(), began[:-1] + 'e' + began[-1])}.safetensors"
    unknown = f".run.poe-{OWN.format(os.getpid(), '0')}.safetensors"
    for name in (mine, earlier, unknown):
        (tmp_path / name).touch()
    clean_up(tmp_path)
    assert names(tmp_path) == {mine, unknown}


def test_what_others_have_is_left_alone(tmp_path: Path) -> None:
    others = {
        ".run.poe-00000000-1-1a-0123abcd.safetensors",  # of another machine
        f".run.poe-{OWN.format(2**22 + 7, '1a')}.old.safetensors",
        f"run.poe-{OWN.format(2**22 + 7, '1a')}.safetensors",
        ".hidden",
        ".run.4f1d0c0ffee.safetensors",
    }
    for name in others:
        (tmp_path / name).touch()
    gone = f".run.poe-{OWN.format(2**22 + 7, '1a')}.safetensors"
    (tmp_path / gone).touch()
    clean_up(tmp_path)
    assert names(tmp_path) == others


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "far" / "file")
    write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "file").read_text() == "new"


def test_a_file_keeps_who_may_read_it(tmp_path: Path) -> None:
    write_bytes(tmp_path / "secret", b"old")
    (tmp_path / "secret").chmod(0o600)
    write_bytes(tmp_path / "secret", b"new")
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "name",
    ["a" * 250, "ä" * 120, "x." + "y" * 240, "no suffix", ".hidden", "no \udcff UTF-8"],
)
def test_any_name_that_a_file_may_have_can_be_written(name: str, tmp_path: Path) -> None:
    require_room(tmp_path / name)
    write_bytes(tmp_path / name, b"content")
    assert names(tmp_path) == {name}


def test_a_place_where_no_file_can_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place in ("", "no/file", "file/inner", "pipe", "loop"):
        with pytest.raises(poe.StorageError, match="expected a"):
            require_room(tmp_path / place)
        with pytest.raises(poe.StorageError, match="expected a"):
            write_bytes(tmp_path / place, b"")
    assert (tmp_path / "file").read_text() == "mine"
    assert names(tmp_path) == {"file", "pipe", "loop"}
    require_room(tmp_path / "new")
    assert names(tmp_path) == {"file", "pipe", "loop"}


def test_only_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero"), tmp_path / "nothing"):
        with pytest.raises(OSError, match=r"regular file|directory"):
            content_of(path)


def test_one_at_a_time(tmp_path: Path) -> None:
    inside: list[int] = []

    def enter() -> None:
        with alone_in(tmp_path) as is_alone:
            assert is_alone
            inside.append(1)
            assert len(inside) == 1
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == []


def test_where_there_are_no_locks_nobody_is_kept_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "fcntl", None)
    with alone_in(tmp_path) as is_alone:
        assert not is_alone


def test_an_error_within_leaves_nothing(tmp_path: Path) -> None:
    def half(path: Path) -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half(tmp_path / "file")
    assert names(tmp_path) == set()
