"""Sessions with peers: kept in memory, written with what they bring about.

A step of the ratchet is computed first and stored in the same transaction as its result (the
envelope to send, or the message received); only when that is on the disk does it count in
memory. ``lock`` is held from the first step of a batch until its commit.
"""

from dataclasses import dataclass, replace

import trio

from cbfs.packing import pack, unpack
from cbfs.store import Store, Table, Writer
from cbfs_common.errors import CryptoError, LimitError
from cbfs_common.limits import PREKEY_GRACE
from cbfs_common.prekey import Prekey, PrekeyKind, PrekeyPair
from cbfs_common.primitives import Random
from cbfs_common.routes import Routes
from cbfs_common.session import (
    Party,
    Peer,
    Session,
    decode_session,
    handshake_of,
    open_first,
    start,
)


@dataclass(frozen=True, slots=True)
class Held:
    """A session, the name of its peer, and when (a counter) it last opened something."""

    session: Session
    peer: str
    heard: int

    def encode(self) -> bytes:
        """For the store."""
        return pack(self.peer, self.heard, self.session.encode())


@dataclass(frozen=True, slots=True)
class Opened:
    """An envelope that was opened. ``peer`` is the session's name for the sender, empty when the
    session is new; ``prekey`` is the one-time prekey that it used up."""

    session: Session
    peer: str
    body: bytes
    prekey: bytes | None


class Sessions:
    """All sessions of the account, and the secrets of its prekeys."""

    def __init__(self, store: Store, me: Party, random: Random) -> None:
        self.lock = trio.Lock()
        self._me = me
        self._random = random
        self._held: dict[bytes, Held] = {}
        self._by_peer: dict[str, set[bytes]] = {}
        self._pairs: dict[bytes, PrekeyPair] = {}
        self._routes = Routes()
        with store.read() as reader:
            for _key, data in reader.items(Table.SESSIONS):
                peer, heard, session = unpack(data, str, int, bytes)
                self._take(Held(decode_session(session), peer, heard))
            for _key, data in reader.items(Table.PREKEYS):
                pair = PrekeyPair.decode(data)
                self._pairs[pair.id] = pair
        self._clock = max((held.heard for held in self._held.values()), default=0)

    @property
    def pairs(self) -> dict[bytes, PrekeyPair]:
        """The prekeys whose secrets are kept, by id."""
        return self._pairs

    def add_pairs(self, pairs: list[PrekeyPair]) -> None:
        """New prekeys whose secrets are on the disk."""
        self._pairs.update((pair.id, pair) for pair in pairs)

    def choose(self, peer: str) -> Session | None:
        """The session to send on: the one last received on, else the newest of one's own; ties
        go to the lower transcript hash."""
        held = [self._held[id_] for id_ in self._by_peer.get(peer, ())]
        if not held:
            return None
        best = max(item.heard for item in held)
        return min(
            (item.session for item in held if item.heard == best), key=lambda s: s.start_hash
        )

    def start(self, peer: Peer, prekey: Prekey) -> Session:
        """A new session; it counts when it is ``put``."""
        return start(self._me, peer, prekey, self._random)

    async def tidy(self, store: Store, now: int) -> None:
        """Forget what is too old to be of use at ``now`` (seconds): skipped message keys, and the
        secrets of prekeys that ran out PREKEY_GRACE ago."""
        async with self.lock:
            old = [p.id for p in self._pairs.values() if p.expires + PREKEY_GRACE < now]
            kept = [(held, held.session.expire(now)) for held in self._held.values()]
            changed = [replace(held, session=s) for held, s in kept if s is not held.session]

            def change(writer: Writer) -> None:
                for id_ in old:
                    writer.delete(Table.PREKEYS, id_)
                for held in changed:
                    writer.put(Table.SESSIONS, held.session.id, held.encode())

            if old or changed:
                await store.commit(change)
            for id_ in old:
                del self._pairs[id_]
            for held in changed:
                self._take(held)

    def batch(self) -> "Batch":
        """Steps that are committed together. Hold ``lock`` until then."""
        return Batch(self)

    def _take(self, held: Held) -> None:
        self._held[held.session.id] = held
        self._by_peer.setdefault(held.peer, set()).add(held.session.id)
        self._routes.update(held.session)


class Batch:
    """Tentative steps over the sessions: ``write`` stores them, ``done`` makes them count."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._changed: dict[bytes, Held] = {}
        self._used: set[bytes] = set()
        self._routes = Routes()

    def seal(self, session: Session, peer: str, body: bytes) -> bytes:
        """An envelope for ``peer`` on the newest state of that session."""
        held = self._newest(session.id) or Held(session, peer, 0)
        stepped, envelope = held.session.seal(self._sessions._me, body, self._sessions._random)
        self._changed[stepped.id] = replace(held, session=stepped)
        return envelope

    def open(self, envelope: bytes, now: int) -> Opened:
        """Open on the session that expects it, else as a first message, else by trial.
        ``now`` in seconds. Raises CryptoError (also Duplicate) or LimitError; then nothing has
        changed. The step counts only after ``accept``."""
        sessions = self._sessions
        id_ = self._routes.find(envelope) or sessions._routes.find(envelope)
        if id_ is not None and (held := self._newest(id_)) is not None:
            return self._step(held, envelope, now)
        pair = sessions._pairs.get(handshake_of(envelope))
        if pair is not None and pair.id not in self._used:
            opened = self._open_first(pair, envelope, now)
            if opened is not None:
                return opened
        id_ = self._routes.search(envelope) or sessions._routes.search(envelope)
        if id_ is None or (held := self._newest(id_)) is None:
            raise CryptoError("cannot be opened")
        return self._step(held, envelope, now)

    def _open_first(self, pair: PrekeyPair, envelope: bytes, now: int) -> Opened | None:
        """None when it is no first message to this prekey, or one too far from the first: with
        the last-resort prekey, which is kept, it may be a late one of a session that began."""
        try:
            session, body = open_first(self._sessions._me, pair, envelope, now)
        except (CryptoError, LimitError):
            return None
        held = self._newest(session.id)
        if held is not None:
            return self._step(held, envelope, now)
        used = pair.id if pair.kind is PrekeyKind.ONE_TIME else None
        return Opened(session, "", body, used)

    def _step(self, held: Held, envelope: bytes, now: int) -> Opened:
        session, body = held.session.open(envelope, now)
        return Opened(session, held.peer, body, None)

    def accept(self, opened: Opened, peer: str) -> None:
        """What was opened is from ``peer``: keep the step."""
        self._sessions._clock += 1
        self._changed[opened.session.id] = Held(opened.session, peer, self._sessions._clock)
        if opened.prekey is not None:
            self._used.add(opened.prekey)
        self._routes.update(opened.session)

    def write(self, writer: Writer) -> None:
        """Into the transaction that holds what the steps brought about."""
        for held in self._changed.values():
            writer.put(Table.SESSIONS, held.session.id, held.encode())
        for id_ in self._used:
            writer.delete(Table.PREKEYS, id_)

    def done(self) -> None:
        """The transaction is on the disk."""
        for held in self._changed.values():
            self._sessions._take(held)
        for id_ in self._used:
            self._sessions._pairs.pop(id_, None)

    def _newest(self, id_: bytes) -> Held | None:
        return self._changed.get(id_) or self._sessions._held.get(id_)
