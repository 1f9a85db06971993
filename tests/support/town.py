"""alice, bob, their message servers and a directory that does what the test says, over real
sockets: two engines in the test's own process."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import trio

from cbfs.account.account import SYSTEM_RANDOM, Account, load_account, make_account, opened_store
from cbfs.commands.init import make
from cbfs.commands.owner.name_owner import Owner
from cbfs.contacts.contact import Contact
from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs_common.names.changes import HistoryLink
from cbfs_common.names.operations import Operation, OperationKind
from cbfs_common.primitives import sign_public
from cbfs_common.profile import parse_address
from tests.engine.test_engine import NO_TOR, until
from tests.engine.test_healing import texts, write
from tests.support.names_liar import Liar
from tests.support.names_naive import (
    DIRECTORY,
    make_policy,
)
from tests.support.names_server import answering
from tests.support.world import make_easy


class Town:
    """alice, bob and the directory between them. Each has a line to it of their own, so that it
    is known who asks for what."""

    def __init__(self, place: Path, server: str) -> None:
        self.place = place
        self.server = server
        self.liar = Liar()
        self.asked: dict[str, list[object]] = {"alice": [], "bob": []}

    def account(self, name: str) -> Path:
        return self.place / name

    def owner(self, name: str) -> Owner:
        return Owner(self.account(name), NO_TOR, lambda text: None)

    async def do(self, work: Callable[[], object]) -> None:
        """Something that runs a loop of its own, as the commands do."""
        await trio.to_thread.run_sync(work)

    def asked_for(self, who: str, name: str) -> bool:
        return any(getattr(request, "name", "") == name for request in self.asked[who])


def in_town(
    place: Path, server: str, body: Callable[[Town], Awaitable[None]], *, strangers: bool = True
) -> None:
    """``strangers``: who writes first is a contact at once."""
    town = Town(place, server)

    async def go() -> None:
        async with trio.open_nursery() as nursery:
            for name in town.asked:
                policy = await nursery.start(line, name)
                await town.do(
                    lambda name=name, policy=policy: make(  # type: ignore[misc]
                        name, town.account(name), server, policy, NO_TOR, lambda text: None
                    )
                )
                settle = partial(make_easy, town.account(name), open_=strangers)
                await town.do(settle)
            await body(town)
            nursery.cancel_scope.cancel()

    async def line(name: str, *, task_status: trio.TaskStatus[Path]) -> None:
        def answer(request: object) -> object:
            town.asked[name].append(request)
            return town.liar.answer(request)  # type: ignore[arg-type]

        async with answering(answer) as address:  # type: ignore[arg-type]
            policy = place / f"{name}-policy"
            policy.write_text(make_policy(address).encode())
            task_status.started(policy)
            await trio.sleep_forever()

    trio.run(go)


async def talk(town: Town, words: str) -> None:
    """Each writes to the other, and reads it."""
    async with (
        running(town.account("alice"), NO_TOR) as alice,
        running(town.account("bob"), NO_TOR) as bob,
    ):
        for engine, other in ((alice, "bob"), (bob, "alice")):
            await write(engine, other, f"{words} of {engine.name}")
        for engine, other in ((alice, "bob"), (bob, "alice")):
            await arrived(engine, f"{words} of {other}")
        await until(lambda: not alice.report().queue, "alice's queue to be empty")
        await until(lambda: not bob.report().queue, "bob's queue to be empty")


async def arrived(engine: Engine, text: str) -> None:
    await until(lambda: text in texts(engine), f"{text!r} at {engine.name}")


def contact(engine: Engine, name: str) -> Contact:
    found = engine.people.contact(name)
    assert found is not None
    return found


def load(town: Town, name: str) -> Account:
    with opened_store(town.account(name), SYSTEM_RANDOM) as store:
        account = load_account(store)
    assert account is not None
    return account


def load_running(town: Town, engine: Engine) -> bytes:
    """The owner's seed of an account that is in use."""
    account = load_account(engine.store)
    assert account is not None
    assert sign_public(account.owner) in town.liar.entries[account.name].owners.keys
    return account.owner


def stolen(town: Town, seed: bytes, **changes: object) -> None:
    """A change of bob's entry, signed with ``seed``."""
    old = town.liar.entries["bob"]
    mallory = make_account("bob", parse_address(town.server), "", SYSTEM_RANDOM).profile.encode()
    operation = Operation(
        OperationKind.UPDATE, DIRECTORY, "bob", old.incarnation, old.version + 1, old.digest(),
        len(town.liar.rounds) + 9, profile=mallory,
    ).signed((seed,))  # fmt: skip
    entry = replace(
        old,
        version=old.version + 1,
        round=len(town.liar.rounds),
        previous=old.digest(),
        profile=operation.profile,
    )
    link = HistoryLink(len(town.liar.rounds), int(time.time()), operation.encode())
    town.liar.links.setdefault("bob", []).append(link)
    town.liar.put(replace(entry, **changes))  # type: ignore[arg-type]  # fields by name
