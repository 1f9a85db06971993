"""The process that makes changes through the mount: see ``cbfs.reveal``.

A program of its own, started by path: it must not hold /dev/fuse. For each line of JSON,
[kind, source, target], it makes one system call and answers with its errno, 0 for success.
"""

import json
import os
import sys


def main() -> None:
    """``reveal_worker.py MOUNTPOINT``: until its standard input ends."""
    mountpoint = sys.argv[1]
    device = os.stat(mountpoint).st_dev  # noqa: PTH116 - few imports: it starts with every mount
    _answer("ready")
    for line in sys.stdin:
        kind, source, target = json.loads(line)
        try:
            # after an unmount the path is that of a plain directory, where nothing may be made
            if os.stat(mountpoint).st_dev == device:  # noqa: PTH116
                _call(kind, source, target)
            _answer("0")
        except OSError as error:
            _answer(str(error.errno))


def _call(kind: str, source: str, target: str) -> None:
    if kind == "show":
        os.rename(source, target)  # noqa: PTH104
    elif kind == "make":
        os.mkdir(target, 0o700)  # noqa: PTH102
    else:
        os.unlink(target)  # noqa: PTH108


def _answer(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
