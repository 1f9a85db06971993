"""Two or three people for the model of tests/engine/test_lives_model: real sessions, lives, prekeys
and starts, in a store that is a few dicts, on a clock of each one's own. What stands above them is
as narrow as it can be: a message is a number, and what is told of it is what PROTOCOL.rst says
(receipts, what is offered, wanted and sent again, and on which session)."""

import json
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

from cbfs.contacts.contacts import Contacts
from cbfs.contacts.former_keys import given_up, is_given_up
from cbfs.contacts.held_session import Accepted, Chosen, Damaged, Opened, only
from cbfs.contacts.lives import give_up_all
from cbfs.contacts.sessions import Sessions
from cbfs.context import Context
from cbfs.network.link import Link
from cbfs.receiving.prekeys import top_up
from cbfs.storage.store import Meta, Store, Table
from cbfs_common.errors import CryptoError
from cbfs_common.limits import (
    ASK_AFTER,
    ASKS_MAX,
    IN_MAX,
    LIVES_MAX,
    OFFER_AFTER,
    OFFERS_MAX,
    SESSIONS_PER_PEER,
    STARTS_MAX,
)
from cbfs_common.primitives import KemKey, Random, dh_public
from cbfs_common.profile import kem_id
from cbfs_common.session.prekey import decode_prekey
from cbfs_common.session.session import Party, Peer, Session
from cbfs_common.session.states import Stage
from tests.support.healing_world import SECRETS_MAX, START, Shelf
from tests.support.lives_store import Memory, drawn_by

SECOND, HOUR, DAY = 1_000, 3_600_000, 86_400_000
JUMP = 8 * DAY
"""By which a clock may be ahead and be believed."""

AGAIN = {"wanted": (ASK_AFTER * SECOND, ASKS_MAX), "offered": (OFFER_AFTER * SECOND, OFFERS_MAX)}
Item = tuple[str, int]
"""What is told, of which message."""


class Server(Shelf):
    """Prekeys and mailbox of one's keys. ``gives``: "next" of those that it was given; the
    "same" one again and again; the "last" resort; or an "old" one that it has given out before."""

    def __init__(self) -> None:
        super().__init__()
        self.gives = "next"
        self.given: list[bytes] = []
        self.mail: list[bytes] = []
        self.lied = False
        self.ended = False
        """Its owner has left it, and nothing is to be had there."""

    def give(self, now: int) -> bytes:
        """The record of a prekey at ``now`` (seconds)."""
        if self.gives == "old" and self.given:
            self.lied = True
            self.given.append(self.given.pop(0))
            return self.given[-1]
        if self.gives == "last" or not self.one_time:
            return self.last_resort
        record = self.one_time[0] if self.gives == "same" else self.take(now)
        self.lied |= record in self.given
        if record not in self.given:
            self.given.append(record)
        return record


class Keys:
    """One's keys of some time, and where others write to them."""

    def __init__(self, random: Random) -> None:
        auth = random.token(32)
        self.party = Party(random.token(32), auth, dh_public(auth), KemKey(random.token(64)))
        self.signing = random.token(32)
        self.kem_public = self.party.kem.public()
        self.peer = Peer(self.party.identity, self.party.auth_public, kem_id(self.kem_public))
        self.server = Server()


@dataclass
class Job:
    """As ``cbfs.messages.queues.delivery_queue`` has it, of one part."""

    peer: str
    id: int
    again: bool = False
    on: bytes = b""
    envelope: bytes | None = None


@dataclass
class Papers:
    """What somebody has beside sessions. Messages are numbers; those of one's own have a state for
    each recipient: "queued", "sent", "received"."""

    jobs: list[Job] = field(default_factory=list)
    states: dict[tuple[str, int], str] = field(default_factory=dict)
    parents: dict[int, list[tuple[str, int]]] = field(default_factory=dict)
    shown: dict[int, str] = field(default_factory=dict)
    """By their numbers who has written them."""
    receipts: set[tuple[str, int]] = field(default_factory=set)
    wanted: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    offered: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    """(when it is due, how often it was told)"""
    turns: set[str] = field(default_factory=set)
    last: dict[tuple[str, str], int] = field(default_factory=dict)
    """(with whom, who has written it)"""
    known: dict[str, int] = field(default_factory=dict)
    """Which of their keys."""
    rekeyed: dict[str, int] = field(default_factory=dict)


