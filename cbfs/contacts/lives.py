"""Lives, by which two people know whether the other has given up what it had. PROTOCOL.rst,
Session.

One record for each peer, ``Table.META``: one's own life for them, their life that counts, and those
that counted before. It is written in the transaction of what changes it. Sessions that are given
up and the new life of one's own are one transaction: a crash before it leaves the old sessions, one
after it a peer that learns of the new life by the next session.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from cbfs.storage.encoding import pack, u64, unpack
from cbfs.storage.store import Meta, Reader, Table, Writer
from cbfs_common.limits import LIVES_MAX
from cbfs_common.session.session import LIFE_SIZE


@dataclass(frozen=True, slots=True)
class Lives:
    """``own`` is one's own life (8) for ``peer``, ``present`` theirs that counts, empty while none
    does, and ``past`` those that counted before, the newest first."""

    peer: str
    own: bytes
    present: bytes = b""
    past: tuple[bytes, ...] = ()

    def counting(self, life: bytes, *, later: bool, sure: bool = True) -> "Lives":
        """After a confirmed session has said this life of the peer's. ``later``: it may be a later
        one than that which counts. ``sure``: if so, that one is over; else it may count again."""
        if not self.present:
            return replace(self, present=life)
        if life == self.present or life in self.past or not later:
            return self
        past = (self.present, *self.past)[:LIVES_MAX] if sure else self.past
        return replace(self, present=life, past=past)

    def encode(self) -> bytes:
        """These as a record."""
        return pack(self.peer, self.own, self.present, list(self.past))

    def write(self, writer: Writer) -> None:
        """Keep these."""
        writer.put(Table.META, _key(writer, self.peer), self.encode())


def new_lives(peer: str, token: Callable[[int], bytes]) -> Lives:
    """With somebody of whom nothing is known. ``token(n)`` gives n random bytes."""
    return Lives(peer, token(LIFE_SIZE))


def load_lives(reader: Reader) -> dict[str, Lives]:
    """Those of all peers."""
    found = (_decode(data) for _key, data in reader.items(Table.META, prefix=Meta.LIVES))
    return {lives.peer: lives for lives in found}


def _decode(data: bytes) -> Lives:
    peer, own, present, past = unpack(data, str, bytes, bytes, list)
    return Lives(peer, own, present, tuple(past))


def _key(reader: Reader, peer: str) -> bytes:
    return Meta.LIVES + reader.key_part(peer.encode())


def forget_lives(writer: Writer, peer: str) -> None:
    """Nothing is known of this peer any more."""
    writer.delete(Table.META, _key(writer, peer))


def give_up_all(writer: Writer) -> None:
    """Delete all sessions, and the secrets of all prekeys, by which others begin them; with
    everybody another life begins: they are those of a copy, or others have them as well."""
    writer.delete_prefix(Table.SESSIONS, b"")
    writer.delete_prefix(Table.PREKEYS, b"")
    writer.delete_prefix(Table.META, Meta.START)
    renew_lives(writer)


def renew_lives(writer: Writer) -> None:
    """As all sessions are gone, another life begins with everybody."""
    for lives in load_lives(writer).values():
        replace(lives, own=u64(writer.random_number())).write(writer)
