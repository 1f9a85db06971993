"""Who may make an account: the price of one, proofs of work, invites."""

import math
import os
import subprocess
import threading
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from cbfs.network.link import ServerRefused, request
from cbfs.receiving import signing_up
from cbfs.receiving.signing_up import TooMuchWork, Work, sign_up
from cbfs_common.errors import CbfsError
from cbfs_common.names.config import Registration
from cbfs_common.newcomers import Search, parse_server_invite, work_of
from cbfs_common.primitives import dh_public
from cbfs_common.wire.fields import Done, Request
from cbfs_common.wire.requests import (
    Code,
    CreateAccount,
    DeleteAccount,
    ErrorReply,
    GetTerms,
    List,
    NewcomerTerms,
)
from cbfs_common.wire.transport import SERVER_SECRET_SIZE, ServerSecret
from cbfs_host import lmdb_environment
from cbfs_host.complaints import StoreError
from cbfs_host.settings import Current
from cbfs_server.housekeeping import Housekeeping
from cbfs_server.limits import (
    ACCOUNTS_MAX,
    INVITE_DAYS_MAX,
    NEWCOMERS_FREE,
    NEWCOMERS_TIME,
    WORK_LEAST,
    WORK_WINDOW,
    Limits,
)
from cbfs_server.lmdb_store.arrivals import LatelyArrived
from cbfs_server.lmdb_store.mailboxes import MailboxWriter
from cbfs_server.lmdb_store.store import LmdbStore
from cbfs_server.newcomers import OPEN, Newcomers, make_invite
from cbfs_server.push import Pusher
from cbfs_server.store.operations import MakeAccount, Rule
from tests.server.test_server_clock import DAY, NOW, Machine
from tests.server.test_server_store import ALICE, BOB, Caller, lmdb_of, play
from tests.support.children import exit_code
from tests.support.killing import Kill, KillingEnv, Record, every_point
from tests.support.serving import RANDOM, TIMEOUT, link_to, running_server
from tests.support.world import ENVIRONMENT, WAIT, program, run

SECRET = ServerSecret(bytes(range(SERVER_SECRET_SIZE)))
WORK = Rule(Registration.WORK, 6)
INVITE = Rule(Registration.INVITE)
NO_WORK, NO_INVITE = ErrorReply(Code.WORK_NEEDED), ErrorReply(Code.INVITE_NEEDED)


def proof(terms: NewcomerTerms, user: bytes, bits: int) -> CreateAccount:
    search = Search(terms.challenge, user, 0)
    while not search.look(bits, 1_000):
        pass
    return CreateAccount(b"", search.challenge, search.best)


class Flood:
    """Somebody who makes so many hashes a second for accounts without end, by a clock of its
    own."""

    def __init__(self, rate: float) -> None:
        self.now = 0.0
        self.left = ACCOUNTS_MAX
        self._rate = rate
        self._arrivals = LatelyArrived(lambda: self.now)

    def price(self) -> int:
        return self._arrivals.price(OPEN, self.left)

    def one(self) -> None:
        """Work for one, and get it: with less luck than on average the price has risen
        meanwhile."""
        while True:
            price = self.price()
            self.now += 2.0**price / self._rate if price else 0.001
            if self.price() <= price:
                break
        self._arrivals._filled = self._arrivals._level(self.left) + 1, self.now
        self.left -= 1


@pytest.mark.parametrize("rate", [2.5e5, 1e8, 1e12], ids="{:.0e}".format)
def test_who_makes_accounts_without_end_never_takes_the_last(rate: float) -> None:
    """Nor more of them than leak, but for a few hundred; and each half of those that are left
    costs as much time as the one before."""
    flood = Flood(rate)
    for _ in range(20_000):
        flood.one()
    taken = ACCOUNTS_MAX - flood.left
    leaked = ACCOUNTS_MAX * (1 - math.exp(-flood.now / NEWCOMERS_TIME))
    assert taken <= leaked + NEWCOMERS_FREE * 6
    assert flood.now >= 3 * DAY
    assert flood.price() > WORK_LEAST


def test_the_price_falls_when_nobody_comes() -> None:
    flood = Flood(1e8)
    for _ in range(1_000):
        flood.one()
    dear = flood.price()
    assert dear > 20
    flood.now += 600
    assert flood.price() < dear
    flood.now += DAY
    assert flood.price() == 0


