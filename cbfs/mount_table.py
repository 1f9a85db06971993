"""What is mounted here, and for whom: what mount(8) and we ourselves ask before mounting; and
unmounting."""

import logging
import os
import pwd
import re
import subprocess
from pathlib import Path

from cbfs_common.errors import CbfsError

_log = logging.getLogger("cbfs")

UNMOUNT_TIMEOUT = 10.0

WINDOW_SOURCE = "only"
"""What is mounted when it is one conversation: the table of mounts, which everybody can read, does
not say which."""

_ESCAPED = re.compile(r"\\([0-7]{3})")


def source_of(mountpoint: Path) -> str | None:
    """What cbfs has mounted there: the account's directory. None when it has nothing there."""
    found = _mounted(mountpoint)
    return found[0] if found else None


def device_of(mountpoint: Path) -> int:
    """The st_dev of what cbfs has mounted there, without asking it; 0 when it has nothing there."""
    found = _mounted(mountpoint)
    return found[1] if found else 0


def _mounted(mountpoint: Path) -> tuple[str, int] | None:
    """(source, device) of what is on top there, if it is ours."""
    found = None
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        head, _, tail = line.partition(" - ")
        kind, source = tail.split(" ")[:2]
        _id, _parent, device, _root, place = head.split(" ")[:5]
        if _plain(place) == str(mountpoint):  # the last one is on top
            major, minor = map(int, device.split(":"))
            ours = kind == "fuse.cbfs"
            found = (_plain(source), os.makedev(major, minor)) if ours else None
    return found


def fuse_source(account: Path) -> str:
    """The option that says what is mounted, so that ``mount -a`` knows it again. FUSE takes a
    comma for the end of the option."""
    name = str(account).replace("\\", "\\\\").replace(",", "\\,")
    return f"fsname={name}"


def unmount(mountpoint: Path, *, lazy: bool) -> bool:
    """Whether that went well."""
    done = subprocess.run(
        ["fusermount3", "-uz" if lazy else "-u", str(mountpoint)],
        capture_output=True,
        timeout=UNMOUNT_TIMEOUT,
        check=False,
    )
    return done.returncode == 0


def end(mountpoint: Path) -> None:
    """Unmount; files that somebody has open keep a mount that is busy alive until they close."""
    if not unmount(mountpoint, lazy=False):
        _log.warning("files are still open below %s: it ends when they are closed", mountpoint)
        unmount(mountpoint, lazy=True)


def become(user: str) -> None:
    """Of root: go on as this user, by name or number. Raises CbfsError."""
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError as error:
        raise CbfsError(f"there is no user {user}", "see: getent passwd") from error
    if os.getuid() == entry.pw_uid:
        return
    try:
        os.initgroups(entry.pw_name, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    except PermissionError as error:
        raise CbfsError("only root may mount for somebody else", "leave out uid=") from error
    os.environ |= {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}


def _plain(escaped: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), escaped)
