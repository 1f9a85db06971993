"""How a mount begins, lives and ends: what it shows from the start, the loop that answers the
kernel, what is stored at the end, and how a daemon is told to end, and ends for certain.

SIGTERM, SIGINT and SIGQUIT end it: cleanly, with all on the disk; END_LIMIT seconds later the
kernel ends it whatever it is doing, which the store outlives like any kill. SIGHUP means that the
log is to be opened anew, or, for one that stays in the foreground, that its terminal has gone.
"""

import errno
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import pyfuse3
import trio

from cbfs.mount.attributes import Attributes
from cbfs.mount.mount_table import device_of, fuse_source, place_of, unmount
from cbfs.mount.notifier import Notifier
from cbfs.mount.operations import Operations
from cbfs.mount.single_server import SingleServer
from cbfs.mount.view import MountView
from cbfs.storage.faults import harmless
from cbfs.tree.nodes import PROFILE, STATUS, Text
from cbfs.tree.nodes import README as README_INODE
from cbfs.tree.processes import ProcFS
from cbfs.tree.restore import empty_tmp, restore
from cbfs.tree.texts import README, profile_text
from cbfs.tree.times import settle_times, shown
from cbfs_common.errors import CbfsError
from cbfs_common.primitives import Random

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


# the beginning


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


def begin(operations: pyfuse3.Operations, place: MountPlace, source: str) -> None:
    """Mount, so that the kernel asks ``operations``; ``source`` is the option that says what is
    mounted. Raises CbfsError."""
    fuse_options = {source, "subtype=cbfs", "nosuid", "nodev", "noexec"}
    fuse_options |= {"default_permissions"} | place.fuse
    try:
        pyfuse3.init(operations, str(place.mountpoint), fuse_options)
    except RuntimeError as error:
        raise CbfsError(
            f"cannot mount on {place.mountpoint}",
            "is it yours, and may you use /dev/fuse? try with --foreground to see more",
        ) from error


async def _fill(view: MountView) -> None:
    """Put into the tree what is in it from the start: the daemon's texts, and what is stored."""
    tree, backend, started = view.tree, view.tree.backend, view.status.changed_ns
    profile = profile_text(backend.name, backend.profile)
    tree.root.add("status", Text(STATUS, view.status.render, started))
    tree.root.add("README", Text(README_INODE, README.encode, started))
    tree.root.add("profile.toml", Text(PROFILE, profile.encode, started))
    await backend.store.commit(restore(tree))
    tree.config.bring_back()
    await tree.config.settle()
    with backend.store.read() as reader:
        settle_times(reader, shown(tree.root))


# the life


async def serve(
    view: MountView,
    place: MountPlace,
    random: Random,
    nursery: trio.Nursery,
    stop: trio.Event,
    mounted: Callable[[], None],
    ready: Callable[[], None],
) -> None:
    """Mount what ``view`` shows, until it is unmounted or ``stop`` is set. Calls ``mounted`` when
    the kernel has it, and ``ready`` when it answers and shows changes. Its tasks run in
    ``nursery``, which is to be cancelled on return. Raises CbfsError when it cannot be mounted."""
    await _fill(view)
    notifier = Notifier(view.failed)
    operations = Operations(view, notifier, Attributes(view), ProcFS(), place.account)
    begin(operations, place, fuse_source(place.account))
    device = device_of(place.mountpoint)
    mounted()
    loop = KernelLoop(operations.ended)
    try:
        nursery.start_soon(unmount_at, stop, device, operations.ended)
        nursery.start_soon(loop.run)
        view.watchers.revealer = notifier  # what arrives from now on is shown to watchers
        await nursery.start(notifier.run, place.mountpoint)
        nursery.start_soon(view.run)
        await nursery.start(SingleServer(view, place.account, random).run)
        ready()
        await operations.ended.wait()
    finally:
        with trio.CancelScope(shield=True):
            await notifier.close()
            view.watchers.revealer = None
            await loop.end()
            await _keep(view, operations)
        pyfuse3.close(unmount=device_of(place.mountpoint) == device)


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


# the end


async def _keep(view: MountView, operations: Operations) -> None:
    """Store what is in memory only. What the disk does not take is logged; the next mount empties
    tmp/ as well."""
    store = view.tree.backend.store
    with harmless():
        await operations.save_open()
    with harmless():
        await view.search_folders.unread.flush()
    with harmless():
        await store.commit(view.tree.keep_times())
    with harmless():
        await store.commit(empty_tmp(view.tree))


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
