"""What an account knows of its move to another computer (``cbfs move``), at the old one.

From when a line for it was made the store has a record of it: the secret in the line, and a token.
The copy that the new computer gets has that record too, and stays without life until the old one
has told it the token, in that one connection and for that one copy. So the old one can say first,
in its own store and for good, that the account has moved.
"""

from dataclasses import dataclass, replace
from enum import Enum

from cbfs.storage.encoding import pack, unpack
from cbfs.storage.store import Meta, Reader, Store, Table, Writer
from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.limits import LINE_SECRET_SIZE
from cbfs_common.primitives import KEY_SIZE, Random, kdf

COPY_SIZE = 16
"""Bytes by which a copy at a new computer is told from any other."""


class LeavingStage(Enum):
    """How far a move is, as the old computer knows."""

    OFFERED = 0  # the account lives here, and may go to whoever has the line
    MOVED = 1  # it has gone: to the copy that is named, which may not know it yet
    LIVES = 2  # that copy has said that it goes on


@dataclass(frozen=True, slots=True, repr=False)
class Leaving:
    """A move from here. ``secret`` (LINE_SECRET_SIZE), ``host`` and ``port`` are the line's;
    ``token`` (32) brings the copy to life, which is the one called ``copy`` (COPY_SIZE) with the
    digest (32) ``content``; both are empty until it has moved."""

    stage: LeavingStage
    secret: bytes
    token: bytes
    host: str = ""
    port: int = 0
    copy: bytes = b""
    content: bytes = b""

    @property
    def check(self) -> bytes:
        """What the new computer knows the token by (32), before it has it."""
        return token_check(self.token)

    def moved(self, copy: bytes, content: bytes) -> "Leaving":
        """The account has gone to this copy."""
        return replace(self, stage=LeavingStage.MOVED, copy=copy, content=content)

    def lives(self) -> "Leaving":
        """The copy goes on."""
        return replace(self, stage=LeavingStage.LIVES)

    def encode(self) -> bytes:
        """This move as a record of ``Table.META``. Holds secrets."""
        return pack(
            *(self.stage.value, self.secret, self.token, self.host, self.port),
            *(self.copy, self.content),
        )


def token_check(token: bytes) -> bytes:
    """A hash (32) of a token."""
    return kdf(token, b"cbfs1 move token", b"", KEY_SIZE)


def begin_leaving(random: Random, host: str = "", port: int = 0) -> Leaving:
    """A move that is offered from now on."""
    secret, token = random.token(LINE_SECRET_SIZE), random.token(KEY_SIZE)
    return Leaving(LeavingStage.OFFERED, secret, token, host, port)


def decode_leaving(data: bytes) -> Leaving:
    """Undo ``Leaving.encode``. Raises DecodeError."""
    stage, secret, token, host, port, copy, content = unpack(
        data, int, bytes, bytes, str, int, bytes, bytes
    )
    try:
        known = LeavingStage(stage)
    except ValueError as error:
        raise _damaged() from error
    sizes = (0, 0) if known is LeavingStage.OFFERED else (COPY_SIZE, KEY_SIZE)
    if (len(copy), len(content)) != sizes:
        raise _damaged()
    if (len(secret), len(token)) != (LINE_SECRET_SIZE, KEY_SIZE):
        raise _damaged()
    return Leaving(known, secret, token, host, port, copy, content)


def _damaged() -> DecodeError:
    return DecodeError(
        "what is known of the account's move is damaged",
        "restore an export: cbfs init --restore FILE",
    )


def read_leaving(reader: Reader) -> Leaving | None:
    """The move of an account, None where none was begun. Raises DecodeError."""
    data = reader.get(Table.META, Meta.LEAVING)
    return None if data is None else decode_leaving(data)


def write_leaving(writer: Writer, leaving: Leaving) -> None:
    """Keep how far the move is."""
    writer.put(Table.META, Meta.LEAVING, leaving.encode())


def forget_leaving(writer: Writer) -> None:
    """The account lives where this store is, and nobody has a line for it."""
    writer.delete(Table.META, Meta.LEAVING)


class AccountMoved(CbfsError):
    """The account lives on another computer."""

    def __init__(self) -> None:
        super().__init__(
            "this account has moved to another computer, and what is here is a backup of it",
            "use it there. If it was not finished there: cbfs move here, and there again with the"
            " same line; if it is lost there for good: cbfs claim",
        )


def check_lives_here(store: Store) -> None:
    """Raises AccountMoved."""
    with store.read() as reader:
        leaving = read_leaving(reader)
    if leaving is not None and leaving.stage is not LeavingStage.OFFERED:
        raise AccountMoved
