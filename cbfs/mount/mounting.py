"""What every process that mounts does, whatever it shows: it mounts, is told to end, and unmounts,
and ends for certain.

SIGTERM, SIGINT and SIGQUIT end it: cleanly, with all on the disk; END_LIMIT seconds later the
kernel ends it whatever it is doing, which the store outlives like any kill. SIGHUP means that the
log is to be opened anew, or, for one that stays in the foreground, that its terminal has gone.
"""

import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import pyfuse3
import trio

from cbfs.mount.mount_table import place_of, unmount
from cbfs.storage.faults import harmless
from cbfs_common.errors import CbfsError

END_LIMIT: Final = 9.0
"""Seconds."""

BUSY_LIMIT: Final = 4.0
"""Seconds of them that programs have to close what they hold, wherever they see the mount."""

_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_NOTHING: Final = (signal.SIGUSR1, signal.SIGUSR2)
"""Would end a process that does not know them."""

SIGNALS: Final = (*_ENDING, signal.SIGHUP, *_NOTHING)
"""What is kept back until somebody listens, as by default each of them ends a process."""

_log = logging.getLogger("cbfs")


@dataclass(frozen=True, slots=True)
class MountPlace:
    """Which account (its directory) is mounted where, and the options that FUSE is told besides
    our own."""

    account: Path
    mountpoint: Path
    fuse: frozenset[str]


def begin(
    operations: pyfuse3.Operations, place: MountPlace, source: str, *, alone: bool = False
) -> None:
    """Mount, so that the kernel asks ``operations``; ``source`` is the option that says what is
    mounted. ``alone``: the kernel lets in nobody but the user, and ``operations`` look at the modes
    of files: so it need not, for which it would ask for them with each name of each path. Raises
    CbfsError."""
    fuse_options = {source, "subtype=cbfs", "nosuid", "nodev", "noexec"}
    fuse_options |= place.fuse if alone else {"default_permissions"} | place.fuse
    try:
        pyfuse3.init(operations, str(place.mountpoint), fuse_options)
    except RuntimeError as error:
        raise CbfsError(
            f"cannot mount on {place.mountpoint}",
            "is it yours, and may you use /dev/fuse? try with --foreground to see more",
        ) from error


def stop_event(hang_up: Callable[[], None] | None) -> trio.Event:
    """Is set by the first signal that ends the program, from now on. ``hang_up`` is called at
    SIGHUP; None: it ends the program, too. To be called in trio, in the main thread."""
    token, event = trio.lowlevel.current_trio_token(), trio.Event()

    def soon(function: Callable[[], None]) -> None:
        with suppress(trio.RunFinishedError):  # it has ended
            token.run_sync_soon(function)

    def end(_number: int, _frame: FrameType | None) -> None:
        if not event.is_set() and not signal.getitimer(signal.ITIMER_REAL)[0]:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, END_LIMIT)
        soon(event.set)

    def hung_up(_number: int, _frame: FrameType | None) -> None:
        if hang_up is not None:
            soon(hang_up)

    for number in _ENDING:
        signal.signal(number, end)
    if hang_up is not None:
        signal.signal(signal.SIGHUP, hung_up)
    elif signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else it is to stay: nohup(1)
        signal.signal(signal.SIGHUP, end)
    for number in _NOTHING:
        signal.signal(number, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return event


class KernelLoop:
    """The loop that answers the kernel, which can be ended while somebody still asks."""

    def __init__(self, ended: trio.Event) -> None:
        """``ended`` is set when it has ended, or is to."""
        self._ended = ended
        self._scope = trio.CancelScope()
        self._over: trio.Event | None = None

    async def run(self) -> None:
        """Until the mount has ended."""
        self._over = trio.Event()
        try:
            with self._scope:
                await pyfuse3.main()
        finally:
            self._ended.set()
            self._over.set()

    async def end(self) -> None:
        """Answer nothing more."""
        self._scope.cancel()
        if self._over is not None:
            await self._over.wait()


async def unmount_at(stop: trio.Event, device: int, ended: trio.Event) -> None:
    """When ``stop`` is set, unmount what has this st_dev; ``ended`` is set when that has ended
    the mount, and at the latest after BUSY_LIMIT: files that somebody has open, or a mount
    namespace that has it still, do not keep the daemon."""
    await stop.wait()
    with trio.move_on_after(BUSY_LIMIT):
        with harmless():
            await trio.to_thread.run_sync(_unmount, device, abandon_on_cancel=True)
        await ended.wait()
    ended.set()


def _unmount(device: int) -> None:
    place = place_of(device)
    if place is None:
        return  # it was unmounted here, and lives in another mount namespace
    if not unmount(place, lazy=False):
        _log.warning("files are still open below %s: they are closed", place)
        unmount(place, lazy=True)
