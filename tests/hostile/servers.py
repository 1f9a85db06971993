"""The machine of servers that lie: alice's home server, that of others, and the name directory.

Each step lets one of them do something for a while, with alice's client at work. Then it is honest,
the client is opened anew, a good message arrives, one of alice's goes out, and nothing has grown
past its limits."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from random import Random

import trio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.engine.engine import Engine
from cbfs_common.errors import CbfsError
from cbfs_common.limits import (
    CHALLENGE_SIZE,
    ENVELOPE_SIZE,
    MARK_SIZE,
    NEWCOMER_BITS_MAX,
    PREKEY_RECORD_SIZE,
    PUSH_WINDOW,
)
from cbfs_common.messages.body import encode_part
from cbfs_common.names import wire as names_wire
from cbfs_common.names.operations import Refusal
from cbfs_common.primitives import KEM_PUBLIC_SIZE
from cbfs_common.session.prekey import PrekeyKind, make_prekey
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import (
    AnyReply,
    AnyRequest,
    Arrived,
    Code,
    EnvelopeIds,
    ErrorReply,
    LastMark,
    NewcomerTerms,
    PrekeyCount,
    PrekeyRecord,
    ServerLimits,
    Stored,
    encode,
)
from tests.engine.test_engine import send
from tests.hostile import nonsense
from tests.hostile.town import Town
from tests.hostile.wires import Office, Server, straight

WHILE = 90.0
"""Seconds of the jumping clock for which a lie lasts."""

SEEDS = st.randoms(use_true_random=True)
HUGE = (0, 1, 2**31, 2**63, 2**64 - 1)


def replies(random: Random) -> list[AnyReply | bytes]:
    """Of every kind, and of none."""
    number = random.choice(HUGE)
    return [
        Done(),
        *(ErrorReply(code) for code in Code),
        PrekeyCount(number, random.choice(HUGE)),
        PrekeyRecord(
            random.randbytes(16) + b"\1" + random.randbytes(PREKEY_RECORD_SIZE - 17),
            random.randbytes(KEM_PUBLIC_SIZE),
        ),
        EnvelopeIds(tuple(random.randbytes(16) for _ in range(5)), True),
        Stored(random.randbytes(ENVELOPE_SIZE)),
        ServerLimits(number, number, number),
        # of little work, or more than anybody does
        NewcomerTerms(random.choice((True, False)), random.randbytes(CHALLENGE_SIZE), 0),
        NewcomerTerms(False, random.randbytes(CHALLENGE_SIZE), NEWCOMER_BITS_MAX),
        LastMark(b""),
        LastMark(random.randbytes(MARK_SIZE)),
        b"",
        random.randbytes(40),
        nonsense.encode(
            [random.choice((64, 66, 67, 70, 71, 128, -1, 2**64)), *nonsense.VALUES[:3]]
        ),
        nonsense.encode([66, -1, -1]),
        nonsense.encode([70, 2**70, 0, 0]),
        nonsense.encode([71, b"short"]),
    ]


class Servers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.town = Town()
        self.ready = False
        self.names = 0

    @initialize()
    def begin(self) -> None:
        town = self.town
        town.begin()
        town.give_prekey(town.bob)
        self.ready = True

    def teardown(self) -> None:
        self.town.close()

    def _lie(self, *also: Callable[[Engine], None]) -> None:
        """The client is at work meanwhile: messages come, and go out."""
        town = self.town

        async def work(engine: Engine) -> None:
            town.send_good()
            with suppress(CbfsError):
                await send(engine, ("bob",), b"meanwhile")
            for each in also:
                each(engine)
            await trio.sleep(WHILE)

        try:
            town.run(work)
        finally:
            self._be_honest()
        self._check()

    def _be_honest(self) -> None:
        for office in (self.town.office, self.town.other):
            office.twist = straight
            office.pushes.clear()
        for server in self.town.wires.servers.values():
            server.cut = None
        self.town.liar.twist = lambda request, reply: reply
        self.town.names.answer = self.town.liar.answer

    def _check(self) -> None:
        town = self.town
        town.reopen()
        town.office.pushed.clear()
        bob = town.bob.account.profile.user_id
        town.give_prekey(town.bob)

        async def talk(engine: Engine) -> None:
            before = len(town.other.box(bob))
            await send(engine, ("bob",), b"afterwards")
            await town.until(lambda: len(town.other.box(bob)) > before, "alice's message to go out")
            await town.until(lambda: not engine.report().queue, "the queue to be empty")

        town.run(talk)
        town.check()

    # home servers, one's own and bob's

    def _office(self, own: bool) -> Office:
        return self.town.office if own else self.town.other

    @rule(own=st.booleans(), often=st.sampled_from((1.0, 0.5, 0.1)), random=SEEDS)
    def answer_nonsense(self, own: bool, often: float, random: Random) -> None:
        def twist(request: AnyRequest, reply: AnyReply) -> AnyReply | bytes | None:
            return random.choice(replies(random)) if random.random() < often else reply

        self._office(own).twist = twist
        self._lie()

    @rule(own=st.booleans(), fitting=st.sampled_from((True, False)), random=SEEDS)
    def lie_of_the_right_kind(self, own: bool, fitting: bool, random: Random) -> None:
        """Replies that fit, with other contents; or those to an earlier request."""
        seen: list[AnyReply] = []

        def twist(request: AnyRequest, reply: AnyReply) -> AnyReply | bytes | None:
            seen.append(reply)
            same = [r for r in (*seen, *replies(random)) if type(r) is type(reply)]
            return random.choice(same if fitting else seen)

        self._office(own).twist = twist
        self._lie()

    @rule(own=st.booleans(), count=st.integers(0, 12))
    def close_on_requests(self, own: bool, count: int) -> None:
        left = [count]

        def twist(request: AnyRequest, reply: AnyReply) -> AnyReply | None:
            left[0] -= 1
            return reply if left[0] >= 0 else None

        self._office(own).twist = twist
        self._lie()

    @rule(which=st.sampled_from((1, 2, 3)), after=st.integers(0, 60_000))
    def close_at_any_byte(self, which: int, after: int) -> None:
        server: Server = self.town.wires.servers[which]
        server.cut = after
        self._lie()

    @rule(count=st.sampled_from((1, 3, PUSH_WINDOW, 3 * PUSH_WINDOW)), random=SEEDS)
    def push_nonsense(self, count: int, random: Random) -> None:
        """No pushes, those of wrong ids, of one envelope again and again, and too many."""
        office, good = self.town.office, self.town.bob.seal(self._good())
        for _ in range(count):
            envelope = random.choice((good, good, random.randbytes(ENVELOPE_SIZE)))
            office.pushes.append(
                random.choice((
                    encode(Arrived(random.randbytes(16), envelope)),
                    encode(Arrived(bytes(16), envelope)),
                    nonsense.encode([128, b"", b""]),
                    nonsense.encode([128, bytes(16), envelope[:-1]]),
                    nonsense.encode([129, random.choice(nonsense.VALUES)]),
                    b"",
                ))
            )  # fmt: skip
        self._lie()

    def _good(self) -> bytes:
        text = b"good %d, pushed" % len(self.town.written)
        self.town.written.append(text)
        return encode_part(self.town.bob.part(text))

    @rule()
    def give_away_all_prekeys(self) -> None:
        """The home server has none, again and again, and breaks the connection in between."""

        def twist(request: AnyRequest, reply: AnyReply) -> AnyReply | None:
            if isinstance(reply, PrekeyCount):
                return PrekeyCount(0, 0)
            return reply

        self.town.office.twist = twist

        def break_again(_engine: Engine) -> None:
            self.town.office.cut = 250_000

        self._lie(break_again)

    @rule(random=SEEDS)
    def give_wrong_prekeys(self, random: Random) -> None:
        """Of others, expired, damaged, and with points of low order."""
        town = self.town
        signing = town.bob.account.signing
        good = make_prekey(SYSTEM_RANDOM, PrekeyKind.ONE_TIME, int(town.now()) + 9_999)
        wrong = [
            good.public(SYSTEM_RANDOM.token(32)),
            replace(good, expires=1).public(signing),
            replace(good, expires=2**64 - 1).public(signing),
            nonsense.damaged(random, good.public(signing))[:PREKEY_RECORD_SIZE],
            town.office.last[town.alice_id],
        ]

        def twist(request: AnyRequest, reply: AnyReply) -> AnyReply | bytes:
            if isinstance(reply, PrekeyRecord):
                record = random.choice(wrong)
                return PrekeyRecord(record + bytes(PREKEY_RECORD_SIZE - len(record)), reply.kem)
            return reply

        town.other.twist = twist
        self._lie()

    # the directory

    @rule(often=st.sampled_from((1.0, 0.4)), random=SEEDS)
    def let_the_directory_lie(self, often: float, random: Random) -> None:
        """Nonsense, damaged and old answers, refusals, and those to other questions."""
        liar, seen = self.town.liar, list[bytes]()

        def answer(request: names_wire.Request) -> names_wire.Reply | bytes | None:
            reply = liar.honest(request)
            honest = names_wire.encode_reply(reply)
            seen.append(honest)
            if random.random() > often:
                return reply
            refused = names_wire.RefusedReply(random.choice(list(Refusal)))
            return random.choice((
                None,
                b"",
                random.randbytes(60),
                nonsense.damaged(random, honest),
                random.choice(seen),
                names_wire.encode_reply(refused),
                names_wire.encode_reply(names_wire.ChangesAre(random.randbytes(99), True)),
                names_wire.encode_reply(names_wire.Submitted(2**63)),
            ))  # fmt: skip

        self.town.names.answer = answer
        self._lie(self._look_up("nobody-here"))

    def _look_up(self, name: str) -> Callable[[Engine], None]:
        return lambda engine: engine.prepare([name])

    @rule(random=SEEDS)
    def register_nonsense(self, random: Random) -> None:
        """An honest directory has what a hostile owner has registered; alice wants to write to
        them, and they to her."""
        self.names += 1
        town, name = self.town, f"eve{self.names}"
        eve = town.person(name)
        entry = town.liar.entries[name]
        profile = random.choice((
            b"", b"\1", random.randbytes(200), nonsense.damaged(random, entry.profile),
        ))  # fmt: skip
        town.liar.put(replace(entry, profile=profile, round=len(town.liar.rounds)))
        town.send(eve.seal(encode_part(eve.part(b"hello"))))
        town.contacts.add(name)
        self._lie(self._look_up(name))
