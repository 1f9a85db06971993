"""The process of a mount of an account that is on another machine. It holds no key of the
account."""

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyfuse3
import trio
from pyfuse3 import FileNameT, InodeT

from cbfs.mount.mount_table import device_of, fuse_source
from cbfs.mount.mounting import KernelLoop, MountPlace, begin, unmount_at
from cbfs.mount.remote.cache import SealedCache
from cbfs.mount.remote.handing import Handing
from cbfs.mount.remote.hub_view import HubView
from cbfs.mount.remote.link import AwayError, HubLink
from cbfs.mount.remote.nodes import RemoteTree, local_stat
from cbfs.mount.remote.operations import RemoteOperations
from cbfs.mount.remote.spool import OutgoingSpool
from cbfs.mount.remote.ssh.address import HubAddress
from cbfs.storage.faults import Tasks
from cbfs_common.primitives import Random

_log = logging.getLogger(__name__)


async def serve(
    address: HubAddress,
    only: str,
    place: MountPlace,
    random: Random,
    ready: Callable[[], None],
    stop: trio.Event,
    mounted: trio.Event,
) -> None:
    """Mount the account at ``address``, or the one conversation ``only`` of it, until it is
    unmounted or ``stop`` is set. ``mounted`` is set when the kernel has it; ``ready`` is called
    when it answers. Raises CbfsError."""
    spool = OutgoingSpool(address.url, only, random)
    try:
        cache = SealedCache(_cache_directory(), random)
        try:
            async with trio.open_nursery() as nursery:
                mount = _HubMount(address, only, spool, cache, nursery, random)
                await mount.serve(place, ready, stop, mounted)
                nursery.cancel_scope.cancel()
        finally:
            cache.close()
    finally:
        spool.close()


def _cache_directory() -> Path:
    """$XDG_CACHE_HOME, or ~/.cache, or /tmp where there is neither."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path.home() / ".cache"
        except RuntimeError:
            return Path("/tmp")  # noqa: S108 - a file without a name
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return Path("/tmp")  # noqa: S108 - likewise
    return base


class _HubMount:
    """The parts of one mount."""

    def __init__(
        self,
        address: HubAddress,
        only: str,
        spool: OutgoingSpool,
        cache: SealedCache,
        nursery: trio.Nursery,
        random: Random,
    ) -> None:
        self._address = address
        self._nursery = nursery
        self._outdated_in, self._outdated = trio.open_memory_channel[tuple[int, bytes]](1 << 20)
        self._link = HubLink(address.command(only), random)
        tree = RemoteTree(local_stat(0o40700))
        tasks = Tasks(nursery, _nobody)
        self._spool = spool
        self._others: list[tuple[Path, int]] = []
        self._view = HubView(tree, self._link, cache, tasks, random, self._outdate, _nobody)
        self._handing = Handing(self._view, spool)

    def _outdate(self, inode: int, name: bytes) -> None:
        with suppress(trio.WouldBlock):  # what the kernel has is old soon
            self._outdated_in.send_nowait((inode, name))

    def _status(self) -> bytes:
        """What is to be said before the hub's own status."""
        count, lines = self._handing.count, []
        if not self._link.is_up:
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._link.lost))
            lines += [
                f"away: the hub, {self._address.host}, cannot be reached since {since}:"
                f" {self._link.why or 'the link has ended'}",
                "What was read before can be read; it is tried again all the time.",
            ]
        if count:
            lines.append(
                f"{count} {'file waits' if count == 1 else 'files wait'} on this machine until the"
                " hub has them"
            )
        for path, why in self._handing.troubles():
            lines.append(f"{path}: {why}")
        if lost := self._spool.unreadable():
            waits = "file that waited" if lost == 1 else "files that waited"
            lines.append(
                f"{lost} {waits} cannot be opened any more, since the key or a part was lost: kept"
                f" as *.unreadable in {self._spool.path}"
            )
        for folder, number in self._others:
            waits = "file waits" if number == 1 else "files wait"
            lines.append(f"{number} {waits} for another account that was here, in {folder}")
        if not self._link.is_up:
            lines += ["", "The hub has said last:"]
        return "".join(f"{line}\n" for line in lines).encode(errors="replace")

    async def serve(
        self,
        place: MountPlace,
        ready: Callable[[], None],
        stop: trio.Event,
        mounted: trio.Event,
    ) -> None:
        """From the first link to the end of the mount."""
        run = self._link.run
        await self._nursery.start(run, self._view.news, self._changed, self._back)
        waiting = await trio.to_thread.run_sync(self._spool.open, self._link.account)
        self._others = await trio.to_thread.run_sync(self._spool.others)
        await self._look_around()
        await self._handing.begin(waiting)
        operations = RemoteOperations(self._view, self._handing, self._status)
        begin(operations, place, fuse_source(Path(self._address.url)))
        device = device_of(place.mountpoint)
        mounted.set()
        ended = trio.Event()
        loop = KernelLoop(ended)
        try:
            self._nursery.start_soon(unmount_at, stop, device, ended)
            self._nursery.start_soon(loop.run)
            await self._nursery.start(self._view.notifier.run, place.mountpoint, device)
            self._nursery.start_soon(self._forget)
            self._nursery.start_soon(self._handing.run)
            self._handing.wake()
            ready()
            await ended.wait()
        finally:
            with trio.CancelScope(shield=True):
                await self._view.notifier.close()
                await loop.end()
            pyfuse3.close(unmount=device_of(place.mountpoint) == device)

    async def _look_around(self) -> None:
        """Know what is at the top, so that it is there while the hub is away."""
        root = self._view.tree.root
        try:
            for folder in (None, b"outbox", b"conversations"):
                node = root if folder is None else root.entries.get(folder)
                if node is not None:
                    await self._view.listing(node)
        except AwayError:
            _log.warning("the hub went away at once")

    def _changed(self) -> None:
        if self._link.is_up:
            self._view.linked()
        status = self._view.tree.root.entries.get(b"status")
        if status is not None:
            status.stale = True
            self._outdate(status.number, b"")

    async def _back(self) -> None:
        """There is a link again."""
        self._handing.again()
        await self._view.tell_seen()
        await self._view.catch_up()

    async def _forget(self) -> None:
        async for outdated in self._outdated:
            await trio.to_thread.run_sync(_forget, *outdated, abandon_on_cancel=True)


def _forget(inode: int, name: bytes) -> None:
    """Let the kernel forget a name in a folder, or without a name what it knows of an inode. In a
    thread: who looks at it may hold it, and be waiting for us."""
    try:
        if name:
            pyfuse3.invalidate_entry(InodeT(inode), FileNameT(name))
        else:
            pyfuse3.invalidate_inode(InodeT(inode))
    except OSError:
        pass  # the kernel may not know it


def _nobody() -> None:
    """Faults are logged, and nobody else is told here."""
