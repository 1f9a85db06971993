"""alice's real client, run twice: with an honest server, and with one that does what it likes with
what comes for her. What leaves, when and to whom must be the same, but for what she writes.

A history is a list of ``Event``. Of those that come over the server each has a ``treatment``. All
that may differ by chance is fixed: the note clock draws from a seed, and a prompt client's receipts
wait for as long each time. Time is trio's, which jumps."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from unittest.mock import patch

import trio

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.account.settings import Reactions
from cbfs.engine.engine import Engine
from cbfs.receiving.receiver import Receiver
from cbfs.sending.note_clock import NoteClock
from cbfs_common.errors import CryptoError
from cbfs_common.limits import ENVELOPE_SIZE, PROMPT_AFTER
from cbfs_common.messages.body import (
    Body,
    Note,
    Parent,
    Refs,
    decode_body,
    encode_note,
    encode_part,
)
from cbfs_common.wire.requests import AnyReply, AnyRequest, Deliver, TakePrekey
from tests.engine.test_engine import send
from tests.hostile.town import HOME, OTHER, Person, Town
from tests.support.parts import talk_id, who
from tests.support.talking import seeded

PEERS = ("bob", "carol", "dave")
LARGE = 40_000
"""Bytes of a message in several parts."""

SETTLED = 600.0
"""Seconds after which everybody has written to everybody, and all is read."""

AFTER = 4 * 3_600.0
"""Seconds that are watched after the last event."""

TREATMENTS = ("garble the end", "garble the head", "drop", "repeat", "delay", "behind the next")


@dataclass(frozen=True)
class Event:
    """What happens ``after`` so many seconds. ``kind``: alice writes (``write``), or of a peer's
    comes a message (``say``), one that answers what she has not seen (``miss``), the first message
    of another session (``anew``), one after all of hers was read that came (``read``: the next
    turn, by which the peer is proven), or a note that says of one of hers that it has come, is
    wanted, or offers one (``receipt``, ``want``, ``offer``); or noise that the server makes up
    (``forge``).
    ``group``: in the conversation of all. Or the peers' server cannot be reached for so long as
    ``wait`` says (``outage``), or alice's home server lets nobody in (``shut``), or the directory
    says that something of a peer's name is new (``change``)."""

    after: float
    kind: str
    who: str = "bob"
    group: bool = False
    large: bool = False
    treatment: str = ""
    wait: float = 0.0


def honest(history: Sequence[Event]) -> list[Event]:
    """The same with a server that does nothing to it."""
    return [
        replace(event, treatment="")
        if event.kind not in ("forge", "shut")
        else replace(event, kind="nothing")
        for event in history
    ]


@dataclass(frozen=True)
class Left:
    """One request of alice's that others' servers have seen: ``what`` is Deliver or TakePrekey."""

    at: float
    to: str
    what: str


