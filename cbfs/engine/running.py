"""An account at work: opened, its network reached, and its engine going until the block ends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
from cbfs.account.settings import Configuration
from cbfs.context import (
    Context,
    make_context,
    make_directory,
    milliseconds,
    supervised,
)
from cbfs.engine.engine import Engine, GuardedView
from cbfs.messages.lost_state import make_listings, notice_copy, notice_loss
from cbfs.names.directory import Directory
from cbfs.names.own_name import OwnName
from cbfs.network.access import Network, NetworkOptions, reaching
from cbfs.network.pacing import PacedDialer
from cbfs.problems import Problems
from cbfs.storage.root_key import Unlock
from cbfs.storage.store import Meta, Table
from cbfs_common.errors import CbfsError


@asynccontextmanager
async def running(
    account_directory: Path, options: NetworkOptions, unlock: Unlock = no_lock
) -> AsyncIterator[Engine]:
    """Open the account and keep it going until the block ends. Raises CbfsError."""
    view = GuardedView()
    problems = Problems(view.status_changed)
    with opened_store(account_directory, SYSTEM_RANDOM, unlock) as store:
        account = load_account(store)
        with store.read() as reader:
            finished = reader.get(Table.META, Meta.OWN) is not None
        if account is None or not finished:
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
        if notice_copy(store, account_directory):
            problems.set(
                "copy",
                "this is a copy of an account: its sessions begin anew (use one of the two only)",
            )
        make_listings(store)
        notice_loss(store, account.name, milliseconds(), SYSTEM_RANDOM)
        own_server = load_own_server(store)
        async with trio.open_nursery() as committer:
            await committer.start(store.run)
            async with (
                reaching(
                    options,
                    account_directory,
                    SYSTEM_RANDOM,
                    problems.tell,
                    own_server=own_server is not None,
                    known=own_server,
                ) as network,
            ):
                configuration = Configuration(store)
                paced = PacedDialer(network.dialer, configuration, SYSTEM_RANDOM)
                directory = make_directory(store, account, paced)
                context = make_context(store, account, configuration, directory, paced, problems)
                own = OwnName(store, directory, account.name, problems.tell)
                async with working(context, network, directory, own, view) as engine:
                    yield engine
            committer.cancel_scope.cancel()


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
