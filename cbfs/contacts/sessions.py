"""Sessions with peers: kept in memory, written with what they bring about.

A step of the ratchet is computed first and stored in the same transaction as its result (the
envelope to send, or the message received); only when that is on the disk does it count in
memory. ``lock`` is held from the first step of a batch until its commit.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

import trio

from cbfs.contacts.held_session import (
    Accepted,
    Chosen,
    Damaged,
    Held,
    Opened,
    brought_back,
    crowded,
    decode_held,
    latest,
    says_other_life,
)
from cbfs.contacts.lives import Lives, forget_lives, load_lives, new_lives
from cbfs.contacts.prekey_secrets import PrekeySecrets
from cbfs.contacts.seen_starts import SeenStart, SeenStarts
from cbfs.storage.store import Meta, Store, Table, Writer
from cbfs_common.errors import CryptoError, LimitError
from cbfs_common.limits import SESSION_IDLE, SESSIONS_PER_PEER, SILENCE
from cbfs_common.primitives import Random
from cbfs_common.session.prekey import Prekey, PrekeyKind
from cbfs_common.session.routes import Routes
from cbfs_common.session.session import (
    LIFE_SIZE,
    Duplicate,
    Outer,
    Party,
    Peer,
    Session,
    SessionDiverged,
    Stage,
    TooFar,
    open_first,
    outer_of,
    start,
)
from cbfs_common.session.states import TABLE, Action, Choice, Event, choose, excess, opening


class Sessions:
    """All sessions of the account, and the secrets of its prekeys."""

    def __init__(
        self, store: Store, me: Party, random: Random, former: tuple[Party, ...] = ()
    ) -> None:
        """``former``: oneself under earlier keys, that others may still write to."""
        self.lock = trio.Lock()
        self._me = me
        self._parties = {party.identity: party for party in (me, *former)}
        self._random = random
        self._held: dict[bytes, Held] = {}
        self._by_peer: dict[str, set[bytes]] = {}
        self._routes = Routes()
        with store.read() as reader:
            for _key, data in reader.items(Table.SESSIONS):
                self._take(decode_held(data))
            self.prekeys = PrekeySecrets(reader)
            self._lives = load_lives(reader)
            self._starts = SeenStarts(reader)
        self._clock: int | None = None

    def chosen(self, peer: str, now: int, identity: bytes | None = None) -> Chosen:
        """What is sent on at ``now`` (milliseconds): of the sessions between one's own keys of now
        and those of ``identity`` (32), if given. Others are there to read what was sent before a
        change of keys."""
        choice = self._choice(peer, now, identity)
        owed = tuple(self._held[id_].session for id_ in choice.owed)
        first, second, note = map(self._session, (choice.first, choice.second, choice.note))
        return Chosen(first, second, note, owed, choice.silent)

    def _session(self, id_: bytes | None) -> Session | None:
        held = self._held.get(id_ or b"")
        return held.session if held else None

    def get(self, peer: str, id_: bytes) -> Session | None:
        """A session with this peer by its id, None when it is not here any more."""
        held = self._held.get(id_)
        return held.session if held is not None and held.peer == peer else None

    def _choice(self, peer: str, now: int, identity: bytes | None = None) -> Choice:
        held = self._of(peer)
        if identity is not None:
            held = [h for h in held if h.ends == (self._me.identity, identity)]
        lives, since = self._lives.get(peer), now - SILENCE * 1_000
        present, past = (lives.present, lives.past) if lives else (b"", ())
        return choose([h.candidate() for h in held], present, past, since)

    def _of(self, peer: str) -> list[Held]:
        return [self._held[id_] for id_ in self._by_peer.get(peer, ())]

    def is_heard(self, peer: str) -> bool:
        """Whether anything of this peer's was opened on a session that is here."""
        return any(held.session.heard for held in self._of(peer))

    def is_proven(self, peer: str) -> bool:
        """Whether this peer is proven in a session that is here."""
        return any(held.session.stage is Stage.CONFIRMED for held in self._of(peer))

    def has_other_life(self, peer: str, identity: bytes, life: bytes | None) -> bool:
        """Whether this peer has said another life than this one, where it is proven, under the keys
        of ``identity`` (32)."""
        return says_other_life(self._of(peer), identity, life)

    async def forget_given_up(self, store: Store, given_up: Callable[[str, Session], bool]) -> None:
        """Forget the sessions, each with its peer's name, of which nothing counts any more."""
        async with self.lock:
            ids = [id_ for id_, h in self._held.items() if given_up(h.peer, h.session)]

            def change(writer: Writer) -> None:
                for id_ in ids:
                    writer.delete(Table.SESSIONS, id_)

            if ids:
                await store.commit(change)
            for id_ in ids:
                self._drop(id_)

    def __len__(self) -> int:
        return len(self._held)

    def lives(self, peer: str) -> Lives:
        """One's own life for this peer, and theirs. New ones are written with the first step of a
        session with them."""
        return self._lives.setdefault(peer, new_lives(peer, self._random.token))

    def start(self, name: str, peer: Peer, prekey: Prekey, kem_public: bytes) -> Session:
        """A new session with the peer ``name``; it counts when its first step was written.
        ``kem_public`` came with the prekey. Raises CryptoError when it is not the peer's."""
        life = self.lives(name).own
        return start(self._me, peer, prekey, kem_public, life, self._random)

    def is_stale(self, session: Session, peer: str) -> bool:
        """Whether a session says a life that has been given up since."""
        return session.own_life not in {None, self.lives(peer).own}

    async def tidy(self, store: Store, now: int) -> None:
        """Forget what is too old to be of use at ``now`` (seconds): skipped message keys, sessions
        that others have taken the place of, and secrets of prekeys."""
        async with self.lock:
            old = self.prekeys.old(now)
            gone = self._starts.old(self.prekeys.pairs.keys() - set(old))
            idle = self._idle(now * 1_000)
            kept = [(held, held.session.expire(now)) for held in self._held.values()]
            changed = [
                replace(held, session=s)
                for held, s in kept
                if s is not held.session and s.id not in idle
            ]

            def change(writer: Writer) -> None:
                for id_ in old:
                    writer.delete(Table.PREKEYS, id_)
                for id_ in gone:
                    writer.delete(Table.META, Meta.START + id_)
                for id_ in idle:
                    writer.delete(Table.SESSIONS, id_)
                for held in changed:
                    writer.put(Table.SESSIONS, held.session.id, held.encode())

            if old or changed or idle or gone:
                await store.commit(change)
            self.prekeys.drop(old)
            self._starts.drop(gone)
            for id_ in idle:
                self._drop(id_)
            for held in changed:
                self._take(held)

    async def bring_back(self, store: Store, now: int) -> None:
        """Put what a clock that was ahead has written at ``now`` (milliseconds since 1970), and
        keep the secrets of prekeys that it dated for as long as if they were made now."""
        async with self.lock:
            changed = [held for peer in self._by_peer for held in brought_back(self._of(peer), now)]
            seconds = now // 1_000
            ahead = self.prekeys.all_ahead(seconds)

            def change(writer: Writer) -> None:
                for each in changed:
                    writer.put(Table.SESSIONS, each.session.id, each.encode())
                self.prekeys.write_ahead(writer, ahead)

            await store.commit(change)
            for each in changed:
                self._take(each)
            self.prekeys.ahead = ahead
            self._clock = None

    def _idle(self, now: int) -> set[bytes]:
        """Sessions that nothing was opened on for SESSION_IDLE until a turn was made that the peer
        has answered since, on a confirmed one that it knows to be so. Else it may still send on
        them, as nobody was there; and two people could each forget what the other sends on."""
        idle: set[bytes] = set()
        for peer in self._by_peer:
            choice = self._choice(peer, now)
            best = {choice.first, choice.second, choice.note}
            note = self._held.get(choice.note or b"")
            if note is None or note.session.stage is not Stage.CONFIRMED or not note.session.proven:
                continue
            idle |= {
                h.session.id
                for h in self._of(peer)
                if h.session.id not in best
                and h.used < note.reached - SESSION_IDLE * 1_000
                and TABLE[h.session.stage, Event.IDLE].stage is None
            }
        return idle

    def forget(self, writer: Writer, peers: Iterable[str]) -> None:
        """Delete these people's sessions in a transaction, and what is known of their lives: with
        who comes back another one begins."""
        for peer in peers:
            for id_ in self._by_peer.get(peer, ()):
                writer.delete(Table.SESSIONS, id_)
            forget_lives(writer, peer)

    def forgotten(self, peers: Iterable[str]) -> None:
        """Forget these people's sessions in memory, when that transaction is on the disk."""
        for peer in peers:
            for id_ in tuple(self._by_peer.get(peer, ())):
                self._drop(id_)
            self._by_peer.pop(peer, None)
            self._lives.pop(peer, None)

    def given_up_all(self, store: Store) -> None:
        """Forget all in memory, when the transaction of ``give_up_all`` is on the disk."""
        for id_ in tuple(self._held):
            self._drop(id_)
        self._by_peer.clear()
        self.prekeys.drop(tuple(self.prekeys.pairs))
        with store.read() as reader:
            self._lives, self._starts = load_lives(reader), SeenStarts(reader)

    def batch(self) -> "Batch":
        """Tentative steps that are committed together. Hold ``lock`` until they are."""
        return Batch(self)

    def latest(self) -> int:
        """The latest time that any session has, in milliseconds since 1970."""
        if self._clock is None:
            self._clock = latest(self._held.values())
        return self._clock

    def _take(self, held: Held) -> None:
        self._held[held.session.id] = held
        self._by_peer.setdefault(held.peer, set()).add(held.session.id)
        self._routes.update(held.session)

    def _drop(self, id_: bytes) -> None:
        held = self._held.pop(id_, None)
        if held is not None:
            self._by_peer[held.peer].discard(id_)
            self._routes.remove(id_)
            self._clock = None  # as if it had never been there: so it is after a restart


