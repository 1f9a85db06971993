"""How an account is served at its mountpoint: the engine runs, and the mount shows what it has."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.account.passphrase import unlocking
from cbfs.account.place import LINES
from cbfs.commands.mount.options import MountOptions
from cbfs.commands.mount.spooled import held_spool, take_in
from cbfs.commands.process import memory
from cbfs.engine.running import running
from cbfs.mount import lifecycle
from cbfs.mount.view import MountView
from cbfs.storage.store import Meta, Store, StoreError, Table
from cbfs.tree.processes import ProcFS
from cbfs_host.garbage import look_less_for_cycles
from cbfs_host.lmdb_environment import DATA

INVITED_PERIOD = 2.0
"""Seconds between two looks whether the user has invited somebody."""

LET_GO_PERIOD = 60.0
"""Seconds after which what was looked at of the store is no longer taken for looked at."""


async def serve_account(
    options: MountOptions,
    passphrase: bytes | None,
    ready: Callable[[], None],
    begin_log: Callable[[], None],
    stop: trio.Event,
    mounted: trio.Event,
) -> None:
    """Run the engine, and mount what it has, until unmounted or ``stop`` is set. Raises
    CbfsError. ``passphrase``: what was asked for already, where the account takes one."""

    def has_answered() -> None:
        ready()
        look_less_for_cycles()

    unlock = unlocking(options.passphrase.once if passphrase is None else lambda: passphrase)
    async with (
        running(options.account, options.network, unlock) as engine,
        trio.open_nursery() as nursery,
    ):
        begin_log()  # the account is ours alone from here on
        memory.lock_future()
        nursery.start_soon(_let_go, options.account / "store" / DATA)
        view = MountView(engine, ProcFS(), options.grace, nursery, options.sync_send)
        nursery.start_soon(
            await_invited, options.account, engine.store, engine.people.await_invited
        )
        engine.attach(view)  # at once: what arrives from now on is not in the tree yet
        spool = await held_spool(options.account)

        def is_mounted() -> None:
            if spool is not None:
                spool.release()  # whoever has waited for it finds a mount
            mounted.set()

        if spool is not None:
            await take_in(view.tree, spool, SYSTEM_RANDOM)
        await lifecycle.serve(
            view, options.place, SYSTEM_RANDOM, nursery, stop, is_mounted, has_answered
        )
        nursery.cancel_scope.cancel()


async def await_invited(account: Path, store: Store, wait: Callable[[], Awaitable[None]]) -> None:
    """From when the user has invited somebody, ``wait`` for them, until cancelled. Nothing of
    it is read in before."""
    while True:
        await trio.sleep(INVITED_PERIOD)
        if _has_invited(account, store):
            break
    from cbfs.commands.home.handed import take_lines  # noqa: PLC0415

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_lines, account, store)
        nursery.start_soon(wait)


def _has_invited(account: Path, store: Store) -> bool:
    if (account / LINES).exists():
        return True
    try:
        with store.read() as reader:
            return next(reader.keys(Table.META, Meta.AWAITED), None) is not None
    except StoreError:  # what is damaged is told where it is needed
        return False


async def _let_go(store: Path) -> None:
    """Keep the memory of a mount from growing with what was read of its store."""
    while True:
        await trio.sleep(LET_GO_PERIOD)
        memory.let_go_of(store)
