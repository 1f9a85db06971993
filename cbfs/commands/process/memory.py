"""What can be done so that keys in memory do not reach a disk. What cannot: THREATS.rst.

No core file is written, and no other program of the same user may look into this one. Pages are
kept out of the swap space when the system lets all of them be: Python puts keys into memory
wherever it likes and leaves copies behind, so that to lock some would be to lock none.
"""

import ctypes
import os
import resource
from pathlib import Path

_PR_SET_DUMPABLE = 4
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4

_MADV_DONTNEED = 4
_MAPS_FIELDS = 5

_libc = ctypes.CDLL(None, use_errno=True)


def protect() -> None:
    """No core file, no debugger. Programs call it first of all."""
    if hasattr(_libc, "prctl"):
        _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def may_lock() -> bool:
    """Whether memory may be locked without a limit that would make later requests for it fail."""
    if os.geteuid() == 0:
        return True
    soft, _hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return soft == resource.RLIM_INFINITY


def lock_present() -> bool:
    """Keep what is in memory now out of the swap space. False when the system does not let it.
    To be called in the process that stays, before the store is opened, which maps its file."""
    return may_lock() and _mlockall(_MCL_CURRENT | _MCL_ONFAULT)


def lock_future() -> bool:
    """And what comes from now on. The store's file, opened before, is sealed and is not locked:
    it may be larger than the memory."""
    return may_lock() and _mlockall(_MCL_FUTURE | _MCL_ONFAULT)


def let_go_of(file: Path) -> None:
    """Of a file that is mapped to be read, have no page in this process until it is asked for
    again; the system keeps them as it keeps what was read of any file. Else whatever was looked at
    once would count as this process's memory for as long as it runs."""
    try:
        path = os.path.realpath(file).encode(errors="surrogateescape").replace(b"\n", b"\\012")
        lines = Path("/proc/self/maps").read_bytes().splitlines()
    except OSError:
        return
    for line in lines:  # start-end perms offset device inode path: proc_pid_maps(5)
        place, *_rest, of = line.split(maxsplit=_MAPS_FIELDS)
        if of == path:
            start, end = (int(number, 16) for number in place.split(b"-"))
            where, size = ctypes.c_void_p(start), ctypes.c_size_t(end - start)
            _libc.munlock(where, size)  # a map that has grown is locked as all that is new
            _libc.madvise(where, size, _MADV_DONTNEED)


def _mlockall(flags: int) -> bool:
    return hasattr(_libc, "mlockall") and _libc.mlockall(flags) == 0