@given(st.integers(1, 2_000), st.integers(1, 40))
def test_few_accounts_have_few_that_cost_nothing(most: int, work: int) -> None:
    """Half of them at most, and no less is asked than the operator wants."""
    arrivals, free = LatelyArrived(lambda: 0.0), 0
    while free < most and arrivals.admits(MakeAccount(ALICE, 0), most - free) is None:
        free += 1
    assert free <= max(1, min(NEWCOMERS_FREE, most // 2))
    assert arrivals.price(OPEN, most - free) >= WORK_LEAST
    assert LatelyArrived().price(Rule(Registration.WORK, work), most) >= work


def test_invites_are_no_part_of_the_price() -> None:
    assert Newcomers(SECRET.encoded, INVITE).terms(0, NOW).invited
    asked = MakeAccount(ALICE, 0, rule=INVITE)
    assert LatelyArrived().admits(asked, 100) is Code.INVITE_NEEDED


def live(machine: Machine, rule: Rule, script: Callable[..., Awaitable[None]]) -> None:
    """One life of a server of few accounts."""

    async def life() -> None:
        async with housed(machine, rule) as (house, service):
            await script(house, Caller(service, ALICE), Caller(service, BOB))

    play(life)


@asynccontextmanager
async def housed(machine: Machine, rule: Rule) -> Any:
    limits = Current(Limits(mailbox=10, accounts=1_000))
    store = LmdbStore(machine.place / "store", limits, running=machine.running)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.run)
            house = Housekeeping(store, machine.clock, machine.running)
            newcomers = Newcomers(SECRET.encoded, rule)
            service = house.service(Pusher(store), admission=newcomers)
            await house.look()
            yield house, service
            nursery.cancel_scope.cancel()
    finally:
        store.close()


def test_a_proof_makes_one_account_of_one_user_and_for_a_while(memory: Path) -> None:
    machine = Machine(memory)

    async def script(_house: Housekeeping, alice: Caller, bob: Caller) -> None:
        assert await alice.ask(CreateAccount()) == NO_WORK
        terms = await alice.ask(GetTerms())
        assert (terms.invited, terms.bits) == (False, 6)
        good = proof(terms, ALICE, 6)
        assert await bob.ask(good) == NO_WORK
        assert await alice.ask(CreateAccount(b"", bytes(16), good.number)) == NO_WORK
        poor = next(n for n in count() if work_of(terms.challenge, ALICE, n) < 6)
        assert await alice.ask(CreateAccount(b"", terms.challenge, poor)) == NO_WORK
        assert await alice.ask(good) == Done()
        for again in good, CreateAccount():
            assert await alice.ask(again) == Done()
        assert await alice.ask(DeleteAccount()) == Done()
        assert await alice.ask(good) == NO_WORK
        machine.real += WORK_WINDOW
        assert (await bob.ask(GetTerms())).challenge != terms.challenge
        assert await bob.ask(proof(terms, BOB, 6)) == Done()
        assert await bob.ask(DeleteAccount()) == Done()
        machine.real += WORK_WINDOW
        search = Search(terms.challenge, BOB, 2**40)
        while not search.look(6, 1_000):
            pass
        assert await bob.ask(CreateAccount(b"", terms.challenge, search.best)) == NO_WORK

    live(machine, WORK, script)


def test_a_proof_makes_one_account_in_one_transaction_too(memory: Path) -> None:
    """And is not spent by one that was not made."""
    machine = Machine(memory)

    async def script(_house: Housekeeping, alice: Caller, bob: Caller) -> None:
        good = proof(await alice.ask(GetTerms()), ALICE, 6)
        said: dict[int, Any] = {}

        async def ask(number: int, asked: Request[Any]) -> None:
            said[number] = await alice.ask(asked)

        store, busy = lmdb_of(alice._service), threading.Event()
        store.apply(lambda _: busy.wait(TIMEOUT), lambda _: None)
        async with trio.open_nursery() as nursery:
            for number, asked in enumerate((good, DeleteAccount(), good, DeleteAccount())):
                nursery.start_soon(ask, number, asked)
                await trio.testing.wait_all_tasks_blocked()
            busy.set()
        assert said == dict(enumerate((Done(), Done(), NO_WORK, ErrorReply(Code.NO_ACCOUNT))))
        good = proof(await bob.ask(GetTerms()), BOB, 6)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MailboxWriter, "put_visit", broken)
            assert await bob.ask(good) == ErrorReply(Code.TROUBLE)
        assert await bob.ask(good) == Done()

    live(machine, WORK, script)


def broken(*_arguments: object) -> None:
    raise StoreError("damaged")


def test_proofs_that_were_used_are_kept_no_longer_than_they_count() -> None:
    newcomers, arrivals = Newcomers(SECRET.encoded, WORK), LatelyArrived()
    for day in range(5):
        now = NOW + day * WORK_WINDOW
        challenge = newcomers.terms(6, now).challenge
        for number in range(NEWCOMERS_FREE):
            asked = CreateAccount(b"", challenge, number)
            arrivals.spent(MakeAccount(ALICE, day, newcomers.ticket(ALICE, asked, now)))
    assert len(arrivals._spent) <= 3 * NEWCOMERS_FREE


