"""No server and no directory stops a client for longer than it lies."""

from contextlib import closing

import pytest
import trio
from hypothesis.stateful import run_state_machine_as_test

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.engine.engine import Engine
from cbfs_common.messages.body import encode_part
from cbfs_common.session.prekey import PrekeyKind, make_prekey
from cbfs_common.wire.requests import (
    AnyReply,
    AnyRequest,
    Code,
    CreateAccount,
    Deliver,
    ErrorReply,
    GetTerms,
    SwapMark,
    decode_request,
)
from cbfs_common.wire.transport import Frame
from tests.engine.test_engine import send
from tests.hostile.servers import Servers
from tests.hostile.test_senders import BOUNDED
from tests.hostile.town import OTHER, Person, Town
from tests.hostile.wires import Line, Office, straight
from tests.support.names_naive import DIRECTORY


def test_no_server_stops_a_client_for_longer_than_it_lies() -> None:
    run_state_machine_as_test(Servers, settings=BOUNDED)


def test_a_server_may_lie_that_there_is_no_account_and_that_one_costs_work() -> None:
    """Whatever a client asks then is answered, in the towns of these tests as well."""
    lies = {SwapMark: Code.NO_ACCOUNT, CreateAccount: Code.WORK_NEEDED}
    asked: set[type[AnyRequest]] = set()

    def twist(request: AnyRequest, honest: AnyReply) -> AnyReply:
        asked.add(type(request))
        code = lies.get(type(request))
        return honest if code is None else ErrorReply(code)

    with closing(Town()) as town:
        town.begin()

        async def wait(_engine: Engine) -> None:
            await town.until(lambda: GetTerms in asked, "it to ask what an account costs")
            town.office.twist = straight

        town.office.twist = twist
        town.run(wait)
        town.check()


class Tarpit(Office):
    """Answers each delivery just before its sender would give it up."""

    async def take(self, line: Line, message: Frame) -> bool:
        if isinstance(decode_request(message.payload), Deliver):
            await trio.sleep(115)
        return await super().take(line, message)


PLACES, KEPT = 4, 2
SLOW_PORT = OTHER + 7


def test_slow_servers_of_many_do_not_keep_what_goes_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stranger's group of many, whose server is slow: each has a message of many parts to get,
    and they have all places at first."""
    monkeypatch.setattr("cbfs.sending.agenda.AT_ONCE", PLACES)
    monkeypatch.setattr("cbfs.sending.agenda.RESERVED", KEPT)
    monkeypatch.setattr("cbfs.sending.sender.WINDOW", 1)
    town = Town()
    waits: list[float] = []

    def give_prekey(office: Office, person: Person) -> None:
        pair = make_prekey(SYSTEM_RANDOM, PrekeyKind.LAST_RESORT, int(town.now()) + 25 * 86_400)
        office.keep(person.account, pair)

    async def work(engine: Engine) -> None:
        for person in slow:
            await town.know(engine, person.name)
            await send(engine, (person.name,), bytes(200_000))
        box = town.other.box(town.bob.account.profile.user_id)
        for number in range(5):
            sent, before = trio.current_time(), len(box)
            await send(engine, ("bob",), b"%d" % number)
            await town.until(lambda before=before: len(box) > before, "it to go out")  # type: ignore[misc]
            waits.append(trio.current_time() - sent)
            await trio.sleep(100)

    try:
        town.begin()
        tarpit = Tarpit(SLOW_PORT)
        town.wires.servers[SLOW_PORT] = tarpit
        give_prekey(town.other, town.bob)
        slow = [
            Person(town, f"slow{number}", town._account(f"slow{number}", tarpit))
            for number in range(3 * PLACES)
        ]
        for person in slow:
            give_prekey(tarpit, person)
        town.run(work)
    finally:
        town.close()
    # each may take a place once before it is known to be slow; these are seconds of the mock clock
    assert waits[0] < len(slow) / PLACES * 120
    assert max(waits[1:]) < 5


def test_a_stranger_waits_while_the_clock_is_wrong() -> None:
    """The directory says so by its signatures, and nothing of who they are."""
    with closing(Town()) as town:
        town.begin()
        stranger = town.person("stranger")
        town.send(stranger.seal(encode_part(stranger.part(b"hello"))))
        town.liar.clock = lambda: town.now() + 3 * 86_400

        async def wait(engine: Engine) -> None:
            await town.until(lambda: not town.mailbox, "the mailbox to be empty")
            await trio.sleep(600)
            assert any("cannot be confirmed" in line for line in engine.report().problems)
            town.liar.clock = town.now
            await town.until(lambda: bool(engine.people.waiting()), "a request")

        town.run(wait)
        town.check()


def test_nobodys_proof_is_disbelieved_because_of_a_wrong_clock() -> None:
    """The user would be told to ask bob by another way whether all is well."""
    with closing(Town()) as town:
        town.begin()
        town.person("somebody")  # whose round the last poll does not know
        town.bob._bundle = b""

        async def wait(engine: Engine) -> None:
            town.liar.clock = lambda: town.now() + 3 * 86_400
            prefix = engine._context.contacts.prefix("bob")
            await engine._context.contacts.doubt(DIRECTORY, {prefix: 10**6})
            town.send_good()
            await town.until(lambda: not town.mailbox, "the mailbox to be empty")
            await trio.sleep(10)
            assert not any("was not believed" in line for line in engine.report().problems)

        town.run(wait)
        town.liar.clock = town.now
        town.check()
