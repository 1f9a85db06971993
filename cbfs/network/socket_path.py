"""Where a unix socket of ours is made: the path of one holds no more than 107 bytes."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SOCKET_PATH_MAX: Final = 100
"""Bytes that a path of a socket may have (sun_path of unix(7) holds 107)."""


@contextmanager
def socket_path(directory: Path, name: str) -> Iterator[str]:
    """``name`` in ``directory``, or in a new directory (0700) under the system's temporary one
    where the path would be too long for a socket."""
    path = str(directory.absolute() / name)
    if _fits(path):
        yield path
        return
    room = f"cbfs-{'x' * 8}/{name}"
    places = (tempfile.gettempdir(), "/tmp")  # noqa: S108 - the folder in it is ours alone
    base = next((place for place in places if _fits(f"{place}/{room}")), None)
    with tempfile.TemporaryDirectory(prefix="cbfs-", dir=base) as short:
        yield f"{short}/{name}"


def _fits(path: str) -> bool:
    return len(os.fsencode(path)) <= SOCKET_PATH_MAX
