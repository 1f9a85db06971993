"""Entries of the name directory, and rounds of its log. PROTOCOL.rst, Names: entry, round."""

from dataclasses import dataclass, replace
from enum import IntEnum
from hashlib import sha256

from cbfs_common.errors import DecodeError
from cbfs_common.limits import NAME_MAX, NAMESPACE_MAX, OWNER_KEYS_MAX, PROFILE_MAX
from cbfs_common.names.layout import (
    ENTRY_VALUE,
    HASH_SIZE,
    LOG_LEAF,
    Fields,
    labelled,
    long,
    short,
)
from cbfs_common.person import Person, check_name
from cbfs_common.primitives import KEY_SIZE

_VERSION = 1
INDEX_LABEL = b"cbfs1 names index"
ROUND_LABEL = b"cbfs1 names round"
OPERATIONS_LABEL = b"cbfs1 names operations"
CHANGES_LABEL = b"cbfs1 names changes"

CHANGE_SIZE = 8
"""Bytes of an index that tell in a round's changes which entry changed."""


class Status(IntEnum):
    """What an entry's owner has said of it. Of a FROZEN one the owner's keys change nothing any
    more; only a recovery ends it. A SUSPENDED one was frozen by its agent, and its owners end that
    by a ROTATE. A RELEASED one is over."""

    ACTIVE = 1
    FROZEN = 2
    RELEASED = 3
    SUSPENDED = 4


_STATUSES = frozenset(Status)


@dataclass(frozen=True, slots=True)
class Keys:
    """Ed25519 public keys (32 each, sorted, distinct), of which ``threshold`` must sign."""

    threshold: int
    keys: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if (
            len(self.keys) > OWNER_KEYS_MAX
            or not (1 if self.keys else 0) <= self.threshold <= len(self.keys)
            or any(len(key) != KEY_SIZE for key in self.keys)
            or list(self.keys) != sorted(set(self.keys))
        ):
            raise DecodeError("not a set of owner keys")

    def encode(self) -> bytes:
        """threshold u8 | count u8 | keys."""
        return bytes([self.threshold, len(self.keys)]) + b"".join(self.keys)

    def satisfied(self, signers: frozenset[bytes]) -> bool:
        """Whether enough of these keys are among ``signers``."""
        return len(signers.intersection(self.keys)) >= self.threshold


NO_KEYS = Keys(0, ())


def read_keys(fields: Fields) -> Keys:
    """The next Keys of a layout. Raises DecodeError."""
    threshold, count = fields.number(1), fields.number(1)
    if count > OWNER_KEYS_MAX:
        raise fields.error()
    return Keys(threshold, fields.hashes(count))


def read_agent(fields: Fields) -> bytes:
    """The next agent key of a layout: 32 bytes, or empty for none. Raises DecodeError."""
    agent = fields.short()
    if len(agent) not in (0, KEY_SIZE):
        raise fields.error()
    return agent


def read_name(fields: Fields) -> str:
    """The next user name of a layout. Raises DecodeError."""
    return check_name(fields.text(NAME_MAX))


@dataclass(frozen=True, slots=True)
class Entry:
    """What the directory says of a name.

    ``incarnation`` counts the owners that took the name one after another, ``version`` the
    changes within one incarnation, both from 1. ``expires`` is in seconds since 1970, ``round``
    the round of this change, ``previous`` (32) the hash of the entry before it (zeros for none),
    ``profile`` an encoded profile (at most 1,024 bytes), opaque to the directory. ``heirs``: a
    recovery is under way, and from ``due`` (seconds) on they are the owners; none, and 0, without.
    ``agent`` (Ed25519, 32, or empty for none) may renew the name and suspend it, and nothing else.
    """

    name: str
    incarnation: int
    version: int
    status: Status
    expires: int
    round: int
    previous: bytes
    owners: Keys
    recovery: Keys
    profile: bytes
    heirs: Keys = NO_KEYS
    due: int = 0
    agent: bytes = b""

    @property
    def frozen(self) -> bool:
        """Whether the owners, or their agent, have said that others may have the keys: nothing is
        sent to such a name."""
        return self.status in (Status.FROZEN, Status.SUSPENDED)

    def settled(self, time: int) -> "Entry":
        """The entry with those who own it at ``time`` (seconds) as owners: a recovery that is due
        has ended, and with it a freeze, and what the agent of those before may do."""
        if not self.heirs.keys or time < self.due:
            return self
        return replace(
            self, status=Status.ACTIVE, owners=self.heirs, heirs=NO_KEYS, due=0, agent=b""
        )

    def encode(self) -> bytes:
        """The layout that is hashed."""
        return (
            bytes([_VERSION])
            + short(self.name.encode("ascii"))
            + self.incarnation.to_bytes(4, "big")
            + self.version.to_bytes(4, "big")
            + bytes([self.status])
            + self.expires.to_bytes(8, "big")
            + self.round.to_bytes(8, "big")
            + self.previous
            + self.owners.encode()
            + self.recovery.encode()
            + self.heirs.encode()
            + self.due.to_bytes(8, "big")
            + short(self.agent)
            + long(self.profile)
        )

    def digest(self) -> bytes:
        """The entry's hash (32)."""
        return entry_hash(self.encode())