class Batch:
    """Tentative steps over the sessions: ``write`` stores them, ``done`` makes them count. Those of
    a log of what has arrived are stored one by one: ``draw_from`` before each, and ``write_step``
    after it."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._clock = sessions.latest()
        self._token: Callable[[int], bytes] | None = None
        self._drawn: dict[str, Lives] = {}
        """Lives with people of whom nothing is known, which count with a step."""
        self._written: dict[bytes | str, Held | Lives | SeenStart | None] = {}
        """What ``write_step`` has stored; None for what it has deleted."""
        self._changed: dict[bytes, Held] = {}
        self._gone: set[bytes] = set()
        self._lives: dict[str, Lives] = {}
        self._used: set[bytes] = set()
        self._started: dict[bytes, SeenStart] = {}
        self._routes = Routes()
        self._moved: dict[bytes, Session] = {}
        """What ``_routes`` lacks: most batches end before anything is looked for there."""

    def seal(self, session: Session, peer: str, body: bytes, now: int) -> bytes:
        """An envelope for ``peer`` on the newest state of that session, which may be a new one.
        ``now`` in milliseconds since 1970."""
        held = self._newest(session.id)
        if held is None:
            held = Held(session, peer, 0, self._tick(now))
            self._lives[peer] = self._lives_of(peer)
        me = self._sessions._parties[held.session.own_identity]
        life = self._lives_of(peer).own
        stepped, envelope = held.session.seal(me, body, self._sessions._random, life)
        # by a clock that was set back, what this turn answers would be later than it
        tick = self._tick(now) if held.turns else 0
        self._changed[stepped.id] = held.sealed(stepped, tick)
        return envelope

    def _tick(self, now: int) -> int:
        self._clock = max(self._clock + 1, now)
        return self._clock

    def draw_from(self, token: Callable[[int], bytes]) -> None:
        """Whatever is drawn at random by the next step is drawn by ``token(n)``."""
        self._token = token
        self._drawn.clear()

    def open(self, envelope: bytes, now: int) -> Opened:
        """Open an envelope on the session that expects it, else as a first message, else by trial.
        ``now`` in seconds since 1970. Raises CryptoError (Duplicate for a copy, Damaged when it is
        of a session that is known, and unchanged); then nothing has changed. The step counts only
        after ``accept``."""
        sessions = self._sessions
        id_ = sessions._routes.find(envelope) or self._own_routes().find(envelope)
        if id_ is not None and (held := self._newest(id_)) is not None:
            return self._step(held, envelope, now)
        for me in sessions._parties.values():
            outer = None
            with suppress(CryptoError):
                outer = outer_of(me, envelope)
            opened = self._open_first(me, outer, envelope, now) if outer is not None else None
            if opened is not None:
                return opened
        id_ = self._own_routes().search(envelope) or sessions._routes.search(envelope)
        if id_ is None or (held := self._newest(id_)) is None:
            raise CryptoError("cannot be opened")
        return self._step(held, envelope, now)

    def _open_first(self, me: Party, outer: Outer, envelope: bytes, now: int) -> Opened | None:
        """Open an envelope as a first message to one of the prekeys. None when it is none, or one
        too far from the first: it may be a late one of a session that began. Raises CryptoError for
        one of a session that is known: Duplicate when it is not here any more."""
        pair = self._sessions.prekeys.pairs.get(outer.prekey_id)
        if pair is None or pair.id in self._used:
            return None
        try:
            session, body = open_first(me, pair, outer, envelope, now)
        except (CryptoError, LimitError):
            return None
        held = self._newest(session.id)
        if held is not None:
            return self._step(held, envelope, now, outer)
        made = self._sessions.prekeys.made(pair, now)
        if pair.kind is PrekeyKind.ONE_TIME:
            return Opened(session, "", body, pair.id, made=made)
        start = self._started_before(session.id)
        if start is not None:
            if session.number <= start.next:
                raise Duplicate("this has begun before")
            session = session.only_from(start.next)
        return Opened(session, "", body, None, pair.id, made)

    def _own_routes(self) -> Routes:
        """Those of the steps of this batch."""
        for session in self._moved.values():
            self._routes.update(session)
        self._moved.clear()
        return self._routes

    def _started_before(self, id_: bytes) -> SeenStart | None:
        return self._started.get(id_) or self._sessions._starts.get(id_)

    def _step(self, held: Held, envelope: bytes, now: int, outer: Outer | None = None) -> Opened:
        me = self._sessions._parties.get(held.session.own_identity)
        if me is None:  # under keys that are too old
            raise CryptoError("cannot be opened")
        try:
            session, body = held.session.open(me, envelope, now, outer)
        except (SessionDiverged, TooFar) as error:
            far = isinstance(error, TooFar)
            raise Damaged(held.session.id, held.peer, far=far) from error
        return Opened(session, held.peer, body)

    def accept(self, opened: Opened, peer: str, now: int) -> Accepted:
        """Keep the step of what was opened: it is from ``peer``. ``now`` in milliseconds since
        1970."""
        session, tick = opened.session, max(self._clock + 1, now)
        before = self._newest(session.id)
        stage = before.session.stage if before else None
        actions = TABLE[stage, opening(stage, session.stage)].actions
        new = Held(session, peer, tick, tick, prekey=opened.made)
        held = before.opened(session, tick) if before else new
        lives = now_lives = self._lives_of(peer)
        turns = before is not None and session.turn > before.session.turn
        if Action.COUNT in actions and turns and session.peer_life is not None:
            later, sure = self._is_later(held, lives)
            now_lives = lives.counting(session.peer_life, later=later, sure=sure)
        counts = now_lives != lives
        crowd = [] if before else self._crowded(held)
        accepted = Accepted(
            Action.DOUBT in actions and self._is_beside_confirmed(held),
            Action.OWE in actions,
            stage is Stage.IN and session.stage is Stage.CONFIRMED,
            counts and not lives.present,
            counts and (bool(lives.present) or self._may_have_lost(held)),
        )
        # whatever may fail has been: a step that counts in part would lose what it has opened
        self._clock = tick
        self._moved.pop(session.id, None)
        self._moved[session.id] = session  # at the end, as it was opened last
        self._gone.discard(session.id)
        self._changed[session.id] = held
        if opened.prekey is not None:
            self._used.add(opened.prekey)
        if before is None or counts or peer in self._drawn:
            self._lives[peer] = now_lives
        if opened.last_resort is not None:
            self._started[session.id] = SeenStart(opened.last_resort, tick)
        for id_ in crowd:
            self._crowd_out(id_)
        return accepted

    def _others(self, held: Held) -> list[Held]:
        """All other sessions with its peer."""
        return [other for other in self._of(held.peer) if other.session.id != held.session.id]

    def _is_later(self, held: Held, lives: Lives) -> tuple[bool, bool]:
        """Whether a session on which the peer has just made a turn may say a later life than that
        which counts, and whether that one is over then. Who has given up its sessions begins
        others, and answers nothing any more on those of before; but what it has answered may come
        late. So this one was made after those of the life that counts and what has proven them, or
        the turn was that is answered. While nothing has proven them they may have been made before
        this one, and the life that counts be the later one all the same."""
        confirmed = (h for h in self._others(held) if h.session.stage is Stage.CONFIRMED)
        present = [h for h in confirmed if h.session.peer_life == lives.present]
        last = max((max(h.made, h.proved) for h in present), default=0)
        sure = not present or any(h.session.proven for h in present)
        return max(held.made, held.reached) >= last, sure

    def _may_have_lost(self, held: Held) -> bool:
        """Whether something was sealed for a peer on another session than that on which it is
        proven for the first time: nobody knows of the others that it has them."""
        return any(other.session.answered for other in self._others(held))

    def _is_beside_confirmed(self, held: Held) -> bool:
        """Whether the peer is proven in another session to the same keys of one's own, be it under
        keys of before: those of now are public, and prove nothing by themselves."""
        own, present = held.session.own_identity, self._lives_of(held.peer).present
        others = (other.session for other in self._others(held))
        return any(
            (other.own_identity, other.stage, other.peer_life) == (own, Stage.CONFIRMED, present)
            for other in others
        )

    def _crowded(self, held: Held) -> list[bytes]:
        """A session has begun: of those of the peer that are in, so many stay. The ids of the
        others, of which this may be one."""
        if TABLE[Stage.IN, Event.CROWDED].stage is not None:
            return []
        there = (*self._others(held), held)
        return crowded([each for each in there if each.session.stage is Stage.IN])

    def _crowd_out(self, id_: bytes) -> None:
        """What comes of it later begins it anew, where its prekey stays: whoever has sent that may
        not know that it is gone."""
        held, start = self._newest(id_), self._started_before(id_)
        if held is not None and start is not None:
            self._started[id_] = replace(start, next=held.session.number)
        self._give_up(id_)

    def diverged(self, id_: bytes) -> bool:
        """The two sides of a session have come apart (``Damaged``): it is given up. True when all
        sessions with its peer are, and a new life with them begins."""
        held = self._newest(id_)
        if held is None:
            return False
        transition = TABLE[held.session.stage, Event.DIVERGED]
        if transition.stage is None:
            self._give_up(id_)
        if Action.GIVE_UP not in transition.actions:
            return False
        for other in self._of(held.peer):
            self._give_up(other.session.id)
        own = (self._token or self._sessions._random.token)(LIFE_SIZE)
        self._lives[held.peer] = replace(self._lives_of(held.peer), own=own)
        return True

    def _give_up(self, id_: bytes) -> None:
        self._changed.pop(id_, None)
        self._moved.pop(id_, None)
        self._routes.remove(id_)
        self._gone.add(id_)

    def has_other_life(self, peer: str, identity: bytes, life: bytes | None) -> bool:
        """As that of ``Sessions``, by the newest states."""
        return says_other_life(self._of(peer), identity, life)

    def write_step(self, writer: Writer) -> None:
        """Write what the step since the last call has brought about; what is past the limits goes
        at once. For steps whose order is all that counts, in however many batches they are."""
        for id_ in self._excess():
            self._give_up(id_)
        written = self._written
        gone = [id_ for id_ in self._gone if written.get(id_, self) is not None]
        for id_ in gone:
            writer.delete(Table.SESSIONS, id_)
            written[id_] = None
        for id_, held in self._changed.items():
            if written.get(id_) is not held:
                writer.put(Table.SESSIONS, id_, held.encode())
                written[id_] = held
        if gone:  # nothing of them counts, as after a restart
            there = {**self._sessions._held, **self._changed}
            self._clock = latest(held for id_, held in there.items() if id_ not in self._gone)
        for prekey in self._used:
            if prekey not in written:
                writer.delete(Table.PREKEYS, prekey)
                written[prekey] = None
        for peer, lives in self._lives.items():
            if written.get(peer) is not lives:
                lives.write(writer)
                written[peer] = lives
        starts = [(Meta.START + id_, start) for id_, start in self._started.items()]
        if any(written.get(key) is not start for key, start in starts):
            self._sessions._starts.write(writer, self._started)
            written.update(starts)

    def write(self, writer: Writer) -> None:
        """Write the steps, in the transaction that holds what they brought about."""
        for held in self._changed.values():
            writer.put(Table.SESSIONS, held.session.id, held.encode())
        for id_ in self._gone | self._excess():
            writer.delete(Table.SESSIONS, id_)
        for id_ in self._used:
            writer.delete(Table.PREKEYS, id_)
        for lives in self._lives.values():
            lives.write(writer)
        self._sessions._starts.write(writer, self._started)

    def done(self) -> None:
        """Make the steps count: the transaction is on the disk."""
        gone = self._gone | self._excess()
        for held in self._changed.values():
            self._sessions._take(held)
        for id_ in gone:
            self._sessions._drop(id_)
        self._sessions.prekeys.drop(self._used)
        self._sessions._lives.update(self._lives)
        self._sessions._starts.written(self._started)
        self._sessions._clock = None if gone else self._clock

    def _excess(self) -> set[bytes]:
        """The sessions of a peer past SESSIONS_PER_PEER."""
        found: set[bytes] = set()
        new = {h.peer for id_, h in self._changed.items() if id_ not in self._sessions._held}
        for peer in new:
            lives = self._lives_of(peer)
            there = (held.candidate() for held in self._of(peer))
            found.update(excess(there, lives.present, lives.past, SESSIONS_PER_PEER))
        return found

    def _of(self, peer: str) -> list[Held]:
        """The newest states of all sessions with a peer."""
        ids = set(self._sessions._by_peer.get(peer, ()))
        ids |= {id_ for id_, held in self._changed.items() if held.peer == peer}
        return [held for id_ in sorted(ids) if (held := self._newest(id_)) is not None]

    def _lives_of(self, peer: str) -> Lives:
        known = self._lives.get(peer) or self._sessions._lives.get(peer) or self._drawn.get(peer)
        if known is not None:
            return known
        if self._token is None:
            return self._sessions.lives(peer)
        self._drawn[peer] = new_lives(peer, self._token)
        return self._drawn[peer]

    def _newest(self, id_: bytes) -> Held | None:
        if id_ in self._gone:
            return None
        return self._changed.get(id_) or self._sessions._held.get(id_)
