"""Every change and every question, of two front-ends and over restarts, against a model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cbfs_common.limits import PREKEY_RECORD_SIZE
from cbfs_common.names.config import Registration
from cbfs_common.session.prekey import PrekeyKind
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
    AddEnvelope,
    AddPrekeys,
    AskAccount,
    AskPresent,
    Change,
    ChangeMark,
    CountPrekeysLeft,
    EndAccount,
    Expired,
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
    ReadEnvelope,
    RemoveEnvelopes,
    Rule,
    Suspend,
    Swept,
    Ticket,
)
from tests.server.conformance.backends import Backend, Fresh, look_up
from tests.server.test_server_store import play
from tests.support.serving import KEM, STORES

pytestmark = pytest.mark.parametrize("fresh", STORES, indirect=True)

MAILBOX = 3
RETENTION, INACTIVE = 10, 20
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
class Account:
    visited: int
    fetched: bool = False
    mail: dict[bytes, AddEnvelope] = field(default_factory=dict)
    prekeys: dict[tuple[int, bytes], bytes] = field(default_factory=dict)
    kem: bytes | None = None
    mark: bytes = b""

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
                return len(self.accounts.pop(user).mail) if account else None
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
            case CountPrekeysLeft(_, now):
                good = sum(expiry(each) > now for each in account.records(ONE_TIME))
                last = max(map(expiry, account.records(RESORT)), default=0)
                return PrekeyCount(good, last if last > now else 0)
        return DONE

    def _forget(self, asked: ForgetOld) -> Swept:
        found = Expired()
        for user, account in sorted(self.accounts.items()):
            days = asked.inactive if account.fetched else min(NEWCOMER_DAYS, asked.inactive)
            if account.visited + days < asked.today:
                gone = len(account.mail)
                found.ended.append(user)
                found.unused += not account.fetched
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


STEPS: st.SearchStrategy[Step] = st.one_of(
    dated(MakeAccount, USERS, TICKETS, RULES),
    dated(MakeAccount, USERS, TICKETS, RULES, BOOLS),
    dated(arrival, USERS, IDS),
    dated(arrival, USERS, IDS),
    dated(NoteVisit, USERS, BOOLS),
    dated(lambda _, day: ForgetOld(b"", day, RETENTION, INACTIVE), st.none()),
    dated(lambda _, day: ForgetInvites(b"", day), st.none()),
    dated(lambda _, day: NoteTime(ClockMark(day, day, day)), st.none()),
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
        limits = Limits(mailbox=MAILBOX, disk_free=0)
        self._backend.wait_closed()
        async with self._backend.opened(limits) as one, self._backend.opened(limits) as other:
            assert one.noted() == self._model.noted
            assert one.suspended == other.suspended == self._model.suspended
            for make, by_other, days in life:
                self._day += days
                asked = make(self._day)
                searches = isinstance(asked, ForgetOld | ForgetInvites)
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
                for question in ListIds(user, b""), CountPrekeysLeft(user, NOW):
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
