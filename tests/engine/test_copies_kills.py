"""A client is killed before and after every commit, and every request, of what it does about the
mark at its home server: a backup that was put back is noticed all the same, once, and nothing else
is."""

import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import trio

import cbfs.receiving.copies
from cbfs.account.account import SYSTEM_RANDOM, load_account, opened_store
from cbfs.account.claim import Marker, open_mark, read_standing
from cbfs.account.settings import Configuration
from cbfs.context import Events, make_context, make_directory, milliseconds
from cbfs.network.dial import HOME, LoopbackDialer
from cbfs.network.link import open_link
from cbfs.network.pacing import PacedDialer
from cbfs.problems import Problems
from cbfs.receiving.copies import TOLD, Copies, notice_copy
from cbfs.storage.store import Store, Table
from cbfs_common.session.prekey import PrekeyKind, make_prekey
from tests.engine.test_copies_at_work import mark_of, of, put_mark
from tests.engine.test_engine import account
from tests.support.copied import settle_in
from tests.support.killing import Kill, KillingEnv, every_point
from tests.support.world import World


async def at_work(store: Store) -> bool:
    """What a client does about its mark, on one connection. Whether it begins anew."""
    owner = load_account(store)
    assert owner is not None
    problems, dialer = Problems(lambda: None), LoopbackDialer()
    configuration = Configuration(store)
    paced = PacedDialer(dialer, configuration, SYSTEM_RANDOM)
    directory = make_directory(store, owner, dialer)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        context = make_context(store, owner, configuration, directory, paced, problems)
        events = cast(Events, SimpleNamespace(notes_due=lambda dues: None))
        copies = Copies(context, events, lambda: None)
        async with open_link(dialer, owner.server, owner.transport, HOME, SYSTEM_RANDOM) as link:
            await copies.swap(link)
        assert not copies.stopped
        nursery.cancel_scope.cancel()
    return TOLD in problems.lines()


def start(place: Path, number: int = 0) -> bool:
    """From the opening of the account on; killed at that point, if not 0."""
    with opened_store(place, SYSTEM_RANDOM) as store:
        owner = load_account(store)
        assert owner is not None
        if number:
            kill = Kill(number)
            store._env = KillingEnv(store._env, kill)
            vars(cbfs.receiving.copies)["request"] = killing(kill)
        marker = Marker(owner.transport, SYSTEM_RANDOM)
        assert not notice_copy(store, place, marker, milliseconds())
        return trio.run(at_work, store)


def killing(kill: Kill) -> object:
    """``request``, with a point before it and one after it."""
    asked = vars(cbfs.receiving.copies)["request"]

    async def request(link: object, what: object) -> object:
        kill.point()
        reply: object = await asked(link, what)
        kill.point()
        return reply

    return request


def child(template: Path, directory: Path, number: int) -> int:
    """At a copy of its own."""
    place = directory / "account"
    shutil.copytree(template, place)
    settle_in(place)
    start(place, number)
    return 0


def keep(place: Path) -> None:
    """Something secret, which is not to be used when this is a copy."""
    pair = make_prekey(SYSTEM_RANDOM, PrekeyKind.ONE_TIME, milliseconds() // 1_000 + 1_000)
    with opened_store(place, SYSTEM_RANDOM) as store:
        store.write(lambda writer: writer.put(Table.PREKEYS, pair.id, pair.encode()))


def has_old(place: Path) -> bool:
    with opened_store(place, SYSTEM_RANDOM) as store, store.read() as reader:
        return reader.count(Table.PREKEYS) > 0


def counter(place: Path) -> int:
    with opened_store(place, SYSTEM_RANDOM) as store, store.read() as reader:
        standing = read_standing(reader)
    return standing.counter if standing else 0


@pytest.mark.slow
@pytest.mark.parametrize("is_back", [True, False], ids=["put back", "going on"])
def test_a_kill_at_any_commit_hides_no_copy_and_makes_none(
    here: World, tmp_path: Path, is_back: bool
) -> None:
    place = account(here, "bert" if is_back else "bernd")
    start(place)
    keep(place)
    template = tmp_path / "template"
    shutil.copytree(place, template)
    for _ in range(3 if is_back else 0):
        start(place)
    owner = of(place)
    mark = trio.run(mark_of, owner)
    killed = 0
    for directory in every_point(partial(child, template), tmp_path):
        copy = directory / "account"
        before = has_old(copy)
        assert before or is_back, "it goes on, whatever was killed"
        assert start(copy) is (is_back and before), "noticed once, by the first or by the second"
        assert has_old(copy) is not is_back
        assert open_mark(trio.run(mark_of, owner), owner.transport).counter == counter(copy)
        assert start(copy) is False
        trio.run(put_mark, owner, mark)
        killed += 1
    assert killed >= (10 if is_back else 6)
