"""Removing a directory with all that is in it, and nothing that is mounted there.

A recursive removal that comes to a mount removes what is in it: for a mount of ours, every message.
"""

import shutil
from pathlib import Path

from cbfs.mount.mount_table import mounts_below
from cbfs_common.errors import CbfsError


def remove_tree(directory: Path, *, itself: bool = True) -> None:
    """Remove all that is in a directory, and ``itself``. Raises CbfsError, and then nothing was
    removed, when something is mounted in it; or when it cannot be removed."""
    mounts = mounts_below(directory)
    if mounts:
        raise CbfsError(
            f"{directory} is not removed: something is mounted on {mounts[0]}",
            f"unmount it: fusermount3 -u {mounts[0]}; then: rm -r {directory}",
        )
    try:
        for path in () if itself else directory.iterdir():
            shutil.rmtree(path)
        if itself:
            shutil.rmtree(directory)
    except OSError as error:
        raise CbfsError(
            f"cannot remove {directory}: {(error.strerror or '').lower()}", f"rm -r {directory}"
        ) from error
