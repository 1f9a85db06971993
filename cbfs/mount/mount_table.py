"""What is mounted here, and for whom: what mount(8) and we ourselves ask before mounting; and
unmounting."""

import errno
import logging
import os
import pwd
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cbfs_common.errors import CbfsError

_log = logging.getLogger("cbfs")

UNMOUNT_TIMEOUT = 10.0

SINGLE_SOURCE = "only"
"""What is mounted when it is a single conversation: the table of mounts, which everybody can read,
does not say which."""

KIND = "fuse.cbfs"

TABLE = Path("/proc/self/mountinfo")

_ESCAPED = re.compile(rb"\\([0-3][0-7]{2})")
_OWNER = re.compile(rb"(?:\A|,)user_id=([0-9]{1,10})(?:,|\Z)")


@dataclass(frozen=True, slots=True)
class _Mount:
    device: int
    """st_dev."""
    place: str
    kind: str
    source: str
    owner: int
    """The user who has mounted it, as FUSE says; -1 for what is none of its."""


def source_of(mountpoint: Path) -> str | None:
    """What cbfs has mounted there: the account's directory. None when it has nothing there."""
    found = _mounted(mountpoint)
    return found.source if found else None


def device_of(mountpoint: Path) -> int:
    """The st_dev of what cbfs has mounted there, without asking it; 0 when it has nothing there."""
    found = _mounted(mountpoint)
    return found.device if found else 0


def place_of(device: int) -> Path | None:
    """Where the mount with this st_dev is now, as its folders may have been renamed; None when it
    is nowhere here, or something else lies over it."""
    mounts = _mounts()
    places = [mount.place for mount in mounts if mount.device == device]
    tops = {mount.place: mount.device for mount in mounts}
    return next((Path(place) for place in reversed(places) if tops[place] == device), None)


def mounts_below(directory: Path) -> list[Path]:
    """All mountpoints in a directory, itself included."""
    above = os.path.realpath(directory)
    return [
        Path(mount.place)
        for mount in _mounts()
        if mount.place == above or mount.place.startswith(above.rstrip("/") + "/")
    ]


def mount_above(path: Path) -> Path | None:
    """The mountpoint of the mount of ours that ``path`` is in; None when it is in none."""
    place = os.path.realpath(path)
    found = None
    for mount in _mounts():
        inside = place == mount.place or place.startswith(mount.place.rstrip("/") + "/")
        if inside and (found is None or len(mount.place) >= len(found.place)):
            found = mount
    return Path(found.place) if found and found.kind == KIND else None


def mountpoints_of(account: Path) -> list[Path]:
    """Where an account is mounted whole."""
    source = str(account)
    return [Path(m.place) for m in _mounts() if m.kind == KIND and m.source == source]


def own_mountpoints_of(account: Path) -> list[Path]:
    """Where an account is mounted whole by the user whose process this is, and nothing lies over
    it. Anybody can mount something that says that it is this account's."""
    mounts, source = _mounts(), str(account)
    tops = {mount.place: mount for mount in mounts}
    return [
        Path(mount.place)
        for mount in mounts
        if (mount.kind, mount.source, mount.owner) == (KIND, source, os.geteuid())
        and tops[mount.place] is mount
    ]


def _mounted(mountpoint: Path) -> _Mount | None:
    """What is on top there, if it is ours."""
    found = None
    for mount in _mounts():
        if mount.place == str(mountpoint):  # the last one is on top
            found = mount
    return found if found and found.kind == KIND else None


def _mounts() -> list[_Mount]:
    """All that is mounted, as far as the system tells."""
    try:
        table = TABLE.read_bytes()
    except OSError:
        return []
    mounts = []
    for line in table.split(b"\n"):
        head, _, tail = line.partition(b" - ")
        if not tail:
            continue
        kind, source, options = tail.split(b" ")[:3]
        found = _OWNER.search(options)
        owner = int(found[1]) if found and kind.startswith(b"fuse") else -1
        _id, _parent, device, _root, place = head.split(b" ")[:5]
        major, minor = map(int, device.split(b":"))
        number = os.makedev(major, minor)
        mounts.append(_Mount(number, _plain(place), os.fsdecode(kind), _plain(source), owner))
    return mounts


def fuse_source(account: Path) -> str:
    """The option that says what is mounted, so that ``mount -a`` knows it again. FUSE takes a
    comma for the end of the option."""
    name = str(account).replace("\\", "\\\\").replace(",", "\\,")
    return FuseOption(f"fsname={name}")


class FuseOption(str):
    """An option whose text is any that a path can have: pyfuse3 takes ASCII for all there is."""

    __slots__ = ()

    def encode(self, _encoding: str = "", _errors: str = "") -> bytes:
        """The option's bytes, as those of a path."""
        return os.fsencode(str(self))


def unmount(mountpoint: Path, *, lazy: bool) -> bool:
    """Whether that went well. fusermount3 wants a table of mounts in /etc; umount(8) does not."""
    commands = [["fusermount3", "-uz" if lazy else "-u", "--", str(mountpoint)]]
    if not Path("/etc/mtab").exists():
        commands.append(["umount", *(("-l",) if lazy else ()), "--", str(mountpoint)])
    return any(_goes_well(command) for command in commands)


def _goes_well(command: list[str]) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, timeout=UNMOUNT_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.warning("%s cannot be used: %s", command[0], type(error).__name__)
        return False
    return done.returncode == 0


def prepare(mountpoint: Path) -> None:
    """Raises CbfsError for a place where nothing can be mounted; cleans up a dead mount."""
    try:
        os.statvfs(mountpoint)  # stat may still be answered by the kernel for a dead mount
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise CbfsError(
                f"cannot mount on {mountpoint}: {(error.strerror or '').lower()}",
                f"make it: mkdir -p {mountpoint}",
            ) from error
        if not unmount(mountpoint, lazy=True):
            raise CbfsError(
                f"the mount on {mountpoint} is dead, and cannot be removed",
                f"see: fusermount3 -uz {mountpoint}",
            ) from error
    if not mountpoint.is_dir():
        raise CbfsError(f"{mountpoint} is not a directory", "name one that is")
    if mountpoint.is_mount():
        raise CbfsError(
            f"something is mounted on {mountpoint} already",
            f"unmount it first: fusermount3 -u {mountpoint}",
        )
    if not Path("/dev/fuse").exists():
        raise CbfsError("there is no /dev/fuse", "load the kernel module: modprobe fuse")


def become(user: str) -> None:
    """Of root: go on as this user, by name or number. Raises CbfsError."""
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, ValueError, OverflowError) as error:
        raise CbfsError(f"there is no user {user}", "see: getent passwd") from error
    if os.getuid() == entry.pw_uid:
        return
    try:
        os.initgroups(entry.pw_name, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    except PermissionError as error:
        raise CbfsError("only root may mount for somebody else", "leave out uid=") from error
    for path in (sys.executable, os.__file__, __file__):  # what is not loaded yet is there, too
        if not os.access(path, os.R_OK):
            raise CbfsError(
                f"{entry.pw_name} may not read {path}",
                "install cbfs, and its Python, where that user can go: not below /root",
            )
    os.environ |= {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}


def _plain(escaped: bytes) -> str:
    return os.fsdecode(_ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), escaped))
