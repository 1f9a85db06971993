"""Every change and every question, of two front-ends and over restarts, against a model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cbfs_common.limits import BLOB_CHUNK, BLOB_LEAST, BLOB_SEALED_CHUNK, PREKEY_RECORD_SIZE
from cbfs_common.names.config import Registration
from cbfs_common.session.prekey import PrekeyKind
from cbfs_common.wire.blobs import BlobChunk, BlobState
from cbfs_common.wire.requests import (
    Code,
    EnvelopeIds,
    LastMark,
    PrekeyCount,
    PrekeyRecord,
    Stored,
)
from cbfs_host.calendar import ClockMark
from cbfs_server.limits import NEWCOMER_DAYS, Limits
from cbfs_server.store.interface import MailboxStore
from cbfs_server.store.operations import (
    DONE,
    REFUSED,
    AddBlob,
    AddChunk,
    AddEnvelope,
    AddPrekeys,
    AskAccount,
    AskBlob,
    AskPresent,
    Change,
    ChangeMark,
    CountPrekeysLeft,
    EndAccount,
    EndBlob,
    EraseChunks,
    Expired,
    ForgetBlobs,
    ForgetInvites,
    ForgetOld,
    GivePrekey,
    ListIds,
    MakeAccount,
    NextMail,
    NoChange,
    NoteTime,
    NoteVisit,
    Question,
    ReadChunk,
    ReadEnvelope,
    RemoveEnvelopes,
    Rule,
    Suspend,
    Swept,
    SweptBlobs,
    Ticket,
)
from tests.server.conformance.backends import Backend, Fresh, look_up
from tests.server.test_server_store import play
from tests.support.serving import KEM, STORES

pytestmark = pytest.mark.parametrize("fresh", STORES, indirect=True)

MAILBOX = 3
RETENTION, INACTIVE = 10, 20
QUOTA, KEPT = 3 * BLOB_LEAST, 7
"""Chunks of data, and days."""
NOW = 1_800_000_000
OVER = NOW - 1
"""When prekeys expire that are over already."""

ONE_TIME, RESORT = PrekeyKind.ONE_TIME, PrekeyKind.LAST_RESORT


def prekey(number: int, kind: PrekeyKind, expires: int) -> bytes:
    start = bytes([number]) * 16 + bytes([kind]) + expires.to_bytes(8, "big")
    return start + bytes([number]) * (PREKEY_RECORD_SIZE - len(start))


def expiry(record: bytes) -> int:
    return int.from_bytes(record[17:25], "big")


@dataclass
class Blob:
    data: int
    day: int
    days: int
    chunks: list[bytes] = field(default_factory=list)

    @property
    def state(self) -> BlobState:
        return BlobState(len(self.chunks), self.days)


@dataclass
class Account:
    visited: int
    fetched: bool = False
    mail: dict[bytes, AddEnvelope] = field(default_factory=dict)
    prekeys: dict[tuple[int, bytes], bytes] = field(default_factory=dict)
    kem: bytes | None = None
    mark: bytes = b""
    blobs: dict[bytes, Blob] = field(default_factory=dict)

    def records(self, kind: PrekeyKind) -> Iterator[bytes]:
        for (of, _), record in sorted(self.prekeys.items()):
            if of == kind:
                yield record


class ModelStore:
    """What a store does, in a few lines of Python."""

    def __init__(self) -> None:
        self.accounts: dict[bytes, Account] = {}
        self.suspended: set[bytes] = set()
        self.invites: dict[bytes, int] = {}
        self.noted: ClockMark | None = None
        self.erasing = set[bytes]()

    def result(self, asked: Change[Any] | Question[Any]) -> Any:
        account = self.accounts.get(asked.user)
        match asked:
            case MakeAccount():
                return DONE if account else self._make(asked)
            case Suspend(user, on):
                self.suspended = self.suspended | {user} if on else self.suspended - {user}
            case NoteTime(mark):
                self.noted = mark
            case ForgetInvites(_, before):
                self.invites = {id: day for id, day in self.invites.items() if day >= before}
            case ForgetOld():
                return self._forget(asked)
            case EndAccount(user):
                self._end(account.blobs if account else {})
                return len(self.accounts.pop(user).mail) if account else None
            case ReadChunk():
                return self._read(asked)
            case ForgetBlobs(_, today):
                return self._forget_blobs(today)
            case EraseChunks():
                more, self.erasing = bool(self.erasing), set()
                return more
            case AddEnvelope() | GivePrekey():
                of = self._add if isinstance(asked, AddEnvelope) else self._give
                return of(account, asked) if account else REFUSED[Code.UNKNOWN_USER]
            case NextMail() | AskPresent() | NoteVisit():
                return self._hinted(account or Account(0), asked)
            case NoChange():
                pass
            case _:
                return self._own(account, asked) if account else REFUSED[Code.NO_ACCOUNT]
        return None

    def _make(self, asked: MakeAccount) -> Any:
        if asked.closed:
            return REFUSED[Code.TOO_MANY]
        invite = asked.ticket.invite
        needed = asked.rule.registration is Registration.INVITE
        if invite in self.invites or invite == b"" or (invite is None and needed):
            return REFUSED[Code.INVITE_NEEDED]
        if invite is not None:
            self.invites[invite] = asked.day
        self.accounts[asked.user] = Account(asked.day)
        return DONE

    def _add(self, account: Account, asked: Any) -> Any:
        if asked.id in account.mail:
            return DONE
        if len(account.mail) >= MAILBOX:
            return REFUSED[Code.MAILBOX_FULL]
        account.mail[asked.id] = asked
        return DONE

    def _give(self, account: Account, asked: Any) -> Any:
        for record in account.records(ONE_TIME):
            if expiry(record) > asked.now and account.kem:
                del account.prekeys[ONE_TIME, record[:16]]
                return PrekeyRecord(record, account.kem)
        for record in account.records(RESORT):
            if expiry(record) > asked.now and account.kem:
                return PrekeyRecord(record, account.kem)
        return REFUSED[Code.NO_PREKEY]

    def _hinted(self, account: Account, asked: Any) -> Any:
        """What somebody without an account has as if it were empty."""
        match asked:
            case NextMail(_, skipped, most):
                behind = list(account.mail.values())[skipped:]
                return tuple((each.id, each.envelope) for each in behind[:most])
            case AskPresent(_, ids):
                return frozenset(ids) & frozenset(account.mail)
            case NoteVisit(_, day, fetches):
                account.visited, account.fetched = day, account.fetched or fetches
        return None

    def _own(self, account: Account, asked: Any) -> Any:
        match asked:
            case RemoveEnvelopes(_, ids):
                for id in ids:
                    account.mail.pop(id, None)
            case AddPrekeys(_, records, kem, replace):
                if replace:
                    account.prekeys.clear()
                elif any(each[16] == RESORT for each in records):
                    account.prekeys = {k: v for k, v in account.prekeys.items() if k[0] != RESORT}
                account.prekeys |= {(each[16], each[:16]): each for each in records}
                account.kem = kem
            case ChangeMark(_, seen, new):
                before = account.mark
                account.mark = new if before == seen else before
                return LastMark(before)
            case ListIds(_, after):
                there = list(account.mail)
                if after and after not in there:
                    return REFUSED[Code.UNKNOWN_ENVELOPE]
                rest = there[there.index(after) + 1 :] if after else there
                return EnvelopeIds(tuple(rest), False)
            case ReadEnvelope(_, id):
                found = account.mail.get(id)
                return Stored(found.envelope) if found else REFUSED[Code.UNKNOWN_ENVELOPE]
            case AddBlob() | AddChunk() | EndBlob() | AskBlob():
                return self._of_blob(account, asked)
            case CountPrekeysLeft(_, now):
                good = sum(expiry(each) > now for each in account.records(ONE_TIME))
                last = max(map(expiry, account.records(RESORT)), default=0)
                return PrekeyCount(good, last if last > now else 0)
        return DONE

    def _end(self, blobs: dict[bytes, Blob]) -> None:
        self.erasing |= {id for id, blob in blobs.items() if blob.chunks}

    def _of_blob(self, account: Account, asked: Any) -> Any:
        known = account.blobs.get(asked.id)
        match asked:
            case AddBlob():
                return self._make_blob(account, known, asked)
            case EndBlob(_, id):
                self._end({id: account.blobs.pop(id)} if known else {})
                return DONE
        if known is None:
            return REFUSED[Code.UNKNOWN_BLOB]
        if isinstance(asked, AskBlob):
            return known.state
        there = len(known.chunks)
        if asked.index < there:
            same = known.chunks[asked.index] == asked.chunk
            return DONE if same else REFUSED[Code.BLOB_DIFFERS]
        if asked.index > there:
            return REFUSED[Code.NO_CHUNK]
        known.chunks.append(asked.chunk)
        return DONE

    def _make_blob(self, account: Account, known: Blob | None, asked: AddBlob) -> Any:
        if known is not None and known.data == asked.data:
            return known.state
        theirs = any(asked.id in each.blobs for each in self.accounts.values())
        if theirs or asked.id in self.erasing:
            return REFUSED[Code.BLOB_DIFFERS]
        if asked.data > QUOTA:
            return REFUSED[Code.BLOB_TOO_LARGE]
        if sum(each.data for each in account.blobs.values()) + asked.data > QUOTA:
            return REFUSED[Code.BLOB_QUOTA]
        account.blobs[asked.id] = Blob(asked.data, asked.day, min(asked.days, KEPT))
        return account.blobs[asked.id].state

    def _read(self, asked: ReadChunk) -> Any:
        for user, account in self.accounts.items():
            if asked.id in account.blobs and user not in asked.barred:
                chunks = account.blobs[asked.id].chunks
                there = asked.index < len(chunks)
                return BlobChunk(chunks[asked.index]) if there else REFUSED[Code.NO_CHUNK]
        return REFUSED[Code.UNKNOWN_BLOB]

    def _forget_blobs(self, today: int) -> SweptBlobs:
        gone = 0
        for account in self.accounts.values():
            old = {i: b for i, b in account.blobs.items() if b.day + b.days < today}
            self._end(old)
            account.blobs = {i: b for i, b in account.blobs.items() if i not in old}
            gone += len(old)
        return SweptBlobs(None, gone)

    def _forget(self, asked: ForgetOld) -> Swept:
        found = Expired()
        for user, account in sorted(self.accounts.items()):
            days = asked.inactive if account.fetched else min(NEWCOMER_DAYS, asked.inactive)
            if account.visited + days < asked.today:
                gone = len(account.mail)
                found.ended.append(user)
                found.unused += not account.fetched
                self._end(account.blobs)
                del self.accounts[user]
            else:
                before = asked.today - asked.retention
                old = [id for id, each in account.mail.items() if each.day < before]
                gone = len(old)
                for id in old:
                    del account.mail[id]
                for each in account.mail.values():
                    found.oldest = min(found.oldest or each.day, each.day)
            found.envelopes += gone
            found.accounts += bool(gone)
        return Swept(None, found)


Step = Callable[[int], Change[Any] | Question[Any]]
"""Given the day."""

USERS = st.sampled_from([letter * 32 for letter in (b"a", b"b", b"c")])
BLOBS = st.sampled_from([letter * 32 for letter in (b"1", b"2")])
IDS = st.integers(0, 4).map(lambda number: bytes([number]) * 16)
MARKS = st.sampled_from([bytes([number]) * 56 for number in range(2)])
RECORDS = st.builds(
    prekey, st.integers(0, 5), st.sampled_from([ONE_TIME, RESORT]), st.sampled_from([OVER, 2**40])
)
TICKETS = st.builds(Ticket, st.sampled_from([None, None, b"", b"1" * 16, b"2" * 16]))
RULES = st.sampled_from([Rule(), Rule(), Rule(Registration.INVITE)])
NOWS = st.sampled_from([float(NOW), float(OVER - 1)])
BOOLS = st.booleans()


def step(operation: Callable[..., Any], *fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.tuples(*fields).map(lambda values: lambda _day: operation(*values))


def dated(operation: Callable[..., Any], *fields: st.SearchStrategy[Any]) -> Any:
    """The day is the second field."""
    return st.tuples(*fields).map(lambda values: lambda day: operation(values[0], day, *values[1:]))


def arrival(user: bytes, day: int, id: bytes) -> AddEnvelope:
    return AddEnvelope(user, id, id * 1_024, day)


def blob(user: bytes, day: int, id: bytes, data: int, days: int) -> AddBlob:
    return AddBlob(user, id, data, days, day)


def chunk(user: bytes, id: bytes, index: int, filling: bytes) -> AddChunk:
    return AddChunk(user, id, index, filling * BLOB_SEALED_CHUNK)


STEPS: st.SearchStrategy[Step] = st.one_of(
    dated(MakeAccount, USERS, TICKETS, RULES),
    dated(MakeAccount, USERS, TICKETS, RULES, BOOLS),
    dated(arrival, USERS, IDS),
    dated(arrival, USERS, IDS),
    dated(NoteVisit, USERS, BOOLS),
    dated(lambda _, day: ForgetOld(b"", day, RETENTION, INACTIVE), st.none()),
    dated(lambda _, day: ForgetInvites(b"", day), st.none()),
    dated(lambda _, day: NoteTime(ClockMark(day, day, day)), st.none()),
    dated(blob, USERS, BLOBS, st.sampled_from([64, 64, 128, 256]), st.integers(1, 9)),
    dated(blob, USERS, BLOBS, st.sampled_from([64, 64, 128, 256]), st.integers(1, 9)),
    step(chunk, USERS, BLOBS, st.integers(0, 2), st.sampled_from([b"x", b"x", b"x", b"y"])),
    step(chunk, USERS, BLOBS, st.integers(0, 1), st.just(b"x")),
    step(EndBlob, USERS, BLOBS),
    step(AskBlob, USERS, BLOBS),
    step(ReadChunk, BLOBS, st.integers(0, 2), st.frozensets(USERS, max_size=1)),
    dated(lambda _, day: ForgetBlobs(b"", day), st.none()),
    step(EraseChunks),
    step(RemoveEnvelopes, USERS, st.lists(IDS, max_size=3).map(tuple)),
    step(GivePrekey, USERS, NOWS),
    step(
        AddPrekeys,
        *(USERS, st.lists(RECORDS, max_size=3, unique_by=lambda each: each[:17]).map(tuple)),
        *(st.sampled_from([KEM, b"\1" * len(KEM)]), BOOLS, NOWS),
    ),
    step(EndAccount, USERS),
    step(ChangeMark, USERS, st.just(b"") | MARKS, MARKS),
    step(Suspend, USERS, BOOLS),
    step(NoChange),
    step(ListIds, USERS, st.just(b"") | IDS),
    step(ReadEnvelope, USERS, IDS),
    step(NextMail, USERS, st.integers(0, 4), st.integers(1, 4)),
    step(CountPrekeysLeft, USERS, NOWS),
    step(AskAccount, USERS),
    step(AskPresent, USERS, st.lists(IDS, max_size=3).map(tuple)),
)
LIFE = st.lists(st.tuples(STEPS, BOOLS, st.sampled_from([0, 0, 0, 1, 5, 9])), max_size=25)
"""A step, by which front-end, and how many days pass before it."""


class Player:
    """Goes through lives of the store and of the model."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._model = ModelStore()
        self._day = 1_000

    async def live(self, life: list[tuple[Step, bool, int]]) -> None:
        limits = Limits(mailbox=MAILBOX, disk_free=0, blob_quota=QUOTA * BLOB_CHUNK, blob_days=KEPT)
        self._backend.wait_closed()
        async with self._backend.opened(limits) as one, self._backend.opened(limits) as other:
            assert one.noted() == self._model.noted
            assert one.suspended == other.suspended == self._model.suspended
            for make, by_other, days in life:
                self._day += days
                asked = make(self._day)
                searches = isinstance(asked, ForgetOld | ForgetInvites | ForgetBlobs | EraseChunks)
                store = other if by_other and not searches else one  # which has done so first
                wanted = self._model.result(asked)
                found = await self._ask(store, asked)
                assert found == wanted, asked
                if isinstance(asked, Suspend):
                    assert (asked.user in store.suspended) == asked.on
            for store in one, other:  # the other one hears of it a little later
                while store.suspended != self._model.suspended:
                    await trio.sleep(0.01)
            for user in (letter * 32 for letter in (b"a", b"b", b"c")):
                blobs = [AskBlob(user, number * 32) for number in (b"1", b"2")]
                for question in (ListIds(user, b""), CountPrekeysLeft(user, NOW), *blobs):
                    assert await look_up(other, question) == self._model.result(question)

    async def _ask(self, store: MailboxStore, asked: Change[Any] | Question[Any]) -> Any:
        if isinstance(asked, Change):
            found = await store.commit(asked)
            if isinstance(found, Swept):
                found.expired.ended.sort()
            return found
        if isinstance(asked, NextMail):
            return await self._behind(store, asked)
        return await look_up(store, asked)

    async def _behind(self, store: MailboxStore, asked: NextMail) -> Any:
        """``after`` stands for how many envelopes are left out: the model has no serials."""
        there = tuple(await look_up(store, NextMail(asked.user, 0, 99)))
        serials = [each.serial for each in there]
        assert serials == sorted(set(serials))
        after = ([0, *serials])[min(asked.after, len(serials))]
        found = await look_up(store, NextMail(asked.user, after, asked.most))
        return tuple((each.id, each.envelope) for each in found)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(lives=st.lists(LIFE, min_size=1, max_size=3))
def test_a_store_does_what_the_model_does_also_after_restarts(
    fresh: Fresh, lives: list[list[tuple[Step, bool, int]]]
) -> None:
    with fresh() as backend:
        player = Player(backend)
        for life in lives:
            play(partial(player.live, life))