class Watched:
    """One run."""

    def __init__(self, reactions: Reactions) -> None:
        self.town = Town(reactions, ticks=True)
        self.left: list[Left] = []
        self.large: set[tuple[float, str]] = set()
        """When alice has written something in several parts, and to whom."""
        self._held: list[bytes] = []
        self._last: dict[str, Parent] = {}
        town = self.town
        self.peers: dict[str, Person] = {"bob": town.bob}
        for name in PEERS[1:]:
            self.peers[name] = town.person(name)
        for peer in self.peers.values():
            town.give_prekey(peer)
        self._names = {p.account.profile.user_id: name for name, p in self.peers.items()}
        town.other.twist = self._note

    def _note(self, request: AnyRequest, reply: AnyReply) -> AnyReply:
        if isinstance(request, Deliver | TakePrekey):
            name, what = self._names[request.user_id], type(request).__name__
            self.left.append(Left(round(trio.current_time(), 6), name, what))
        return reply

    def go(self, history: Sequence[Event]) -> list[Left]:
        self.town.begin()

        async def body(engine: Engine) -> None:
            for name, peer in self.peers.items():
                await self.town.know(engine, name)
                peer.begin()
                self._arrives(Event(0, "say", name))
            await trio.sleep(60)
            for name in PEERS:
                await send(engine, (name,), b"hello")
            await send(engine, PEERS, b"hello all")
            await trio.sleep(SETTLED - 60)
            self.left.clear()
            async with trio.open_nursery() as nursery:
                for event in history:
                    await trio.sleep(event.after)
                    if event.kind == "write":
                        await self._write(engine, event)
                    elif event.kind == "change":
                        self.town.liar.put(changed=(event.who,))
                    elif event.kind in ("outage", "shut"):
                        nursery.start_soon(self._away, event)
                    elif event.kind != "nothing":
                        nursery.start_soon(self._treat, event)
                await trio.sleep(AFTER)
                nursery.cancel_scope.cancel()

        self.town.run(body)
        assert not self.town.faults.texts, self.town.faults.texts
        return self.left

    def read(self, name: str) -> list[Body]:
        """What of alice's is in somebody's mailbox and can be read, in the order of coming."""
        peer, bodies = self.peers[name], []
        for envelope in self.town.other.box(peer.account.profile.user_id).values():
            assert peer.session is not None
            with suppress(CryptoError):
                peer.session, body = peer.session.open(peer.party, envelope, int(self.town.now()))
                bodies.append(decode_body(body))
        return bodies

    async def _write(self, engine: Engine, event: Event) -> None:
        to = PEERS if event.group else (event.who,)
        if event.large:
            self.large |= {(round(trio.current_time(), 6), name) for name in to}
        await send(engine, to, b"x" * (LARGE if event.large else 5))

    async def _away(self, event: Event) -> None:
        """Nobody gets in for a while, and who is in is put out."""
        port = OTHER if event.kind == "outage" else HOME
        server = self.town.wires.servers.pop(port, None)
        if server is None:
            return
        if event.kind == "shut":
            self.town.office.cut = 0
            self.town.send(SYSTEM_RANDOM.token(ENVELOPE_SIZE))  # at which the connection ends
        await trio.sleep(event.wait)
        self.town.wires.servers[port] = server

    async def _treat(self, event: Event) -> None:
        if event.kind == "forge":
            self.town.send(SYSTEM_RANDOM.token(ENVELOPE_SIZE))
            return
        envelope, treatment = self._sealed(event), event.treatment
        held, self._held = self._held, []
        if treatment == "garble the end":
            envelope = envelope[:-1] + bytes([envelope[-1] ^ 1])
        elif treatment == "garble the head":
            envelope = envelope[:20] + bytes([envelope[20] ^ 1]) + envelope[21:]
        elif treatment == "repeat":
            self.town.send(envelope)
            await trio.sleep(event.wait)
        elif treatment == "delay":
            await trio.sleep(event.wait)
        elif treatment == "behind the next":
            self._held = [envelope]
        if treatment not in ("drop", "behind the next"):
            self.town.send(envelope)
        for each in held:
            self.town.send(each)

    def _arrives(self, event: Event) -> None:
        self.town.send(self._sealed(event))

    def _sealed(self, event: Event) -> bytes:
        """As the peer's client sends it."""
        peer = self.peers[event.who]
        people = tuple(sorted(("alice", *PEERS))) if event.group else ()
        if event.kind == "anew":
            peer.begin()
        if event.kind == "read":
            self.read(event.who)
        if event.kind in ("say", "miss", "anew", "read"):
            text = b"%d of %s" % (len(self._last), event.who.encode())
            part = peer.part(text, people)
            key = f"{event.who} {event.group}"
            parents = [self._last[key]] if key in self._last else []
            if event.kind == "miss":
                parents.append(Parent(who(event.who), SYSTEM_RANDOM.token(32)))
            part = replace(part, parents=tuple(parents))
            self._last[key] = Parent(who(event.who), part.hash(who(event.who)))
            return peer.seal(encode_part(part))
        people = people or tuple(sorted(("alice", event.who)))
        own = [m.conversation + m.id for m in self.town.messages() if m.sender == "alice"]
        place = talk_id(people)
        own = [ref for ref in own if ref[:16] == place][-1:]
        refs = {
            "receipt": Refs(received=tuple(own)),
            "want": Refs(wanted=tuple(own)),
            "offer": Refs(offered=(place + SYSTEM_RANDOM.token(16),)),
        }[event.kind]
        return peer.seal(encode_note(Note(refs, peer.bundle)))


@contextmanager
def fixed() -> Iterator[None]:
    """Nothing is left to chance that may differ between two runs."""

    def clock(context, _random, send, nursery):  # type: ignore[no-untyped-def]
        return NoteClock(context, seeded("ticks"), send, nursery)

    def delay(receiver: Receiver) -> int:
        return PROMPT_AFTER * 1_000 if receiver._context.is_prompt else 0

    with ExitStack() as stack:
        stack.enter_context(patch("cbfs.engine.engine.NoteClock", clock))
        stack.enter_context(patch("cbfs.receiving.receiver.Receiver._delay", delay))
        stack.enter_context(patch("cbfs.problems._share", lambda _random: 0.75))
        stack.enter_context(patch("cbfs.contacts.monitor.Monitor._soon", lambda _self, mean: mean))
        stack.enter_context(patch("cbfs.contacts.feeds.exponential", lambda _random, mean: mean))
        yield


@contextmanager
def watched(history: Sequence[Event], reactions: Reactions) -> Iterator[Watched]:
    """After a run."""
    made = Watched(reactions)
    try:
        with fixed():
            made.go(history)
        yield made
    finally:
        made.town.close()


def run(
    history: Sequence[Event], reactions: Reactions
) -> tuple[list[Left], set[tuple[float, str]]]:
    """What left, and when alice wrote something in several parts to whom."""
    with watched(history, reactions) as made:
        return made.left, made.large


def differences(history: Sequence[Event], reactions: Reactions) -> list[str]:
    """What a server can see by what it did. Behind what alice writes in several parts more may
    follow, whenever that leaves: nobody knows of how many it is."""
    plain, large = run(honest(history), reactions)
    other, _large = run(history, reactions)
    before, after = Counter(plain), Counter(other)
    found = []
    for left in sorted(before.keys() | after.keys(), key=lambda left: (left.at, left.to)):
        several = min(before[left], after[left]) > 1
        lengthened = several and any(to == left.to and at <= left.at for at, to in large)
        if before[left] != after[left] and not lengthened:
            found.append(f"{left}: {before[left]} and {after[left]}")
    return found
