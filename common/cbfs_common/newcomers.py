"""What a message server may ask of who wants an account: a proof of work, or an invite.
PROTOCOL.rst, Newcomers.

The work is a search for a number whose hash begins with zero bits. What is hashed is long, so that
a program in Python, which is slow at everything but hashing, is hardly slower at it than others.
"""

import base64
import binascii
from dataclasses import dataclass
from hashlib import blake2b

from cbfs_common.errors import DecodeError
from cbfs_common.limits import CHALLENGE_SIZE, INVITE_SIZE, WORK_SIZE
from cbfs_common.primitives import KEY_SIZE

TOKEN_PREFIX = "cbfs-server-invite:"  # noqa: S105  # what tokens begin with, not one
_NUMBER = 8
_PERSON = b"cbfs1 work"


def zero_bits(digest: bytes) -> int:
    """How many zero bits it begins with."""
    return 8 * len(digest) - int.from_bytes(digest, "big").bit_length()


def work_of(challenge: bytes, user: bytes, number: int) -> int:
    """How many zero bits the proof has that ``number`` (below 2^64) is, of the newcomer ``user``
    (32 bytes) for a ``challenge`` (CHALLENGE_SIZE)."""
    return _Proof(challenge, user).bits(number)


class _Proof:
    """number u64 | challenge | user | zeros, WORK_SIZE bytes: the number comes first, so that no
    part of the hash is the same for two of them."""

    __slots__ = ("_data",)

    def __init__(self, challenge: bytes, user: bytes) -> None:
        if (len(challenge), len(user)) != (CHALLENGE_SIZE, KEY_SIZE):
            raise DecodeError("not a challenge")
        self._data = bytearray((bytes(_NUMBER) + challenge + user).ljust(WORK_SIZE, b"\0"))

    def bits(self, number: int) -> int:
        self._data[:_NUMBER] = number.to_bytes(_NUMBER, "big")
        return zero_bits(blake2b(self._data, digest_size=32, person=_PERSON).digest())


class Search:
    """A search for a proof. It has no memory but for the best number until now: who is told that
    more is asked than before has lost nothing by going on."""

    def __init__(self, challenge: bytes, user: bytes, start: int) -> None:
        """``start``: the number to begin with, at random."""
        self.challenge = challenge
        self.best, self.bits = 0, -1
        self._proof = _Proof(challenge, user)
        self._next = start
        self.tried = 0

    def look(self, bits: int, tries: int) -> bool:
        """Try so many more; True as soon as the best has so many zero bits. Each takes some 5
        microseconds."""
        while self.bits < bits and tries:
            number, self._next = self._next, (self._next + 1) % 2**64
            found = self._proof.bits(number)
            if found > self.bits:
                self.best, self.bits = number, found
            tries -= 1
            self.tried += 1
        return self.bits >= bits


@dataclass(frozen=True, slots=True, repr=False)
class ServerInvite:
    """The word of a server that one who has this may make an account: ``server`` is its key (32),
    ``invite`` what it is told (INVITE_SIZE), a secret."""

    server: bytes
    invite: bytes

    def text(self) -> str:
        """``cbfs-server-invite:`` and base32."""
        body = base64.b32encode(self.server + self.invite).decode()
        return TOKEN_PREFIX + body.rstrip("=").lower()


def parse_server_invite(text: str) -> ServerInvite:
    """Undo ``ServerInvite.text``. Raises DecodeError, whose text has nothing of the invite."""
    wrong = DecodeError("not an invite to a server", f"it begins with {TOKEN_PREFIX}")
    prefix, body = text.strip()[: len(TOKEN_PREFIX)], text.strip()[len(TOKEN_PREFIX) :]
    if prefix != TOKEN_PREFIX:
        raise wrong
    try:
        data = base64.b32decode(body.upper() + "=" * (-len(body) % 8))
    except (binascii.Error, ValueError) as error:
        raise wrong from error
    if len(data) != KEY_SIZE + INVITE_SIZE:
        raise DecodeError("not an invite to a server", "was it copied whole?")
    found = ServerInvite(data[:KEY_SIZE], data[KEY_SIZE:])
    if found.text() != TOKEN_PREFIX + body.lower():
        raise wrong
    return found
