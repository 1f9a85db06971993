"""Why there is nothing to be had from what should be a mount, and what to name instead."""

import errno
import os
from pathlib import Path

from cbfs.mount.mount_table import WINDOW_SOURCE, mount_above, mountpoints_of, source_of
from cbfs_common.errors import CbfsError


def no_mount(path: Path, error: OSError | None) -> CbfsError:
    """For a file of a whole mount that cannot be read below ``path``, or was none."""
    above = mount_above(path)
    if error is not None and error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
        return CbfsError(
            f"the mount on {path} is dead: its daemon has gone",
            f"mount it again, which cleans up: mount.cbfs ACCOUNT {path}",
        )
    if above is not None and source_of(above) == WINDOW_SOURCE:
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
            f"{path} is an account directory, and not mounted", f"mount it: mount.cbfs {path} DIR"
        )
    why = f": {(error.strerror or '').lower()}" if error is not None and not path.is_dir() else ""
    return CbfsError(
        f"nothing of cbfs is mounted on {path}{why}", f"mount it: mount.cbfs ACCOUNT {path}"
    )


def is_in_a_mount(path: Path) -> bool:
    """Whether ``path`` is where something of ours is mounted, as far as that can be told."""
    return mount_above(path) is not None or not Path("/proc/self/mountinfo").exists()
