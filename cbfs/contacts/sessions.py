"""Sessions with peers: kept in memory, written with what they bring about.

A step of the ratchet is computed first and stored in the same transaction as its result (the
envelope to send, or the message received); only when that is on the disk does it count in
memory. ``lock`` is held from the first step of a batch until its commit.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

import trio

from cbfs.contacts.prekey_secrets import PrekeySecrets
from cbfs.storage.encoding import pack, unpack
from cbfs.storage.store import Store, Table, Writer
from cbfs_common.errors import CryptoError, LimitError
from cbfs_common.limits import SESSION_IDLE, SESSIONS_PER_PEER, SILENCE
from cbfs_common.primitives import Random
from cbfs_common.session.prekey import Prekey, PrekeyKind
from cbfs_common.session.routes import Routes
from cbfs_common.session.session import (
    LIFE_SIZE,
    Outer,
    Party,
    Peer,
    Session,
    SessionDiverged,
    TooFar,
    decode_session,
    open_first,
    outer_of,
    start,
)


@dataclass(frozen=True, slots=True)
class Held:
    """A session, the name of its peer, and when it last opened something and was made, in
    milliseconds since 1970 (later ones have larger numbers even when the clock stands still).
    ``heard`` is 0 while nothing was opened, unless the session is to be preferred all the same.
    """

    session: Session
    peer: str
    heard: int
    made: int

    def encode(self) -> bytes:
        """This session as a record of ``Table.SESSIONS``."""
        return pack(self.peer, self.heard, self.made, self.session.encode())


def _decode_held(data: bytes) -> Held:
    peer, heard, made, session = unpack(data, str, int, int, bytes)
    return Held(decode_session(session), peer, heard, made)


@dataclass(frozen=True, slots=True)
class Opened:
    """An envelope that was opened. ``peer`` is the session's name for the sender, empty when the
    session is new; ``prekey`` is the one-time prekey that it used up."""

    session: Session
    peer: str
    body: bytes
    prekey: bytes | None


class Damaged(CryptoError):
    """An envelope that the peer has sealed in ``session``, and that cannot be read all the same:
    the peer's state and this one have come apart. ``far``: it is too far ahead, and may be read
    when others have come. An envelope that somebody has changed on its way is none of these."""

    def __init__(self, session: bytes, peer: str, *, far: bool) -> None:
        super().__init__("cannot be opened")
        self.session = session
        self.peer = peer
        self.far = far


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
                self._take(_decode_held(data))
            self.prekeys = PrekeySecrets(reader)
        self._clock = max((max(h.heard, h.made) for h in self._held.values()), default=0)

    def choose(
        self, peer: str, identity: bytes | None = None, *, proven: bool = False
    ) -> Session | None:
        """The session to send on: the one last received on, else the newest of one's own; ties
        go to the lower transcript hash. Only sessions between one's own keys of now and those of
        ``identity`` (32), if given: old ones are there to read what was sent before a change.
        ``proven``: rather one that something was opened on than one that is to be preferred: that
        one the peer may not be able to read."""
        held = [self._held[id_] for id_ in self._by_peer.get(peer, ())]
        if identity is not None:
            ends = self._me.identity, identity
            held = [h for h in held if (h.session.own_identity, h.session.peer.identity) == ends]
        if proven:
            held = [h for h in held if h.session.heard] or held
        if not held:
            return None
        best = max(item.heard for item in held)
        return min(
            (item.session for item in held if item.heard == best), key=lambda s: s.start_hash
        )

    def heard(self, peer: str) -> int:
        """When something of this peer was opened last, in milliseconds since 1970; 0 for never."""
        held = [self._held[id_] for id_ in self._by_peer.get(peer, ())]
        return max((item.heard for item in held if item.session.heard), default=0)

    def has_other_life(self, peer: str, identity: bytes, life: bytes | None) -> bool:
        """Whether this peer has said another life than this one under the keys of ``identity``
        (32)."""
        held = (self._held[id_].session for id_ in self._by_peer.get(peer, ()))
        said = {s.peer_life for s in held if s.heard and s.peer.identity == identity}
        return bool(said - {life, None})

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

    def is_silent(self, session: Session, now: int) -> bool:
        """Whether nothing has come on a session for SILENCE since it was begun here: the peer may
        not be able to read it. ``now`` in milliseconds."""
        held = self._held.get(session.id)
        return held is not None and not session.heard and held.made < now - SILENCE * 1_000

    def __len__(self) -> int:
        return len(self._held)

    def life(self, peer: str) -> bytes:
        """One's own life (8) for this peer, as its sessions say: a new one when it has none."""
        held = [self._held[id_] for id_ in self._by_peer.get(peer, ())]
        said = [h for h in held if h.session.own_life is not None]
        last = max(said, key=lambda h: h.made, default=None)
        return (last and last.session.own_life) or self._random.token(LIFE_SIZE)

    def start(self, name: str, peer: Peer, prekey: Prekey, kem_public: bytes) -> Session:
        """A new session with the peer ``name``; it counts when its first step was written.
        ``kem_public`` came with the prekey. Raises CryptoError when it is not the peer's."""
        return start(self._me, peer, prekey, kem_public, self.life(name), self._random)

    async def tidy(self, store: Store, now: int) -> None:
        """Forget what is too old to be of use at ``now`` (seconds): skipped message keys, sessions
        that others have taken the place of, and secrets of prekeys."""
        async with self.lock:
            old = self.prekeys.old(now)
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
                for id_ in idle:
                    writer.delete(Table.SESSIONS, id_)
                for held in changed:
                    writer.put(Table.SESSIONS, held.session.id, held.encode())

            if old or changed or idle:
                await store.commit(change)
            self.prekeys.drop(old)
            for id_ in idle:
                self._drop(id_)
            for held in changed:
                self._take(held)

    async def bring_back(self, store: Store, now: int) -> None:
        """Put what a clock that was ahead has written at ``now`` (milliseconds since 1970), and
        keep the secrets of prekeys that it dated for as long as if they were made now."""
        async with self.lock:
            held = sorted(self._held.values(), key=lambda h: max(h.heard, h.made))
            changed = [mended for h in held if (mended := _brought_back(h, now)) is not h]
            seconds = now // 1_000
            ahead = self.prekeys.any_ahead(seconds)

            def change(writer: Writer) -> None:
                for each in changed:
                    writer.put(Table.SESSIONS, each.session.id, each.encode())
                if ahead:
                    self.prekeys.write_ahead(writer, seconds)

            await store.commit(change)
            for each in changed:
                self._take(each)
            if ahead:
                self.prekeys.ahead_since = seconds
            self._clock = max((max(h.heard, h.made) for h in self._held.values()), default=0)

    def _idle(self, now: int) -> set[bytes]:
        """Sessions that nothing was opened on for SESSION_IDLE while their peer has another, on
        which something was."""
        idle: set[bytes] = set()
        for peer, ids in self._by_peer.items():
            chosen = self.choose(peer), self.choose(peer, proven=True)
            best = {session.id for session in chosen if session is not None}
            idle |= {
                id_
                for id_ in ids
                if id_ not in best
                and max(self._held[id_].heard, self._held[id_].made) < now - SESSION_IDLE * 1_000
            }
        return idle

    def forget(self, writer: Writer, peers: Iterable[str]) -> None:
        """Delete these people's sessions in a transaction."""
        for peer in peers:
            for id_ in self._by_peer.get(peer, ()):
                writer.delete(Table.SESSIONS, id_)

    def forgotten(self, peers: Iterable[str]) -> None:
        """Forget these people's sessions in memory, when that transaction is on the disk."""
        for peer in peers:
            for id_ in tuple(self._by_peer.get(peer, ())):
                self._drop(id_)
            self._by_peer.pop(peer, None)

    def batch(self) -> "Batch":
        """Tentative steps that are committed together. Hold ``lock`` until they are."""
        return Batch(self)

    def _take(self, held: Held) -> None:
        self._held[held.session.id] = held
        self._by_peer.setdefault(held.peer, set()).add(held.session.id)
        self._routes.update(held.session)

    def _drop(self, id_: bytes) -> None:
        held = self._held.pop(id_, None)
        if held is not None:
            self._by_peer[held.peer].discard(id_)
            self._routes.remove(id_)

    def _tick(self, now: int) -> int:
        self._clock = max(self._clock + 1, now)
        return self._clock