def test_an_invite_makes_one_account(memory: Path) -> None:
    machine = Machine(memory)
    token = make_invite(SECRET, NOW + 30 * DAY, RANDOM)
    assert parse_server_invite(token.text()) == token
    good = CreateAccount(token.invite)

    async def script(_house: Housekeeping, alice: Caller, bob: Caller) -> None:
        assert await alice.ask(CreateAccount()) == NO_INVITE
        for place in range(len(token.invite)):
            forged = bytearray(token.invite)
            forged[place] ^= 1
            assert await alice.ask(CreateAccount(bytes(forged))) == NO_INVITE
        other = make_invite(ServerSecret(bytes(SERVER_SECRET_SIZE)), NOW + DAY, RANDOM)
        assert await alice.ask(CreateAccount(other.invite)) == NO_INVITE
        old = make_invite(SECRET, NOW - 1, RANDOM)
        assert await alice.ask(CreateAccount(old.invite)) == NO_INVITE
        assert await alice.ask(good) == Done()
        assert await bob.ask(good) == NO_INVITE
        assert await alice.ask(DeleteAccount()) == Done()
        assert await alice.ask(good) == NO_INVITE

    async def again(_house: Housekeeping, alice: Caller, bob: Caller) -> None:
        assert await bob.ask(good) == NO_INVITE

    live(machine, INVITE, script)
    live(machine, INVITE, again)


def test_an_invite_is_enough_where_work_is_asked_for_and_spent_only_if_it_is(
    memory: Path,
) -> None:
    machine = Machine(memory)
    good = CreateAccount(make_invite(SECRET, NOW + DAY, RANDOM).invite)

    async def script(_house: Housekeeping, alice: Caller, bob: Caller) -> None:
        assert await alice.ask(proof(await alice.ask(GetTerms()), ALICE, 6)) == Done()
        assert await alice.ask(good) == Done()
        assert await bob.ask(good) == Done()

    live(machine, WORK, script)


def test_used_invites_are_forgotten_when_none_of_then_counts(memory: Path) -> None:
    machine = Machine(memory)
    token = make_invite(SECRET, NOW + INVITE_DAYS_MAX * DAY, RANDOM)

    async def script(house: Housekeeping, alice: Caller, bob: Caller) -> None:
        assert await alice.ask(CreateAccount(token.invite)) == Done()
        for days, kept in (INVITE_DAYS_MAX, True), (2, False):
            machine.real += days * DAY
            await house.look()
            assert await bob.ask(CreateAccount(token.invite)) == NO_INVITE
            with lmdb_of(alice._service).read() as reader:
                assert reader.was_used(token.invite[:16]) == kept

    live(machine, INVITE, script)


async def with_an_invite(place: Path, number: int) -> None:
    """Two who share one invite; killed at a point of it."""
    token = make_invite(SECRET, NOW + DAY, _seeded())
    kill, opened = Kill(number), lmdb_environment.open_environment
    lmdb_environment.__dict__["open_environment"] = lambda *place: KillingEnv(opened(*place), kill)
    record = Record(place / "record")
    async with housed(Machine(place), INVITE) as (_house, service):
        for user in ALICE, BOB:
            said = await Caller(service, user).ask(CreateAccount(token.invite))
            if said == Done():
                record.write(user.hex())
        with lmdb_of(service).read() as reader:
            users = reader.users(b"", 9)
            assert len(users) == 1
            assert {words[0] for words in record.lines()} <= {user.hex() for user in users}


def _seeded() -> Any:
    return type(RANDOM)(lambda size: b"\7" * size, RANDOM.encapsulate)


def invited(place: Path, number: int) -> int:
    play(partial(with_an_invite, place, number))
    return 0


def test_a_kill_makes_no_two_accounts_of_an_invite_and_loses_none(memory: Path) -> None:
    points = count()
    for place in every_point(invited, memory):
        next(points)
        assert exit_code(invited, place, 0) == 0
    assert next(points) > 3


# the client


class Priced:
    """A link to a server whose price is what the next of ``prices`` says, and which takes a proof
    that has it."""

    def __init__(self, prices: list[int], rule: Rule = WORK) -> None:
        self.prices = prices
        self.rule = rule
        self.asked: list[CreateAccount] = []

    async def call(self, payload: bytes) -> bytes:
        from cbfs_common.wire.requests import decode_request, encode

        request = decode_request(payload)
        if isinstance(request, GetTerms):
            invited = self.rule is INVITE
            return encode(NewcomerTerms(invited, b"c" * 16, 0 if invited else self.prices[0]))
        assert isinstance(request, CreateAccount)
        self.asked.append(request)
        if self.rule is INVITE:
            return encode(Done() if request.invite == b"i" * 56 else NO_INVITE)
        if request.challenge and len(self.prices) > 1:
            self.prices.pop(0)
        good = request.challenge and work_of(request.challenge, ALICE, request.number)
        return encode(Done() if good and good >= self.prices[0] else NO_WORK)


