"""Whether LMDB's file is as the store has left it, so that it need not be looked through before it
is opened: with very many messages that takes many seconds. It is looked through afterwards then, by
another process, beside the work.

In a note beside the file stands what the file was when it was closed: which inode, how large, when
its bytes and anything else of it were last changed. Whoever has written into it since, or has put
it back from a copy, has left another file than that. The note is taken away when the store is
opened: who is killed leaves none. Only a disk that changes bits by itself is not seen so.
"""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import trio

from cbfs.storage import look_through
from cbfs_host.complaints import StoreError
from cbfs_host.files import sync_directory
from cbfs_host.lmdb_environment import DATA

NOTE = "closed"


def note_closed(path: Path) -> None:
    """The store in a directory was closed. A crash before leaves no note, and one in the middle one
    that says nothing of this file."""
    with suppress(OSError):  # then it is looked through when it is opened
        (path / NOTE).write_bytes(_now(path))


def is_as_closed(path: Path) -> bool:
    """Whether the file of the store in a directory is as it was when it was closed last."""
    try:
        return (path / NOTE).read_bytes() == _now(path)
    except OSError:
        return False


def forget(path: Path) -> None:
    """Have the store in a directory looked through when it is opened next, also after a crash."""
    with suppress(FileNotFoundError):
        (path / NOTE).unlink()
        sync_directory(path)


def _now(path: Path) -> bytes:
    found = (path / DATA).stat()
    numbers = found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    return " ".join(map(str, numbers)).encode() + b"\n"


async def look(path: Path) -> str:
    """Have all pages of an open store looked at. What is wrong with them, else empty. Raises
    StoreError when they could not all be looked at."""
    # -P: nothing is read in from the directory that one happens to be in
    command = [sys.executable, "-P", "-m", look_through.__name__, str(path)]
    done = await trio.run_process(
        command, check=False, stdin=subprocess.DEVNULL, capture_stdout=True, capture_stderr=True
    )
    if done.returncode not in {0, look_through.DAMAGED}:
        raise StoreError(
            f"the store in {path} could not be looked through: status {done.returncode}",
            "it is looked through when it is opened next",
        )
    return done.stdout.decode().strip() if done.returncode else ""
