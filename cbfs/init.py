"""``cbfs init``: keys, account, prekeys, name. Cut off at any point, the same command goes on
where it stopped, with the same keys."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import trio

from cbfs.account import SYSTEM_RANDOM, Account, load_account, make_account, opened_store
from cbfs.account import save_account as save
from cbfs.context import Backoff, Problems
from cbfs.dial import Dialer, DialError
from cbfs.directory import Directory, DirectoryDown, NameTaken
from cbfs.engine import make_context, make_directory
from cbfs.home import sign_up, top_up
from cbfs.link import open_link
from cbfs.network import Network, NetworkOptions, reaching, run
from cbfs.own_name import write_own
from cbfs.store import Store, Table
from cbfs.user_names import typed_name
from cbfs_common.errors import CbfsError, TransportError
from cbfs_common.names_client import Found
from cbfs_common.names_policy import parse_policy
from cbfs_common.profile import Address, parse_address

T = TypeVar("T")

POLICY_FILE_MAX = 1 << 16

BOOTSTRAP_TIMEOUT = 300.0
"""Seconds that Tor has to connect."""

TRIES = 4
"""Times that it is gone on through Tor, where a connection that fails is nothing unusual."""


def make(
    name: str,
    directory: Path,
    server_url: str,
    policy_file: Path,
    options: NetworkOptions,
    say: Callable[[str], None],
) -> str:
    """Make the account ``name`` in ``directory``; the name as the directory has it. Raises
    CbfsError, and then a name that is taken or an address that is wrong has left no account
    behind."""
    name = typed_name(name)
    server = parse_address(server_url)
    policy = _read_policy(policy_file)
    fresh = not directory.exists()
    try:
        with opened_store(directory, SYSTEM_RANDOM, create=True) as store:
            account = _account(store, directory, name, server, policy)

            async def steps(dialer: Dialer) -> None:
                await _steps(store, account, dialer, say)

            run(online, store, directory, options, say, steps)
    except NameTaken:
        if fresh:
            _remove(directory)
        raise
    return name


def _read_policy(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(POLICY_FILE_MAX)
    except (OSError, UnicodeDecodeError) as error:
        raise CbfsError(
            f"cannot read the policy file {path}", "cbfs-names writes it: DIR/policy"
        ) from error
    parse_policy(text)
    return text


def _account(store: Store, directory: Path, name: str, server: Address, policy: str) -> Account:
    """The account that was begun here, or a new one. Raises CbfsError for another's."""
    account = load_account(store)
    if account is None:
        account = make_account(name, server, policy, SYSTEM_RANDOM)
        save(store, account)
        return account
    with store.read() as reader:
        finished = reader.get(Table.META, b"own") is not None
    if finished or (account.name, account.server, account.policy) != (name, server, policy):
        raise CbfsError(
            f"{directory} holds the account of {account.name} already",
            "choose another directory with --account",
        )
    return account


@dataclass(slots=True)
class _Progress:
    """Says how far Tor is, each word once."""

    say: Callable[[str], None]
    network: Network | None = None
    said: str = ""

    def tell(self) -> None:
        line = self.network.lines()[0] if self.network else ""
        if line != self.said:
            self.said = line
            self.say(line)


async def online(
    store: Store,
    place: Path,
    options: NetworkOptions,
    say: Callable[[str], None],
    steps: Callable[[Dialer], Awaitable[T]],
) -> T:
    """Run the store and the way to servers, and all steps, each as often as it takes: done again,
    each goes on where it was cut off."""
    async with trio.open_nursery() as committer:
        await committer.start(store.run)
        progress = _Progress(say)
        async with reaching(options, place, SYSTEM_RANDOM, progress.tell) as network:
            progress.network = network
            if network.tor is not None:
                with trio.move_on_after(BOOTSTRAP_TIMEOUT) as waiting:
                    await network.tor.wait_up()
                if waiting.cancelled_caught:
                    report = network.tor.report()
                    raise CbfsError(report.state, report.hint)
            done = await _persist(network, say, steps)
        committer.cancel_scope.cancel()
    return done


async def _persist(
    network: Network, say: Callable[[str], None], steps: Callable[[Dialer], Awaitable[T]]
) -> T:
    backoff = Backoff(SYSTEM_RANDOM)
    for tries_left in reversed(range(TRIES if network.tor else 1)):
        try:
            return await steps(network.dialer)
        except (DialError, TransportError, DirectoryDown) as error:
            if not tries_left:
                raise
            say(f"{error}; trying again")
        await trio.sleep(backoff.next())
    raise RuntimeError("no tries")


async def _steps(
    store: Store, account: Account, dialer: Dialer, say: Callable[[str], None]
) -> None:
    directory = make_directory(store, account, dialer)
    await _check_free(directory, account)
    say(f"making an account at {account.server.host}:{account.server.port}")
    context = make_context(store, account, directory, dialer, Problems(lambda: None))
    async with open_link(
        dialer, account.server, account.transport, b"home:", SYSTEM_RANDOM
    ) as link:
        await sign_up(link)
        say("making prekeys")
        await top_up(link, context)
    say(f"registering {account.name}")
    found = await directory.register(account.name, account.profile.encode(), account.owner)
    # the last step: with the bundle in place the account is finished
    await store.commit(lambda writer: write_own(writer, found))


async def _check_free(directory: Directory, account: Account) -> None:
    """Raises NameTaken before anything has been made for a name that somebody has."""
    try:
        found = await directory.lookup(account.name)
    except DirectoryDown as error:
        raise DirectoryDown(
            str(error), "is cbfs-names running where the policy file says?"
        ) from error
    if isinstance(found, Found) and found.entry.profile != account.profile.encode():
        raise NameTaken


def _remove(directory: Path) -> None:
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
    directory.rmdir()
