"""The process that makes changes through the mount, for ``cbfs.mount.notifier``.

A program of its own, started by path: it must not hold /dev/fuse. A line of JSON is a list of
[kind, source, target]; for each it makes one system call, in order. It answers with a line of
their errnos, 0 for success.
"""

import errno
import json
import os
import sys


def main() -> None:
    """``notifier_worker.py MOUNTPOINT [DEVICE]``: until its standard input ends. Where the
    mountpoint is not of that device (st_dev), nothing is done; default: of the one that it is
    now."""
    mountpoint = sys.argv[1]
    device = int(sys.argv[2]) if len(sys.argv) > 2 else _device(mountpoint)
    _answer([])
    for line in sys.stdin:
        _answer([_call(mountpoint, device, *words) for words in json.loads(line)])


def _call(mountpoint: str, device: int, kind: str, source: str, target: str) -> int:
    """The errno."""
    try:
        # after an unmount the path is that of a plain directory, where nothing may be made
        if _device(mountpoint) != device:
            return 0
        if kind == "show":
            os.rename(source, target)  # noqa: PTH104
        elif kind == "make":
            os.mkdir(target, 0o700)  # noqa: PTH102
        elif kind == "remove folder":
            os.rmdir(target)  # noqa: PTH106
        else:
            os.unlink(target)  # noqa: PTH108
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
