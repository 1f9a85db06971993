"""What can be done so that keys in memory do not reach a disk. What cannot: THREATS.rst.

No core file is written, and no other program of the same user may look into this one. Pages are
kept out of the swap space when the system lets all of them be: Python puts keys into memory
wherever it likes and leaves copies behind, so that to lock some would be to lock none.
"""

import ctypes
import gc
import os
import resource

_PR_SET_DUMPABLE = 4
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4

GARBAGE_OBJECTS = 20_000
"""Objects more than before until cycles are looked for."""

_libc = ctypes.CDLL(None, use_errno=True)


def protect() -> None:
    """No core file, no debugger. Programs call it first of all."""
    if hasattr(_libc, "prctl"):
        _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def look_less_for_cycles() -> None:
    """Listings make very many objects, and what holds them is no cycle: looking for cycles among
    them as often as Python does by itself takes a quarter of the time. To be called when what
    stays for good is there, which is not looked at any more."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)


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


def _mlockall(flags: int) -> bool:
    return hasattr(_libc, "mlockall") and _libc.mlockall(flags) == 0