def _brought_back(held: Held, now: int) -> Held:
    """This session with no time later than ``now`` (milliseconds); the order of sessions may be
    lost by it."""
    session = held.session.bring_back(now // 1_000)
    if session is held.session and max(held.heard, held.made) <= now:
        return held
    return replace(held, session=session, heard=min(held.heard, now), made=min(held.made, now))


class Batch:
    """Tentative steps over the sessions: ``write`` stores them, ``done`` makes them count."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._changed: dict[bytes, Held] = {}
        self._used: set[bytes] = set()
        self._routes = Routes()

    def seal(
        self, session: Session, peer: str, body: bytes, now: int, *, prefer: bool = False
    ) -> bytes:
        """An envelope for ``peer`` on the newest state of that session, which may be a new one.
        ``prefer``: it is preferred to those that were received on. ``now`` in milliseconds since
        1970."""
        held = self._newest(session.id)
        if held is None:
            made = self._sessions._tick(now)
            held = Held(session, peer, made if prefer else 0, made)
        me = self._sessions._parties[held.session.own_identity]
        life = self._sessions.life(peer)
        stepped, envelope = held.session.seal(me, body, self._sessions._random, life)
        self._changed[stepped.id] = replace(held, session=stepped)
        return envelope

    def open(self, envelope: bytes, now: int) -> Opened:
        """Open an envelope on the session that expects it, else as a first message, else by trial.
        ``now`` in seconds since 1970. Raises CryptoError (Duplicate for a copy, Damaged when it is
        of a session that is known, and unchanged); then nothing has changed. The step counts only
        after ``accept``."""
        sessions = self._sessions
        id_ = self._routes.find(envelope) or sessions._routes.find(envelope)
        if id_ is not None and (held := self._newest(id_)) is not None:
            return self._step(held, envelope, now)
        for me in sessions._parties.values():
            with suppress(CryptoError):
                outer = outer_of(me, envelope)
                opened = self._open_first(me, outer, envelope, now)
                if opened is not None:
                    return opened
        id_ = self._routes.search(envelope) or sessions._routes.search(envelope)
        if id_ is None or (held := self._newest(id_)) is None:
            raise CryptoError("cannot be opened")
        return self._step(held, envelope, now)

    def _open_first(self, me: Party, outer: Outer, envelope: bytes, now: int) -> Opened | None:
        """Open an envelope as a first message to one of the prekeys. None when it is none, or one
        too far from the first: it may be a late one of a session that began."""
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
        used = pair.id if pair.kind is PrekeyKind.ONE_TIME else None
        return Opened(session, "", body, used)

    def _step(self, held: Held, envelope: bytes, now: int, outer: Outer | None = None) -> Opened:
        me = self._sessions._parties.get(held.session.own_identity)
        if me is None:  # under keys that are too old
            raise CryptoError("cannot be opened")
        try:
            session, body = held.session.open(me, envelope, now, outer)
        except (SessionDiverged, TooFar) as error:
            far = isinstance(error, TooFar)
            raise Damaged(held.session.id, held.peer, far=far) from error
        return Opened(session, held.peer, body, None)

    def accept(self, opened: Opened, peer: str, now: int) -> None:
        """Keep the step of what was opened: it is from ``peer``. ``now`` in milliseconds since
        1970."""
        tick = self._sessions._tick(now)
        before = self._newest(opened.session.id)
        made = before.made if before else tick
        self._routes.update(opened.session)
        self._changed[opened.session.id] = Held(opened.session, peer, tick, made)
        if opened.prekey is not None:
            self._used.add(opened.prekey)

    def write(self, writer: Writer) -> None:
        """Write the steps, in the transaction that holds what they brought about."""
        for held in self._changed.values():
            writer.put(Table.SESSIONS, held.session.id, held.encode())
        for id_ in self._excess():
            writer.delete(Table.SESSIONS, id_)
        for id_ in self._used:
            writer.delete(Table.PREKEYS, id_)

    def done(self) -> None:
        """Make the steps count: the transaction is on the disk."""
        excess = self._excess()
        for held in self._changed.values():
            self._sessions._take(held)
        for id_ in excess:
            self._sessions._drop(id_)
        self._sessions.prekeys.drop(self._used)

    def _excess(self) -> set[bytes]:
        """The sessions of a peer past SESSIONS_PER_PEER that were used longest ago, but never the
        one that was heard last: the peer may be able to read no other."""
        excess: set[bytes] = set()
        new = {h.peer for id_, h in self._changed.items() if id_ not in self._sessions._held}
        for peer in new:
            ids = set(self._sessions._by_peer.get(peer, ()))
            ids |= {id_ for id_, held in self._changed.items() if held.peer == peer}
            held = [item for id_ in ids if (item := self._newest(id_)) is not None]
            heard = max((item.heard for item in held if item.session.heard), default=0)
            held.sort(key=lambda h: (h.session.heard and h.heard == heard, max(h.heard, h.made)))
            excess |= {item.session.id for item in held[:-SESSIONS_PER_PEER]}
        return excess

    def _newest(self, id_: bytes) -> Held | None:
        return self._changed.get(id_) or self._sessions._held.get(id_)
