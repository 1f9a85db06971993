"""The process that makes changes through the mount, for ``cbfs.mount.notifier``.

A program of its own, started by path: it must not hold /dev/fuse. A line of JSON is a list of
[kind, source, target]; for each it makes one system call, in order. It answers with a line of
their errnos, 0 for success.

After an unmount the path is that of a plain directory, where nothing may be made or removed: what
is mounted there is looked at when the kernel tells that mounts have changed, and not each time, as
that would be a request to the daemon.
"""

import errno
import json
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def main() -> None:
    """``notifier_worker.py MOUNTPOINT [DEVICE]``: until its standard input ends. Where the
    mountpoint is not of that device (st_dev), nothing is done; default: of the one that it is
    now."""
    place = _Place(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    _answer([])
    for line in sys.stdin:
        _answer([_call(place, *words) for words in json.loads(line)])


_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class _Place:
    """The mountpoint. ``device``: what is to be mounted there, 0: what is now."""

    def __init__(self, mountpoint: str, device: int) -> None:
        self._mountpoint = mountpoint
        self._mounts = select.poll()
        table = os.open("/proc/self/mounts", os.O_RDONLY | os.O_CLOEXEC)  # until the end
        self._mounts.register(table, select.POLLPRI)
        self._device = device or _device(mountpoint)
        self._is_there: bool | None = None

    def is_there(self) -> bool:
        """Whether it is mounted. Raises OSError."""
        if self._mounts.poll(0):
            self._is_there = None
        if self._is_there is None:
            self._is_there = _device(self._mountpoint) == self._device
        return self._is_there

    @contextmanager
    def folder_of(self, path: str) -> Iterator[int]:
        """A descriptor of the folder that something below the mountpoint is in. No symbolic link is
        followed on the way: what is mounted may say of anything that it is one. Raises OSError."""
        inside = os.path.relpath(os.path.dirname(path), self._mountpoint)  # noqa: PTH120
        here = os.open(self._mountpoint, _FOLDER)
        try:
            for name in inside.split("/"):
                below = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=here)
                os.close(here)
                here = below
            yield here
        finally:
            os.close(here)


def _call(place: _Place, kind: str, source: str, target: str) -> int:
    """The errno."""
    try:
        if not place.is_there():
            return 0
        with place.folder_of(target) as folder:
            name = os.path.basename(target)  # noqa: PTH119
            if kind == "show":
                staged = os.path.basename(source)  # noqa: PTH119
                os.rename(staged, name, src_dir_fd=folder, dst_dir_fd=folder)
            elif kind == "make":
                os.mkdir(name, 0o700, dir_fd=folder)
            elif kind == "remove folder":
                os.rmdir(name, dir_fd=folder)
            else:
                os.unlink(name, dir_fd=folder)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _device(mountpoint: str) -> int:
    """0 where nothing is."""
    try:
        return os.stat(mountpoint).st_dev  # noqa: PTH116 - few imports: it starts with every mount
    except FileNotFoundError:
        return 0


def _answer(numbers: list[int]) -> None:
    sys.stdout.write(json.dumps(numbers) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
