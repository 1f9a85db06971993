"""A front-end that is killed at each of its steps: what was acknowledged is there once, and what
was given away is not given again."""

from functools import partial
from itertools import count
from pathlib import Path

import pytest
import trio

from cbfs_common.session.prekey import PrekeyKind
from cbfs_common.wire.requests import Code, LastMark, PrekeyRecord
from cbfs_server.store.interface import MailboxStore
from cbfs_server.store.operations import (
    DONE,
    REFUSED,
    AskAccount,
    ChangeMark,
    EndAccount,
    ForgetOld,
    GivePrekey,
    MakeAccount,
    NextMail,
    NoteVisit,
    RemoveEnvelopes,
    Ticket,
)
from tests.server.conformance.backends import Backend, Fresh, look_up
from tests.server.conformance.test_mailboxes import ALICE, BOB, DAY, NOW, mail, upload
from tests.server.test_server_store import play
from tests.support.children import exit_code
from tests.support.killing import Record
from tests.support.serving import FOREVER, STORES

pytestmark = pytest.mark.parametrize("fresh", STORES, indirect=True)

MAIL = 4
GONE = 2
"""The first ones are deleted."""

PREKEYS = [
    bytes([number]) * 16 + bytes([PrekeyKind.ONE_TIME]) + FOREVER.to_bytes(8, "big") + bytes(1_280)
    for number in range(4)
]
MARK = b"m" * 56
INVITE = Ticket(invite=b"i" * 16)


class Life:
    """Repeats what was not acknowledged, in this life or in one before."""

    def __init__(self, store: MailboxStore, record: Record) -> None:
        self._store = store
        self._record = record
        self._known = record.lines()

    def said(self, *words: str) -> bool:
        return list(words) in self._known

    async def make(self) -> None:
        if not self.said("made"):
            assert await self._store.commit(MakeAccount(ALICE, DAY, INVITE)) == DONE
            self._record.write("made")

    async def deliver(self, number: int) -> None:
        if not self.said("delivered", str(number)):
            assert await self._store.commit(mail(number)) == DONE
            self._record.write("delivered", str(number))

    async def upload(self) -> None:
        if not self.said("uploaded"):
            assert await self._store.commit(upload(*PREKEYS)) == DONE
            self._record.write("uploaded")

    async def mark(self) -> None:
        found = await self._store.commit(ChangeMark(ALICE, b"", MARK))
        assert found == LastMark(MARK) or (found == LastMark(b"") and not self.said("marked"))
        self._record.write("marked")

    async def delete(self, number: int) -> None:
        if not self.said("deleted", str(number)):
            assert await self._store.commit(RemoveEnvelopes(ALICE, (mail(number).id,))) == DONE
            self._record.write("deleted", str(number))

    async def take(self) -> None:
        given = await self._store.commit(GivePrekey(ALICE, NOW))
        if isinstance(given, PrekeyRecord):
            self._record.write("taken", given.record[:16].hex())

    async def check(self) -> None:
        """Whatever came in between."""
        if await look_up(self._store, AskAccount(ALICE)) != DONE:
            assert not self.said("made")
            return
        found = tuple(await look_up(self._store, NextMail(ALICE, 0, 99)))
        ids = [each.id for each in found]
        assert len(ids) == len(set(ids))
        assert [each.serial for each in found] == sorted({each.serial for each in found})
        for number in range(MAIL):
            if mail(number).id in ids:
                assert found[ids.index(mail(number).id)].envelope == mail(number).envelope
                assert not self.said("deleted", str(number))
            elif number >= GONE:
                assert not self.said("delivered", str(number)), "it is lost"
        stranger = MakeAccount(BOB, DAY, INVITE)
        assert await self._store.commit(stranger) == REFUSED[Code.INVITE_NEEDED]


async def live(backend: Backend, place: Path) -> None:
    record = Record(place / "record")
    async with backend.opened() as store:
        life = Life(store, record)
        await life.check()
        await life.make()
        async with trio.open_nursery() as nursery:
            for number in range(MAIL):
                nursery.start_soon(life.deliver, number)
            nursery.start_soon(life.upload)
            nursery.start_soon(life.mark)
        for number in range(GONE):
            await life.delete(number)
            await life.take()
        last = Life(store, record)
        await last.check()
        assert len(tuple(await look_up(store, NextMail(ALICE, 0, 99)))) == MAIL - GONE


def lived(backend: Backend, place: Path, number: int) -> int:
    """0 is for no kill."""
    if number:
        backend.kill_at(number)
    play(partial(live, backend, place))
    return 0


def test_a_kill_at_any_step_loses_nothing_that_was_acknowledged(
    fresh: Fresh, tmp_path: Path
) -> None:
    """And the next life does the rest."""
    for number in count(1):
        place = tmp_path / str(number)
        place.mkdir()
        with fresh() as backend:
            code = exit_code(lived, backend, place, number)
            if code == 0:
                assert number > 8, "there are too few steps"
                return
            assert code < 0, f"step {number}: it has failed"
            assert exit_code(lived, backend, place, 0) == 0
        taken = [words[1] for words in Record(place / "record").lines() if words[0] == "taken"]
        assert len(taken) == len(set(taken)), "one prekey twice"


USERS = [bytes([number]) * 32 for number in range(3)]
STAYS = USERS[1]


async def ending(backend: Backend) -> None:
    """Two of three accounts end, one by its owner."""
    async with backend.opened() as store:
        await whole(store)
        await store.commit(EndAccount(USERS[0]))
        start: bytes | None = b""
        while start is not None:
            start = (await store.commit(ForgetOld(start, DAY + 10, 60, 180))).rest
        await whole(store)
        assert await look_up(store, AskAccount(STAYS)) == DONE
        for user in USERS:
            there = await look_up(store, AskAccount(user)) == DONE
            assert there == (user == STAYS)


async def whole(store: MailboxStore) -> None:
    """An account is there with all that it had, or nothing of it."""
    for user in USERS:
        found = tuple(await look_up(store, NextMail(user, 0, 99)))
        if await look_up(store, AskAccount(user)) == DONE:
            assert len(found) == MAIL
        else:
            assert not found
            assert user != STAYS


async def fill(backend: Backend) -> None:
    async with backend.opened() as store:
        for user in USERS:
            await store.commit(MakeAccount(user, DAY))
            await store.commit(upload(*PREKEYS[:1], user=user))
            for number in range(MAIL):
                await store.commit(mail(number, user))
        await store.commit(NoteVisit(STAYS, DAY + 5, True))


def ended(backend: Backend, number: int) -> int:
    if number:
        backend.kill_at(number)
    play(partial(ending, backend))
    return 0


def test_a_kill_while_accounts_end_leaves_each_whole_or_nothing_of_it(fresh: Fresh) -> None:
    for number in count(1):
        with fresh() as backend:
            play(partial(fill, backend))
            code = exit_code(ended, backend, number)
            if code == 0:
                assert number > 3, "there are too few steps"
                return
            assert code < 0, f"step {number}: it has failed"
            assert exit_code(ended, backend, 0) == 0
