"""An account at work: opened, its network reached, and its engine going until the block ends."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import trio

from cbfs.account.account import (
    SYSTEM_RANDOM,
    load_account,
    load_next,
    load_own_server,
    no_lock,
    opened_store,
)
from cbfs.account.claim import Marker
from cbfs.account.settings import Configuration
from cbfs.context import (
    Context,
    make_context,
    make_directory,
    milliseconds,
    supervised,
)
from cbfs.engine.engine import Engine
from cbfs.engine.guarded_view import GuardedView
from cbfs.names.directory import Directory
from cbfs.names.own_name import OwnName, is_outlived, read_own
from cbfs.network.access import Network, reaching, unused
from cbfs.network.options import NetworkOptions
from cbfs.network.pacing import PacedDialer
from cbfs.problems import Problems
from cbfs.receiving.copies import TOLD, notice_copy
from cbfs.receiving.lost_state import make_listings, notice_loss
from cbfs.storage.faults import harmless
from cbfs.storage.root_key import Unlock
from cbfs.storage.store import Store
from cbfs_common.errors import CbfsError

LOOK_AFTER = 60.0
"""Seconds from the beginning until the pages of a store are looked at that was believed."""

_log = logging.getLogger(__name__)


@asynccontextmanager
async def running(
    account_directory: Path, options: NetworkOptions, unlock: Unlock = no_lock
) -> AsyncIterator[Engine]:
    """Open the account and keep it going until the block ends. Raises CbfsError."""
    view = GuardedView()
    problems = Problems(view.status_changed)
    with opened_store(account_directory, SYSTEM_RANDOM, unlock, believes=True) as store:
        account = load_account(store)
        with store.read() as reader:
            own = read_own(reader)
        if account is None or own is None:
            raise CbfsError(
                f"the account in {account_directory} is not finished",
                "run cbfs init, or cbfs name recover, again",
            )
        if load_next(store) is not None:
            problems.set(
                "change",
                "a change of your keys or server is not finished (unmount, and run the same"
                " cbfs name command again)",
            )
        marker = Marker(account.transport, SYSTEM_RANDOM)
        if notice_copy(store, account_directory, marker, milliseconds()):
            problems.set("copy", TOLD)
        make_listings(store)
        outlived = is_outlived(own)
        if not outlived:
            notice_loss(store, account.name, milliseconds(), SYSTEM_RANDOM)
        own_server = load_own_server(store)
        async with trio.open_nursery() as committer:
            await committer.start(store.run)
            if not store.is_looked_through:
                committer.start_soon(_look_through, store, problems)
            reached = reaching(
                options,
                account_directory,
                SYSTEM_RANDOM,
                problems.tell,
                own_server=own_server is not None,
                known=own_server,
            )
            async with nullcontext(unused()) if outlived else reached as network:
                configuration = Configuration(store)
                paced = PacedDialer(network.dialer, configuration, SYSTEM_RANDOM)
                directory = make_directory(store, account, paced)
                context = make_context(store, account, configuration, directory, paced, problems)
                name = OwnName(store, directory, account.name, problems.tell)
                async with working(context, network, directory, name, view) as engine:
                    yield engine
            committer.cancel_scope.cancel()


async def _look_through(store: Store, problems: Problems) -> None:
    """Look at the pages of a store that was believed, when the mount has begun."""
    await trio.sleep(LOOK_AFTER)
    with harmless():
        if found := await store.look_through():
            _log.error("the store is damaged: %s", found)
            problems.set(
                "store",
                f"the store is damaged: {found} (unmount; what is intact can be saved:"
                " cbfs export ACCOUNT FILE)",
            )


@asynccontextmanager
async def working(
    context: Context, network: Network, directory: Directory, own: OwnName, view: GuardedView
) -> AsyncIterator[Engine]:
    """The engine of an account that is open, until the block ends. What had ended before it began
    is deleted."""
    async with trio.open_nursery() as nursery:
        engine = Engine(context, network, directory, own, view, nursery)
        await engine.expiry.begin()
        nursery.start_soon(supervised, context, engine.expiry.run)
        yield engine
        nursery.cancel_scope.cancel()
