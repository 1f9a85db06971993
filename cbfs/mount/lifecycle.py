"""How a mount begins, lives and ends: what it shows from the start, the loop that answers the
kernel, and what is stored at the end.
"""

from collections.abc import Callable

import pyfuse3
import trio

from cbfs.mount.attributes import Attributes
from cbfs.mount.mount_table import device_of, fuse_source
from cbfs.mount.mounting import MountPlace, begin, unmount_at
from cbfs.mount.notifier import Notifier
from cbfs.mount.operations import Operations
from cbfs.mount.single.server import SingleServer
from cbfs.mount.view import MountView
from cbfs.storage.faults import harmless
from cbfs.tree.nodes import PROFILE, STATUS, Text
from cbfs.tree.nodes import README as README_INODE
from cbfs.tree.processes import ProcFS
from cbfs.tree.restore import empty_tmp, restore
from cbfs.tree.texts import README, profile_text
from cbfs.tree.times import settle_times, shown
from cbfs_common.primitives import Random

# the beginning


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
    alone = not place.fuse  # else others may be let in
    attributes = Attributes(view)
    operations = Operations(view, notifier, attributes, ProcFS(), place.account, alone=alone)
    begin(operations, place, fuse_source(place.account), alone=alone)
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
