"""An account that is served to other machines, where nothing is mounted on this one."""

from collections.abc import Callable
from pathlib import Path

import trio

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.commands.mount.serving import await_invited
from cbfs.commands.mount.spooled import held_spool, take_in
from cbfs.commands.process import memory
from cbfs.commands.process.running import run
from cbfs.engine.running import running
from cbfs.mount import lifecycle
from cbfs.mount.mounting import stop_event
from cbfs.mount.view import MountView
from cbfs.network.access import read_in
from cbfs.network.options import NetworkOptions
from cbfs.tree.processes import ProcFS
from cbfs_host.garbage import look_less_for_cycles


def serve_until_unused(
    account: Path,
    network: NetworkOptions,
    ready: Callable[[], None],
    begin_log: Callable[[], None],
) -> None:
    """Run the engine for whoever is connected, until nobody is any more. Raises CbfsError."""
    read_in(network)
    run(_serve, account, network, ready, begin_log)


async def _serve(
    account: Path,
    network: NetworkOptions,
    ready: Callable[[], None],
    begin_log: Callable[[], None],
) -> None:
    stop = stop_event(begin_log)

    def has_answered() -> None:
        ready()
        look_less_for_cycles()

    async with running(account, network) as engine, trio.open_nursery() as nursery:
        begin_log()  # the account is ours alone from here on
        memory.lock_future()
        view = MountView(engine, ProcFS(), None, nursery)
        nursery.start_soon(await_invited, account, engine.store, engine.people.await_invited)
        engine.attach(view)
        spool = await held_spool(account)
        if spool is not None:
            await take_in(view.tree, spool, SYSTEM_RANDOM)
            spool.release()
        await lifecycle.serve_unmounted(view, account, SYSTEM_RANDOM, nursery, stop, has_answered)
        nursery.cancel_scope.cancel()
