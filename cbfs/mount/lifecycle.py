"""How a mount begins, lives and ends: what it shows from the start, the loop that answers the
kernel, and what is stored at the end.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pyfuse3
import trio

from cbfs.mount.attributes import Attributes
from cbfs.mount.mount_table import device_of, fuse_source
from cbfs.mount.mounting import KernelLoop, MountPlace, begin, unmount_at
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

LINGER: Final = 300.0
"""Seconds for which a daemon without a mount waits for the next link: a machine that has lost its
own tries again at least each minute."""

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
            await _keep(view, operations.save_open)
        pyfuse3.close(unmount=device_of(place.mountpoint) == device)


async def serve_unmounted(
    view: MountView,
    account: Path,
    random: Random,
    nursery: trio.Nursery,
    stop: trio.Event,
    ready: Callable[[], None],
) -> None:
    """Serve the account's socket to mounts on other machines, where nothing is mounted on this one,
    until nobody has used it for LINGER, or ``stop`` is set. Calls ``ready`` when it answers. Its
    tasks run in ``nursery``, which is to be cancelled on return."""
    await _fill(view)
    server = SingleServer(view, account, random)
    nursery.start_soon(view.run)
    await nursery.start(server.run)
    ready()
    try:
        while not stop.is_set() and (left := LINGER - server.unused) > 0:
            with trio.move_on_after(left):
                await stop.wait()
    finally:
        with trio.CancelScope(shield=True):
            await _keep(view, _nothing_open)


# the end


async def _nothing_open() -> None:
    """No kernel has anything open."""


async def _keep(view: MountView, save_open: Callable[[], Awaitable[None]]) -> None:
    """Store what is in memory only; ``save_open`` does so for what is open. What the disk does not
    take is logged; the next mount empties tmp/ as well."""
    store = view.tree.backend.store
    with harmless():
        await save_open()
    with harmless():
        await view.search_folders.unread.flush()
    with harmless():
        await store.commit(view.tree.keep_times())
    with harmless():
        await store.commit(empty_tmp(view.tree))
