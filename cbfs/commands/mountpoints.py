"""What is mounted where a command is pointed at: whose mount it is; why there is none, and what to
name instead; and removing a directory in which nothing may be mounted."""

import errno
import os
import shutil
from pathlib import Path

from cbfs.account.place import ACCOUNT_ATTRIBUTE, check_account, check_way, default_account, waiting
from cbfs.mount.mount_table import (
    SINGLE_SOURCE,
    mount_above,
    mountpoints_of,
    mounts_below,
    source_of,
)
from cbfs_common.errors import CbfsError


def account_of(path: Path) -> Path:
    """The account directory that ``path`` is, or whose mount it is. Raises CbfsError."""
    check_way(path)
    try:
        if (path / "root.key").exists():
            return path
    except OSError:
        check_account(path)  # says whose it is
        raise
    inside = mount_above(path)
    try:
        if inside is not None and inside.samefile(
            path
        ):  # what else has this attribute is no word of ours
            return Path(os.fsdecode(os.getxattr(path, ACCOUNT_ATTRIBUTE)))
    except OSError as error:
        raise CbfsError(
            f"the mount on {path} does not answer: {(error.strerror or '').lower()}",
            "mount it again, which cleans up; or name the account directory",
        ) from error
    raise CbfsError(
        f"{path} is neither a mount nor an account directory",
        f"it is in the mount on {inside}: name that" if inside else "name one of the two",
    )


def no_mount(path: Path, error: OSError | None) -> CbfsError:
    """The error for a file of a whole mount that cannot be read below ``path``, or for a path where
    nothing is mounted."""
    above = mount_above(path)
    if error is not None and error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
        return CbfsError(
            f"the mount on {path} is dead: its daemon has gone",
            f"mount it again, which cleans up: mount.cbfs ACCOUNT {path}",
        )
    if above is not None and source_of(above) == SINGLE_SOURCE:
        return CbfsError(
            f"the mount on {above} shows one conversation only", "name the mount of the account"
        )
    if above is not None and str(above) != os.path.realpath(path):
        return CbfsError(f"{path} is in the mount on {above}", f"name that: {above}")
    if (path / "root.key").exists():
        where = mountpoints_of(path.absolute())
        if where:
            return CbfsError(
                f"{path} is an account directory, which is mounted on {where[0]}",
                f"name that: {where[0]}",
            )
        return CbfsError(
            f"{path} is an account directory, and not mounted{_waiting(path)}",
            f"mount it: mount.cbfs {path} DIR",
        )
    why = f": {(error.strerror or '').lower()}" if error is not None and not path.is_dir() else ""
    return CbfsError(
        f"nothing of cbfs is mounted on {path}{why}{_waiting_by_default()}",
        f"mount it: mount.cbfs ACCOUNT {path}",
    )


def _waiting(account: Path) -> str:
    """What waits in the spool of an account for its mount, in words behind others; empty for
    nothing."""
    count = waiting(account)
    return f"; messages of cbfs sendmail that wait for it: {count}" if count else ""


def _waiting_by_default() -> str:
    """What waits, as ``_waiting`` says it, of the account that is mounted when none is named."""
    try:
        account = default_account()
    except CbfsError:
        return ""
    return "" if mountpoints_of(account) else _waiting(account)


def is_in_a_mount(path: Path) -> bool:
    """Whether ``path`` is where something of ours is mounted, as far as that can be told."""
    return mount_above(path) is not None or not Path("/proc/self/mountinfo").exists()


def remove_tree(directory: Path, *, itself: bool = True) -> None:
    """Remove all that is in a directory, and ``itself``. Raises CbfsError, and then nothing was
    removed, when something is mounted in it: a recursive removal would remove what is in the mount,
    for one of ours every message. Raises CbfsError when something cannot be removed."""
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