@dataclass
class Snapshot:
    """A copy of an account."""

    records: dict[Table, dict[bytes, bytes]]
    papers: Papers
    keys: list[Keys]


class Person:
    """One person's client. ``_contacts`` is this: keys of others as far as they are known."""

    def __init__(self, world: "LivesWorld", name: str) -> None:
        self.world = world
        self.name = name
        self.ever = [Keys(world.random)]
        """All keys that one has had, for others to look up."""
        self.keys = list(self.ever)
        """Those that count, the newest first."""
        self.papers = Papers()
        self.memory = Memory(world.random, {table: {} for table in Table})
        self.ahead = self.highest = 0
        self._as_known: dict[str, SimpleNamespace] = {}
        self.opened: set[bytes] = set()
        self.rounds: Counter[str] = Counter()
        self.begun = self.parted = 0
        """Starts by last-resort prekeys that were opened, and how often all sessions with somebody
        were given up."""
        self.load()

    def load(self) -> None:
        """As after a restart."""
        me, *former = (keys.party for keys in self.keys)
        store = cast(Store, self.memory)
        self.sessions = Sessions(store, me, self.world.random, tuple(former))

    @property
    def now(self) -> int:
        """By the own clock."""
        self.highest = max(self.highest, self.world.now + self.ahead)
        return self.world.now + self.ahead

    def others(self) -> list["Person"]:
        return [person for person in self.world.people if person is not self]

    # as ``cbfs.contacts.contacts``

    def get(self, name: str) -> SimpleNamespace:
        keys, rekeyed = self.keys_of(name), self.papers.rekeyed.get(name, 0)
        known = self._as_known.get(name)
        if known is None or (known.profile, known.rekeyed) != (keys, rekeyed):
            known = self._as_known[name] = SimpleNamespace(profile=keys, rekeyed=rekeyed)
        return known

    def of_identity(self, identity: bytes) -> SimpleNamespace | None:
        known = (self.get(name) for name in self.world.by_name)
        return next((each for each in known if each.profile.party.identity == identity), None)

    def identity(self, _name: str, profile: Keys) -> bytes:
        return profile.party.identity

    def keys_of(self, name: str) -> Keys:
        """Of another, as they are known here."""
        return self.world.by_name[name].ever[self.papers.known.get(name, 0)]

    def learn(self, name: str) -> None:
        """Look up the keys of another."""
        newest = len(self.world.by_name[name].ever) - 1
        if self.papers.known.get(name, 0) != newest:
            self.papers.known[name] = newest
            self.papers.rekeyed[name] = self.now
            self._begin_again(name)

    # sending

    def waits(self, name: str, id_: int) -> bool:
        """Whether a message is to be delivered still."""
        return any((job.peer, job.id) == (name, id_) for job in self.papers.jobs)

    def write(self, name: str) -> int:
        """A message to another."""
        papers, id_ = self.papers, self.world.number()
        papers.parents[id_] = [
            (author, papers.last[name, author])
            for author in (self.name, name)
            if (name, author) in papers.last
        ]
        papers.last[name, self.name] = id_
        papers.shown[id_] = self.name
        papers.states[name, id_] = "queued"
        papers.jobs.append(Job(name, id_))
        return id_

    def chosen(self, name: str) -> Chosen:
        return self.sessions.chosen(name, self.now, self.keys_of(name).party.identity)

    def _begun(self, name: str) -> Session | None:
        keys = self.keys_of(name)
        if keys.server.ended:
            self.learn(name)
            return None
        record = keys.server.give(self.world.now // SECOND)
        prekey = decode_prekey(record) if record else None
        if prekey is None or prekey.expires <= self.now // SECOND:
            return None
        return self.sessions.start(name, keys.peer, prekey, keys.kem_public)

    def pump(self, name: str, *, again: bool = False, fails: bool = False, most: int = 16) -> None:
        """Deliver what waits for another. ``fails``: the server has it, and that is not heard."""
        jobs = [job for job in self.papers.jobs if (job.peer, job.again) == (name, again)][:most]
        if any(job.envelope is None for job in jobs):
            chosen = self.chosen(name)
            if chosen.first is None or (chosen.silent and not again):
                begun = self._begun(name)
                if begun is None:
                    return
                chosen = only(begun)
            self._seal(name, jobs, chosen)
        for job in jobs:
            if job.envelope is not None and self._hand_over(name, job.envelope) and not fails:
                self._finish(job)

    def _seal(self, name: str, jobs: list[Job], chosen: Chosen) -> None:
        batch, papers, now = self.sessions.batch(), self.papers, self.now
        untold, told = self._ready(name, turns=not chosen.owed), False
        for job in jobs:
            if job.envelope is not None:
                continue
            first = chosen.note if job.again else chosen.first
            session = self.sessions.get(name, job.on) if job.on else first
            if session is None:
                papers.jobs.remove(job)
                continue
            tells = not told and chosen.note is not None and session.id == chosen.note.id
            body = self._body(untold if tells else [], job.id)
            told = told or tells
            job.envelope = batch.seal(session, name, body, now)
            if chosen.second is not None and not job.again:
                papers.jobs.append(Job(name, job.id, again=True, on=chosen.second.id))
        self.memory.write(batch.write)
        batch.done()
        if told:
            self._settle(name, untold)

    def _hand_over(self, name: str, envelope: bytes) -> bool:
        server = self.keys_of(name).server
        if server.ended:
            self.learn(name)
            return False
        server.mail.append(envelope)
        self.world.history.append((server, envelope))
        return True

    def _finish(self, job: Job) -> None:
        papers, key = self.papers, (job.peer, job.id)
        if job not in papers.jobs:  # it was sealed anew
            return
        papers.jobs.remove(job)
        if not job.on:
            if papers.states[key] == "queued":
                papers.states[key] = "sent"
            if papers.states[key] != "received":
                papers.offered[key] = self.now + AGAIN["offered"][0], 0

    def _body(self, items: list[Item], id_: int = 0) -> bytes:
        told = {kind: [i for k, i in items if k == kind] for kind in ("r", "wanted", "offered")}
        parents = self.papers.parents.get(id_, [])
        return json.dumps([id_, parents, *told.values()]).encode()

    def _ready(self, name: str, *, turns: bool) -> list[Item]:
        papers, now = self.papers, self.now
        items = [("r", id_) for who, id_ in sorted(papers.receipts) if who == name]
        for kind in AGAIN:
            due: dict[tuple[str, int], tuple[int, int]] = getattr(papers, kind)
            items += [
                (kind, id_) for (who, id_), (at, _) in due.items() if who == name and at <= now
            ]
        return items + [("t", 0)] * (turns and name in papers.turns)

    def _settle(self, name: str, told: list[Item]) -> None:
        papers, now = self.papers, self.now
        for kind, id_ in told:
            if kind == "t":
                papers.turns.discard(name)
            elif kind == "r":
                papers.receipts.discard((name, id_))
            else:
                due: dict[tuple[str, int], tuple[int, int]] = getattr(papers, kind)
                (wait, most), (_, tries) = AGAIN[kind], due[name, id_]
                due[name, id_] = now + wait * 2**tries, tries + 1
                if tries + 1 >= most:
                    del due[name, id_]

    def tick(self, name: str) -> None:
        """One envelope, whatever is owed."""
        chosen, self.rounds[name] = self.chosen(name), self.rounds[name] + 1
        draft = self._ready(name, turns=True)
        if chosen.owed and self.rounds[name] % 2:
            self._note(name, draft, chosen.owed[self.rounds[name] // 2 % len(chosen.owed)])
        elif any(job.again and job.peer == name for job in self.papers.jobs):
            self.pump(name, again=True, most=1)
        else:
            session = chosen.note or self._begun(name)
            if session is not None and self._note(name, draft, session):
                self._settle(name, draft)

    def _note(self, name: str, draft: list[Item], session: Session) -> bool:
        batch = self.sessions.batch()
        envelope = batch.seal(session, name, self._body(draft), self.now)
        self.memory.write(batch.write)
        batch.done()
        return self._hand_over(name, envelope)

    def _begin_again(self, name: str) -> None:
        kept = (job for job in self.papers.jobs if not (job.peer == name and job.on))
        self.papers.jobs = [
            Job(job.peer, job.id, again=job.again) if job.peer == name else job for job in kept
        ]

    def _send_again(self, name: str, ids: list[int]) -> None:
        papers = self.papers
        waiting = {job.id for job in papers.jobs if job.peer == name}
        for id_ in ids:
            if id_ in waiting or (name, id_) not in papers.states:
                continue
            papers.offered.pop((name, id_), None)
            papers.jobs.append(Job(name, id_, again=True))

    # receiving

    def receive(self, envelopes: list[bytes]) -> None:
        """As one batch."""
        batch, papers = self.sessions.batch(), self.papers
        read: list[tuple[str, bytes, Accepted]] = []
        parted: list[str] = []
        for envelope in envelopes:
            try:
                opened = batch.open(envelope, self.now // SECOND)
                name = self._sender(opened)
                read.append((name, opened.body, batch.accept(opened, name, self.now)))
                self.begun += opened.last_resort is not None
                self.world.opens(self, envelope)
            except Damaged as error:
                assert not error.far
                if batch.diverged(error.session):
                    parted.append(error.peer)
            except CryptoError:
                pass
        self.memory.write(batch.write)
        for name, body, step in read:
            self._take(name, body, step)
        for name, _body, step in read:
            if step.owes:
                papers.turns.add(name)
            if step.first:
                self._hasten(name)
            if step.anew:
                self._begin_again(name)
                self._send_again(name, [id_ for who, id_ in papers.offered if who == name])
        self.parted += len(parted)
        for name in parted:
            self._begin_again(name)
            papers.turns.add(name)
        batch.done()
        self.check()

    def _sender(self, opened: Opened) -> str:
        if opened.peer:
            contacts = cast(Contacts, self)
            if is_given_up(contacts, self.sessions, opened.peer, opened.session, self.now):
                raise CryptoError("it is under keys that its sender has given up")
            return opened.peer
        for other in self.others():
            known = self.papers.known.get(other.name, 0)
            for keys in other.ever[known:]:
                if keys.party.identity == opened.session.peer.identity:
                    if keys is not other.ever[known]:
                        self.learn(other.name)
                    if keys is self.keys_of(other.name):
                        return other.name
        raise CryptoError("nobody has these keys")

    def _take(self, name: str, body: bytes, step: Accepted) -> None:
        papers, now = self.papers, self.now
        id_, parents, received, wanted, offered = json.loads(body)
        if id_:
            papers.receipts.add((name, id_))
            papers.wanted.pop((name, id_), None)
            if id_ not in papers.shown:
                papers.shown[id_] = name
                papers.last[name, name] = max(id_, papers.last.get((name, name), 0))
            for author, parent in parents:
                if author == name and parent not in papers.shown:
                    papers.wanted.setdefault((name, parent), (now, 0))
        if step.unconfirmed:
            return
        for ref in received:
            papers.offered.pop((name, ref), None)
            if (name, ref) in papers.states:
                papers.states[name, ref] = "received"
        for ref in offered:
            if ref in papers.shown:
                papers.receipts.add((name, ref))
            else:
                papers.wanted.setdefault((name, ref), (now, 0))
        self._send_again(name, wanted)

    def _hasten(self, name: str) -> None:
        for (who, id_), (due, tries) in self.papers.offered.items():
            if who == name and tries and due > self.now:
                self.papers.offered[who, id_] = self.now, min(tries, 2)

    def check(self) -> None:
        """Nothing grows."""
        held = list(self.sessions._held.values())
        for other in self.others():
            mine = [h.session.stage for h in held if h.peer == other.name]
            assert len(mine) <= SESSIONS_PER_PEER
            assert mine.count(Stage.IN) <= IN_MAX
            assert len(self.sessions.lives(other.name).past) <= LIVES_MAX
            ids = Counter(job.id for job in self.papers.jobs if job.peer == other.name)
            assert max(ids.values(), default=0) <= 2
        assert len(self.sessions.prekeys.pairs) <= SECRETS_MAX
        assert len(self.memory.keys(Table.META, Meta.START)) <= STARTS_MAX
        assert len(self.memory.keys(Table.SESSIONS)) == len(held)

    # what befalls an account

    def snapshot(self) -> Snapshot:
        return Snapshot(self.memory.copied(), deepcopy(self.papers), list(self.keys))

    def restore(self, snapshot: Snapshot, *, noticed: bool = True) -> None:
        """Go on from a copy, with the keys of now."""
        self.memory.records = {table: dict(kept) for table, kept in snapshot.records.items()}
        self.papers = deepcopy(snapshot.papers)
        if noticed:
            self._give_up_all()
        else:
            self.opened.clear()
        self.load()

    def _give_up_all(self) -> None:
        self.memory.write(give_up_all)
        for other in self.others():
            self._begin_again(other.name)
            if any(who == other.name for who, _ in self.papers.last):
                self.papers.turns.add(other.name)

    def rotate(self, *, stolen: bool) -> None:
        """Have new keys for all."""
        keys = Keys(self.world.random)
        self.ever.append(keys)
        if stolen:
            for former in self.keys:
                former.server.ended = True
                former.server.mail.clear()
        self.keys = [keys] if stolen else [keys, *self.keys]
        if stolen:
            self._give_up_all()
        self.load()

    def come_apart(self, name: str) -> None:
        """Somebody has a header key of the other's."""
        session, batch = self.chosen(name).note, self.sessions.batch()
        if session is not None and batch.diverged(session.id):
            self.memory.write(batch.write)
            self._begin_again(name)
            self.papers.turns.add(name)
            batch.done()

    def set_clock(self, ahead: int) -> None:
        self.ahead = ahead
        self.now  # noqa: B018 (it is remembered)

    async def set_right(self) -> None:
        """What a clock that was ahead has written is put right."""
        now, self.ahead = self.now - self.ahead, 0
        if self.highest > now + HOUR:
            await self.sessions.bring_back(cast(Store, self.memory), now)
            for kind, (wait, _most) in AGAIN.items():
                due: dict[tuple[str, int], tuple[int, int]] = getattr(self.papers, kind)
                for key, (at, tries) in due.items():
                    due[key] = min(at, now + wait * 2**tries), tries
            for name, at in self.papers.rekeyed.items():
                self.papers.rekeyed[name] = min(at, now)
            self.highest = now

    async def tidy(self) -> None:
        if self.ahead > JUMP:
            return
        store = cast(Store, self.memory)
        await self.sessions.tidy(store, self.now // SECOND)
        old = given_up(cast(Contacts, self), self.sessions, self.now)
        await self.sessions.forget_given_up(store, old)

    async def look_after_prekeys(self) -> None:
        keys = self.keys[0]
        account = SimpleNamespace(signing=keys.signing, kem_public=keys.kem_public)
        context = SimpleNamespace(
            clock=lambda: self.now, clock_is_right=self.ahead == 0, sessions=self.sessions,
            store=self.memory, random=self.world.random, account=account,
        )  # fmt: skip
        await top_up(cast(Link, keys.server), cast(Context, context))

    def fetch(self) -> list[Server]:
        """The mailboxes that one looks into."""
        return [keys.server for keys in self.keys]


class LivesWorld:
    """All of them, and one right clock (milliseconds)."""

    def __init__(self, seed: int, names: tuple[str, ...]) -> None:
        self.random = drawn_by(seed)
        self.now = START
        self.numbers = 0
        self.people: list[Person] = []
        self.by_name: dict[str, Person] = {}
        self.history: list[tuple[Server, bytes]] = []
        """All envelopes that were ever at a server."""
        for name in names:
            self.by_name[name] = Person(self, name)
        self.people = list(self.by_name.values())

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def opens(self, person: Person, envelope: bytes) -> None:
        """Nothing opens twice."""
        once = envelope[:32] + envelope[-32:]
        assert once not in person.opened, "an envelope was opened twice"
        person.opened.add(once)
