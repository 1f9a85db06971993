"""A session as the client keeps it, those with one peer that are sent on, and what comes of a step
that opens something."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from cbfs.storage.encoding import pack, unpack
from cbfs_common.errors import CryptoError
from cbfs_common.limits import IN_MAX, PREKEY_LATE
from cbfs_common.session.session import Session, decode_session
from cbfs_common.session.states import Candidate, Stage


@dataclass(frozen=True, slots=True)
class Held:
    """A session, the name of its peer, and when it last opened something and was made, in
    milliseconds since 1970 (later ones have larger numbers even when the clock stands still, or is
    set back). ``heard`` is 0 while nothing was opened. ``turned``: when one's own newest turn was
    made; ``reached``: when that was made which the peer has answered last, and so had opened by
    then; 0 while there is none. ``proved``: what that was when the session became proven; 0 until
    then. ``prekey``: when that was made, in seconds, by which the peer has begun it; 0 where it was
    begun here."""

    session: Session
    peer: str
    heard: int
    made: int
    turned: int = 0
    reached: int = 0
    proved: int = 0
    prekey: int = 0

    @property
    def used(self) -> int:
        """When it was made, or something opened on it."""
        return max(self.heard, self.made)

    @property
    def times(self) -> tuple[int, int, int, int, int]:
        """All that are in milliseconds."""
        return self.heard, self.made, self.turned, self.reached, self.proved

    @property
    def turns(self) -> bool:
        """Whether a turn is made by what is sealed on it next."""
        return self.session.needs_turn or not self.turned

    def sealed(self, session: Session, tick: int) -> "Held":
        """After something was sealed on it; ``tick`` counts if it has made a turn."""
        return replace(self, session=session, turned=tick if self.turns else self.turned)

    def opened(self, session: Session, tick: int) -> "Held":
        """After something was opened on it."""
        reached = self.turned if session.turn > self.session.turn else self.reached
        proved = reached if session.proven and not self.session.proven else self.proved
        return replace(self, session=session, heard=tick, reached=reached, proved=proved)

    @property
    def ends(self) -> tuple[bytes, bytes]:
        """One's own identity and the peer's."""
        return self.session.own_identity, self.session.peer.identity

    def candidate(self) -> Candidate:
        """This session where it is chosen which one is sent on."""
        s = self.session
        return Candidate(s.id, s.stage, s.peer_life, self.heard, self.made, proven=s.proven)

    def encode(self) -> bytes:
        """This session as a record of ``Table.SESSIONS``."""
        return pack(self.peer, *self.times, self.prekey, self.session.encode())


def decode_held(data: bytes) -> Held:
    peer, *times, session = unpack(data, str, int, int, int, int, int, int, bytes)
    return Held(decode_session(session), peer, *times)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The sessions with a peer that are sent on: see ``Choice``."""

    first: Session | None
    second: Session | None
    note: Session | None
    owed: tuple[Session, ...] = ()
    silent: bool = False


def only(session: Session) -> Chosen:
    """This one and no other."""
    return Chosen(session, None, session)


def says_other_life(held: Iterable[Held], identity: bytes, life: bytes | None) -> bool:
    """Whether a peer has said another life than this one in some of these, where it is proven,
    under the keys of ``identity`` (32)."""
    proven = (each.session for each in held if each.session.stage is Stage.CONFIRMED)
    return any(s.peer.identity == identity and s.peer_life != life for s in proven)


def latest(held: Iterable[Held]) -> int:
    """The latest time that any of these has, in milliseconds."""
    return max((at for each in held for at in each.times), default=0)


def brought_back(held: Iterable[Held], now: int) -> list[Held]:
    """Of the sessions with one peer, those that a clock which was ahead has dated, as they are with
    times that could be at ``now`` (milliseconds). They stay in their order, by which it is known
    which life of the peer is the later one: so as many of them as there are may be some
    milliseconds later."""
    there = list(held)
    times = sorted({at for each in there for at in each.times})
    late = [at for at in times if at > now]
    first = max(now - len(late), *(at for at in times if at <= now), 0) + 1
    as_now = {at: first + place for place, at in enumerate(late)}
    changed = []
    for each in there:
        session = each.session.bring_back(now // 1_000)
        heard, made, turned, reached, proved = (as_now.get(at, at) for at in each.times)
        prekey = min(each.prekey, now // 1_000)
        mended = Held(session, each.peer, heard, made, turned, reached, proved, prekey)
        before = each.session, *each.times, each.prekey
        if before != (session, *mended.times, prekey):
            changed.append(mended)
    return changed


def crowded(begun: list[Held]) -> list[bytes]:
    """Of sessions with one peer that are in, the ids of those that make room as there are more than
    IN_MAX: first such as were begun by a prekey that nobody is given any more, as somebody who has
    stolen it may begin them for as long as its secret is kept; then the oldest."""
    newest = max((each.prekey for each in begun), default=0)
    ranked = sorted(begun, key=lambda each: (each.prekey + PREKEY_LATE >= newest, each.made))
    return [each.session.id for each in ranked[:-IN_MAX]]


@dataclass(frozen=True, slots=True)
class Opened:
    """An envelope that was opened. ``peer`` is the session's name for the sender, empty when the
    session is new; ``prekey`` is the one-time prekey that it used up, ``last_resort`` the other one
    to which a new session came; either was made at ``made``, in seconds since 1970."""

    session: Session
    peer: str
    body: bytes
    prekey: bytes | None = None
    last_resort: bytes | None = None
    made: int = 0


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a step has brought about beside what was opened. ``unconfirmed``: somebody else may have
    sent it, as there is another session in which the peer is proven. ``owes``: the peer is owed a
    turn. ``proves``: the peer is proven in a session that it has begun. ``first``: the peer is
    proven for the first time. ``anew``: the peer has given up sessions, or may never have had some
    that were sent on, so that all it has not acknowledged is to be sealed anew."""

    unconfirmed: bool
    owes: bool
    proves: bool
    first: bool
    anew: bool


class Damaged(CryptoError):
    """An envelope that the peer has sealed in ``session``, and that cannot be read all the same:
    the peer's state and this one have come apart. ``far``: it is too far ahead, and may be read
    when others have come. An envelope that somebody has changed on its way is none of these."""

    def __init__(self, session: bytes, peer: str, *, far: bool) -> None:
        super().__init__("cannot be opened")
        self.session = session
        self.peer = peer
        self.far = far