def signing(link: Priced, invite: bytes = b"", said: list[str] | None = None) -> None:
    say = (said if said is not None else []).append
    play(lambda: sign_up(link, ALICE, RANDOM, invite, say))  # type: ignore[arg-type]


def test_a_price_that_rises_is_paid_and_no_proof_given_twice() -> None:
    link = Priced([4, 8, 10, 10])
    signing(link)
    brought = [each.number for each in link.asked[1:]]
    assert len(set(brought)) == len(brought)
    assert work_of(b"c" * 16, ALICE, brought[-1]) >= 10


def test_what_takes_long_is_said_once_for_each_price(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing_up, "SLICE", 64)
    monkeypatch.setattr(signing_up, "LOOK", 0.01)
    said: list[str] = []
    signing(Priced([12]), said=said)
    assert len(said) <= 1
    assert all("asks newcomers for work: about " in line for line in said)


def test_too_much_work_is_refused_and_an_invite_asked_for() -> None:
    with pytest.raises(TooMuchWork):
        signing(Priced([signing_up.BITS_MAX + 1]))
    with pytest.raises(ServerRefused) as needed:
        signing(Priced([], INVITE))
    assert "--server-invite" in needed.value.hint
    with pytest.raises(CbfsError, match="does not take the invite"):
        signing(Priced([], INVITE), b"x" * 56)
    link = Priced([], INVITE)
    signing(link, b"i" * 56)
    assert [each.invite for each in link.asked] == [b"", b"i" * 56]


def test_work_is_cut_off_at_once() -> None:
    async def script() -> None:
        with trio.move_on_after(0.05) as scope, suppress(ServerRefused):
            await Work(ALICE, RANDOM, lambda _: None).proof(NewcomerTerms(False, bytes(16), 36))
        assert scope.cancelled_caught

    play(script)


# real processes


def test_a_server_that_asks_for_work_gets_it(tmp_path: Path) -> None:
    async def script() -> None:
        with running_server(tmp_path / "server", "--registration", "work:10") as server:
            secret = os.urandom(32)
            async with link_to(server, secret) as link:
                with pytest.raises(ServerRefused):
                    await request(link, CreateAccount())
                await sign_up(link, dh_public(secret), RANDOM)
                await request(link, List())

    play(script)


def test_an_invite_from_the_command_line_while_the_server_runs(tmp_path: Path) -> None:
    async def script() -> None:
        with running_server(tmp_path / "server", "--registration", "invite") as server:
            done = run("cbfs-server", "invite", "--data", tmp_path / "server")
            assert done.returncode == 0, done.stderr
            (tmp_path / "invite").write_text(done.stdout)
            invite = signing_up.read_server_invite(tmp_path / "invite", server.address)
            for expected in True, False:
                secret = os.urandom(32)
                async with link_to(server, secret) as link:
                    if expected:
                        await sign_up(link, dh_public(secret), RANDOM, invite)
                        await request(link, List())
                    else:
                        with pytest.raises(CbfsError, match="was used"):
                            await sign_up(link, dh_public(secret), RANDOM, invite)
        with running_server(tmp_path / "other") as other, pytest.raises(CbfsError) as wrong:
            signing_up.read_server_invite(tmp_path / "invite", other.address)
        assert "another server" in str(wrong.value)

    play(script)


@pytest.mark.parametrize(
    "words",
    [
        ["--registration", "closed"],
        ["--registration", "work"],
        ["--registration", "work:0"],
        ["--registration", "work:41"],
        ["--registration", "open:3"],
        ["--registration", "open:"],
        ["--inactive", "0"],
        ["--inactive", "40000"],
    ],
    ids=" ".join,
)
def test_wrong_rules_are_refused(words: list[str], tmp_path: Path) -> None:
    done = run("cbfs-server", "--data", tmp_path / "data", *words)
    assert done.returncode == 2
    assert words[0] in done.stderr


def test_no_invite_without_a_server(tmp_path: Path) -> None:
    done = run("cbfs-server", "invite", "--data", tmp_path / "none")
    assert done.returncode == 1
    assert "hint: " in done.stderr
    with subprocess.Popen(
        program("cbfs-server", "invite", "--data", tmp_path / "none", "--days", "366"),
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    ) as process:
        assert process.wait(WAIT) == 2
