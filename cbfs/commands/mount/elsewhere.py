"""A mount of an account that is on another machine."""

import os
from collections.abc import Callable

import trio

from cbfs.commands.mount.options import MountOptions
from cbfs.commands.process import memory
from cbfs.mount.remote.process import serve
from cbfs_common.errors import CbfsError
from cbfs_common.primitives import Random, kem_encapsulate


async def serve_hub(
    options: MountOptions,
    ready: Callable[[], None],
    _begin_log: Callable[[], None],
    stop: trio.Event,
    mounted: trio.Event,
) -> None:
    """Mount what the hub has, until unmounted or ``stop`` is set. Raises CbfsError."""
    if options.hub is None:
        raise CbfsError("no hub is named", "mount.cbfs ssh://HOST MOUNTPOINT")
    memory.lock_future()  # what is read of the hub, and the key of what is kept of it
    random = Random(os.urandom, kem_encapsulate)
    await serve(options.hub, options.only, options.place, random, ready, stop, mounted)