ENTRY_MAX = (
    1 + 1 + NAME_MAX + 4 + 4 + 1 + 8 + 8 + 32 + 3 * (2 + 32 * OWNER_KEYS_MAX) + 8 + 1 + KEY_SIZE
    + 2 + PROFILE_MAX
)  # fmt: skip


def entry_hash(encoded: bytes) -> bytes:
    """Hash (32) of an encoded entry: the map's value hash."""
    return sha256(ENTRY_VALUE + encoded).digest()


def decode_entry(data: bytes) -> Entry:
    """Undo ``Entry.encode``. Raises DecodeError."""
    fields = Fields(data, "a directory entry")
    if fields.number(1) != _VERSION:
        raise fields.error()
    name = read_name(fields)
    incarnation, version, status = fields.number(4), fields.number(4), fields.number(1)
    expires, round_, previous = fields.number(8), fields.number(8), fields.take(HASH_SIZE)
    owners, recovery, heirs = read_keys(fields), read_keys(fields), read_keys(fields)
    due, agent, profile = fields.number(8), read_agent(fields), fields.long()
    fields.end()
    if status not in _STATUSES or not incarnation or not version or not owners.keys:
        raise fields.error()
    if len(profile) > PROFILE_MAX or bool(heirs.keys) != bool(due):
        raise fields.error()
    return Entry(
        name,
        incarnation,
        version,
        Status(status),
        expires,
        round_,
        previous,
        owners,
        recovery,
        profile,
        heirs,
        due,
        agent,
    )


def name_index(directory: bytes, name: str) -> bytes:
    """Where a name is in the map (32) of a directory (16)."""
    return labelled(INDEX_LABEL, Person(directory, name).encode())


@dataclass(frozen=True, slots=True)
class Round:
    """One leaf of the log: the directory after a round's operations.

    ``time`` in seconds since 1970; ``map_root``, ``operations``, ``changes`` and ``config`` are
    hashes (32). Round ``number`` is the log's leaf of that index.
    """

    namespace: str
    number: int
    time: int
    map_root: bytes
    operations: bytes
    changes: bytes
    config: bytes

    def encode(self) -> bytes:
        """The leaf's bytes."""
        return (
            ROUND_LABEL
            + b"\n"
            + short(self.namespace.encode("ascii"))
            + self.number.to_bytes(8, "big")
            + self.time.to_bytes(8, "big")
            + self.map_root
            + self.operations
            + self.changes
            + self.config
        )

    def digest(self) -> bytes:
        """The leaf's hash (32), as in RFC 9162."""
        return sha256(LOG_LEAF + self.encode()).digest()


ROUND_SIZE_MAX = len(ROUND_LABEL) + 1 + 1 + NAMESPACE_MAX + 8 + 8 + 4 * HASH_SIZE


def decode_round(data: bytes) -> Round:
    """Undo ``Round.encode``. Raises DecodeError."""
    fields = Fields(data, "a round of the directory")
    if fields.take(len(ROUND_LABEL) + 1) != ROUND_LABEL + b"\n":
        raise fields.error()
    namespace = fields.text(NAMESPACE_MAX)
    number, time = fields.number(8), fields.number(8)
    map_root, operations, changes, config = fields.hashes(4)
    fields.end()
    return Round(namespace, number, time, map_root, operations, changes, config)


def operations_hash(operations: tuple[bytes, ...]) -> bytes:
    """Hash (32) of a round's encoded operations, in their order."""
    count = len(operations).to_bytes(4, "big")
    return labelled(OPERATIONS_LABEL, count, *(long(operation) for operation in operations))


def changes_hash(changes: tuple[bytes, ...]) -> bytes:
    """Hash (32) of the sorted, distinct 8-byte index prefixes that a round changed."""
    return labelled(CHANGES_LABEL, len(changes).to_bytes(4, "big"), *changes)
