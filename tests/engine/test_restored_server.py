"""A message server that was put back from a backup, and the people whose mail it has: everything
arrives, and once."""

from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from cbfs.account import settings
from cbfs.account.account import SYSTEM_RANDOM, load_account, opened_store
from cbfs.account.settings import Reactions, Settings, Strangers, encode
from cbfs.engine.engine import Engine
from cbfs.engine.running import running
from cbfs.storage.store import Meta, Table
from cbfs_host.admin import Asked
from cbfs_host.admin_command import ask
from cbfs_host.store_copies import back_up
from tests.engine.test_engine import NO_TOR, until
from tests.engine.test_healing import texts, write
from tests.support.world import World, wait_for


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


def all_texts(engine: Engine) -> list[str]:
    """What all its conversations say."""
    return [text for subject in ("bob", "carol", "dave") for text in texts(engine, subject)]


def test_all_that_was_written_arrives_once(here: World) -> None:
    """What had come before the backup, what came and was fetched after it, and what was lost; and
    what is for somebody whose account was made after it."""
    places = {name: here.account(name).account for name in ("alice", "bob", "carol")}
    data, backup = here.place / "server", here.place / "backup"

    @asynccontextmanager
    async def at_work(*names: str):  # type: ignore[no-untyped-def]
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(running(places[n], NO_TOR)) for n in names]

    async def has(engine: Engine, *wanted: str) -> None:
        await until(lambda: set(wanted) <= set(all_texts(engine)), f"{wanted} at {engine.name}")

    async def idle(*engines: Engine) -> None:
        for engine in engines:
            await until(lambda e=engine: not e.report().queue, f"{engine.name}'s queue")

    async def before() -> None:
        async with at_work("alice", "bob", "carol") as (alice, bob, carol):
            await write(alice, "bob", "first to bob", "bob")
            await write(alice, "carol", "first to carol", "carol")
            await has(bob, "first to bob")
            await has(carol, "first to carol")
            await write(bob, "alice", "answer of bob", "bob")
            await write(carol, "alice", "answer of carol", "carol")
            await has(alice, "answer of bob", "answer of carol")
            await idle(alice, bob, carol)
        async with at_work("alice") as (alice,):
            await write(alice, "carol", "in the backup", "carol")
            await idle(alice)

    async def meanwhile() -> None:
        async with at_work("alice", "carol") as (alice, carol):
            await has(carol, "in the backup")
            await write(carol, "alice", "fetched and deleted", "carol")
            await has(alice, "fetched and deleted")
            await write(alice, "bob", "lost with the server", "bob")
            await write(alice, "dave", "to an account that is lost", "dave")
            await idle(alice, carol)

    async def after() -> None:
        async with at_work("alice", "bob", "carol", "dave") as (alice, bob, carol, dave):
            await write(alice, "bob", "after it", "bob")
            await has(bob, "after it")
            await write(bob, "alice", "bob again", "bob")
            await write(carol, "alice", "carol again", "carol")
            await has(alice, "bob again", "carol again")
            await has(bob, "lost with the server")
            await write(alice, "dave", "to one that is there again", "dave")
            await has(dave, "to one that is there again", "to an account that is lost")
            await idle(alice, bob, carol, dave)
            for engine in alice, bob, carol, dave:
                doubled = {text: n for text, n in Counter(all_texts(engine)).items() if n > 1}
                assert not doubled, engine.name

    trio.run(before)
    back_up(data, backup)
    places["dave"] = here.account("dave").account
    trio.run(meanwhile)
    assert here.server.end() == 0
    (data / "store" / "data.mdb").write_bytes(backup.read_bytes())
    here.server.start()
    wait_for(lambda: "the store is a copy" in here.server.log(), "the server to say so")
    assert dict(ask(data, Asked("status")))["accounts"] == 3
    trio.run(after)


@pytest.mark.parametrize("pace", [0.0, 1.0])
def test_an_account_that_the_server_has_no_more_is_made_anew(
    here: World, pace: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its owner's client, connected or with a pace; and prekeys come with it."""
    monkeypatch.setattr(settings, "PACE_MIN", 1)
    places = {name: here.account(name).account for name in ("alice", "bob")}
    chosen = Settings(strangers=Strangers.ACCEPT, reactions=Reactions.PROMPT, pace=pace)
    with opened_store(places["bob"], SYSTEM_RANDOM) as store:
        store.write(lambda writer: writer.put(Table.META, Meta.SETTINGS, encode(chosen)))
        account = load_account(store)
    assert account is not None
    user = account.profile.user_id.hex()
    data = here.place / "server"
    ask(data, Asked("remove", (user,)))

    async def main() -> None:
        async with (
            running(places["alice"], NO_TOR) as alice,
            running(places["bob"], NO_TOR) as bob,
        ):
            await write(alice, "bob", "are you there", "bob")
            await until(lambda: "are you there" in all_texts(bob), "the message")

    trio.run(main)
    assert dict(ask(data, Asked("status")))["accounts"] == 2
