"""The two sides of a move, without I/O: what each answers to what the other has said.

One copy lives at any moment, wherever either side is cut off or killed:

1. the old one offers the account, which lives there and can be mounted in between;
2. the new one has all of it on its disk, has opened it, and notes that it is whole: **Got**;
3. the old one notes that the account has moved, to this copy: from here on it does not mount there.
   Then it tells the token: **Go**;
4. the new one notes the token: from here on the copy lives, and needs nobody to be mounted.

A crash before 2 or 3 leaves the account at the old one, whatever the new one has. One between 3 and
4 leaves it at neither, until the two have met again: the old one tells the token as often as the
copy asks that it has moved to, and no other one. What is noted is on the disk before the other side
hears of it, and neither note is taken back by a move. Each connection begins with the offer again;
what has come stays, and is not sent twice, as long as the account is as it was.
"""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Protocol

from cbfs.account.leaving import token_check
from cbfs.commands.home.moving.messages import (
    Data,
    Elsewhere,
    From,
    Go,
    Got,
    Have,
    MoveEnd,
    MoveLives,
    MoveMessage,
    MoveOffer,
    Unintelligible,
)
from cbfs_common.errors import CbfsError
from cbfs_common.primitives import KEY_SIZE, equal


def digesting() -> blake2b:
    """What a digest (32) of the first bytes of a cargo is made by."""
    return blake2b(digest_size=KEY_SIZE, person=b"cbfs1 move all")


class MoveDeparture(Protocol):
    """What the old side has: the cargo, which does not change meanwhile, and what it notes. Both
    methods that note return when that is on the disk."""

    @property
    def offer(self) -> MoveOffer:
        """What there is."""

    @property
    def token(self) -> bytes:
        """What brings the copy to life (32)."""

    @property
    def gone(self) -> tuple[bytes, bytes] | None:
        """To which copy the account has moved, and the digest of it."""

    def pieces(self) -> Iterator[bytes]:
        """All bytes of the cargo, in pieces of 1 to PAYLOAD_MAX, the same ones each time."""

    def note_moved(self, copy: bytes, digest: bytes) -> None:
        """The account has moved to this copy."""

    def note_lives(self) -> None:
        """That copy goes on."""


class OldSide:
    """The old computer's side of one connection."""

    def __init__(self, departure: MoveDeparture) -> None:
        self._departure = departure
        self._copy = b""
        self._digest = b""
        self._ended = False
        self._told = False
        self.done = False
        """Whether the new one has said that the account lives there."""

    def start(self) -> MoveMessage:
        """What is said first."""
        return self._departure.offer

    def hear(self, message: MoveMessage) -> Iterator[MoveMessage]:
        """The answers to a message, each made when it is asked for. Raises Unintelligible, and what
        noting raises."""
        match message:
            case Have() if not self._copy:
                self._copy = message.copy
                yield from self._send(message)
            case Got() if self._ended and not self._told:
                self._departure.note_moved(self._copy, self._digest)
                yield self._go()
            case MoveLives() if self._told and not self.done:
                self._departure.note_lives()
                self.done = True
            case _:
                raise Unintelligible

    def _send(self, have: Have) -> Iterator[MoveMessage]:
        gone = self._departure.gone
        if gone is not None:  # and what is here is not what was sent any more
            same = equal(gone[0], have.copy) and equal(gone[1], have.digest)
            yield self._go() if same else Elsewhere()
            return
        start = have.count if self._has(have) else 0
        digest, at = digesting(), 0
        yield From(start)
        for piece in self._departure.pieces():
            digest.update(piece)
            rest = piece[max(start - at, 0) :]
            at += len(piece)
            if rest:
                yield Data(rest)
        self._digest, self._ended = digest.digest(), True
        yield MoveEnd(self._digest)

    def _has(self, have: Have) -> bool:
        """Whether the new one has the bytes that it says, and they are those of now."""
        if not 0 < have.count <= self._departure.offer.size:
            return False
        digest, left = digesting(), have.count
        for piece in self._departure.pieces():
            digest.update(piece[:left])
            left -= min(left, len(piece))
            if not left:
                break
        return equal(digest.digest(), have.digest)

    def _go(self) -> MoveMessage:
        self._told = True
        return Go(self._departure.token)


class MoveArrival(Protocol):
    """What the new side has: what has come so far, and what it notes."""

    def begin(self, offer: MoveOffer) -> Have:
        """What is there of what is offered. Raises CbfsError for an offer that cannot be taken."""

    def restart(self) -> None:
        """None of it is to be kept."""

    def take(self, data: bytes) -> None:
        """Keep the next bytes. Raises CbfsError."""

    def note_whole(self, digest: bytes) -> None:
        """All of it has come; on the return it is on the disk, was opened, and is known to be
        whole. Raises CbfsError."""

    def note_token(self, token: bytes) -> None:
        """It lives from now on; on the disk on return. Raises Unintelligible when it is not known
        to be whole."""


class NewSide:
    """The new computer's side of one connection."""

    def __init__(self, arrival: MoveArrival) -> None:
        self._arrival = arrival
        self._offer: MoveOffer | None = None
        self._have: Have | None = None
        self._at: int | None = None
        self._whole = False
        self.done = False
        """Whether the account lives here."""

    @property
    def at(self) -> int:
        """How many bytes are here."""
        return self._at or 0

    @property
    def size(self) -> int:
        """How many there are."""
        return self._offer.size if self._offer else 0

    def hear(self, message: MoveMessage) -> Iterator[MoveMessage]:
        """The answers to a message. Raises Unintelligible, CbfsError, and what noting raises."""
        offer, have = self._offer, self._have
        match message:
            case MoveOffer() if offer is None:
                self._offer = message
                self._have = self._arrival.begin(message)
                yield self._have
            case Elsewhere() if have is not None and self._at is None:
                raise CbfsError(
                    "the account has moved already, to another directory or computer",
                    "use it there, or finish it there by the same line",
                )
            case From() if have is not None and self._at is None:
                self._start(message.count, have)
            case Data() if offer is not None and self._at is not None and not self._whole:
                if self._at + len(message.data) > offer.size:
                    raise Unintelligible
                self._arrival.take(message.data)
                self._at += len(message.data)
            case MoveEnd() if offer is not None and self._at == offer.size and not self._whole:
                self._arrival.note_whole(message.digest)
                self._whole = True
                yield Got()
            case Go() if have is not None and offer is not None and not self.done:
                if not equal(token_check(message.token), offer.check):
                    raise Unintelligible
                self._arrival.note_token(message.token)
                self.done = True
                yield MoveLives()
            case _:
                raise Unintelligible

    def _start(self, count: int, have: Have) -> None:
        if count not in (0, have.count):
            raise Unintelligible
        if not count:
            self._arrival.restart()
        self._at = count
