"""Records of a store of format 2, each read strictly into what it says."""

from dataclasses import dataclass
from typing import Any, Final

import msgpack

from cbfs.storage.encoding import number_of, unpack
from cbfs_common.errors import DecodeError
from cbfs_common.names.entry import Keys, Status, read_keys, read_name
from cbfs_common.names.layout import HASH_SIZE, Fields
from cbfs_common.person import check_name
from cbfs_common.primitives import KEY_SIZE
from cbfs_common.profile import Address, parse_address

MESSAGE_ID_SIZE: Final = 16
_PROFILE = 1 + 4 * KEY_SIZE
_KIND_PART, _KIND_FOLDER = 1, 3
_PART_FIELDS = 17
_NUMBERS_END = 1 << 63
_STATES = frozenset(("queued", "sent", "received"))
_STANDINGS = frozenset(("known", "listed", "stranger"))
_HOWS = frozenset(("DIRECTORY", "BUNDLE", "USER"))


def _damaged() -> DecodeError:
    return DecodeError(
        "a record of the account, which is of an earlier cbfs, is damaged",
        "it is left as it is: use the cbfs that it was used with last, or restore an export",
    )


def _all(values: list[Any], kind: type) -> tuple[Any, ...]:
    if any(type(value) is not kind for value in values):
        raise _damaged()
    if kind is int and not all(0 <= value < _NUMBERS_END for value in values):
        raise _damaged()
    return tuple(values)


@dataclass(frozen=True, slots=True)
class OldContent:
    """Where bytes are: as ``Content`` of ``cbfs.messages``."""

    id: int
    size: int
    chunk: int


def _content(numbers: list[Any]) -> OldContent:
    if len(numbers) != 3:
        raise _damaged()
    content = OldContent(*_all(numbers, int))
    if content.size and not content.chunk:
        raise _damaged()
    return content


@dataclass(frozen=True, slots=True)
class OldAccount:
    """One's own name, secret keys (32 bytes each), home server (its URL) and name policy (its
    text)."""

    name: str
    transport: bytes
    signing: bytes
    auth: bytes
    owner: bytes
    server: str
    policy: str


def read_account(data: bytes) -> OldAccount:
    """The account in its record. Raises DecodeError."""
    types = (str, bytes, bytes, bytes, bytes, str, str, list)
    name, transport, signing, auth, owner, server, policy, _former = unpack(data, *types)
    if any(len(key) != KEY_SIZE for key in (transport, signing, auth, owner)):
        raise _damaged()
    parse_address(server)
    return OldAccount(check_name(name), transport, signing, auth, owner, server, policy)


@dataclass(frozen=True, slots=True)
class OldProfile:
    """The public keys of a person (32 bytes each), and their home server."""

    user_id: bytes
    signing: bytes
    auth: bytes
    server: Address


@dataclass(frozen=True, slots=True)
class OldEntry:
    """What a name directory said of a name."""

    name: str
    incarnation: int
    version: int
    status: Status
    expires: int
    round: int
    previous: bytes
    owners: Keys
    recovery: Keys
    heirs: Keys
    due: int
    profile: OldProfile


def read_entry(data: bytes) -> OldEntry:
    """An entry of a name directory. Raises DecodeError."""
    fields = Fields(data, "a directory entry")
    if fields.number(1) != 1:
        raise fields.error()
    name = read_name(fields)
    incarnation, version, status = fields.number(4), fields.number(4), fields.number(1)
    expires, round_, previous = fields.number(8), fields.number(8), fields.take(HASH_SIZE)
    owners, recovery, heirs = read_keys(fields), read_keys(fields), read_keys(fields)
    due, profile = fields.number(8), _profile(fields.long())
    fields.end()
    if status not in (Status.ACTIVE, Status.FROZEN, Status.RELEASED):
        raise fields.error()
    times = expires, round_, previous
    return OldEntry(
        *(name, incarnation, version, Status(status), *times),
        *(owners, recovery, heirs, due, profile),
    )


def _profile(data: bytes) -> OldProfile:
    if len(data) <= _PROFILE + 2 or data[0] != 1:
        raise _damaged()
    user_id, signing, auth, key = (data[at : at + KEY_SIZE] for at in range(1, _PROFILE, KEY_SIZE))
    try:
        host = data[_PROFILE + 2 :].decode("ascii")
    except UnicodeDecodeError as error:
        raise _damaged() from error
    port = number_of(data[_PROFILE : _PROFILE + 2])
    return OldProfile(user_id, signing, auth, Address(key, host, port))


@dataclass(frozen=True, slots=True)
class OldContact:
    """What was known of a person: as ``Contact`` of ``cbfs.contacts``."""

    entry: OldEntry
    since: int
    how: str
    moved: int
    verified: int
    offered: OldEntry | None
    stopped: int
    doubted: int
    warning: str
    blocked: int
    muted: int
    standing: str
    declined: int
    petname: str


def read_contact(data: bytes) -> OldContact:
    """A contact in its record. Raises DecodeError."""
    entry, since, how, moved, verified, offered, *rest = unpack(
        data, bytes, int, str, int, int, bytes, int, int, str, int, int, str, int, str
    )
    stopped, doubted, warning, blocked, muted, standing, declined, petname = rest
    if how not in _HOWS or standing not in _STANDINGS:
        raise _damaged()
    return OldContact(
        *(read_entry(entry), since, how, moved, verified),
        *(read_entry(offered) if offered else None, stopped, doubted, warning),
        *(blocked, muted, standing, declined, petname),
    )


@dataclass(frozen=True, slots=True)
class OldConversation:
    """``participants`` are names; ``started`` in milliseconds since 1970."""

    id: bytes
    participants: tuple[str, ...]
    subject: str
    started: int
    folder: str
    inode: int
    outbox_inode: int


def read_conversation(key: bytes, data: bytes) -> OldConversation:
    """A conversation in its record. Raises DecodeError."""
    people, *rest = unpack(data, list, str, int, str, int, int)
    return OldConversation(key, _all(people, str), *rest)


@dataclass(frozen=True, slots=True)
class OldMessage:
    """One message: as ``Message`` of ``cbfs.messages``, but that its ``id`` (16) is its sender's
    choice, and that its ``parents`` are ids. ``lifetime``: seconds, change; ``ends``."""

    id: bytes
    conversation: bytes
    serial: int
    sender: str
    date: int
    received: int
    name: str
    inode: int
    content: OldContent
    recipients: tuple[tuple[str, str], ...]
    parents: tuple[bytes, ...]
    file_name: str
    folder: bool
    label: str
    lifetime: tuple[int, int]
    ends: int


def read_message(key: bytes, data: bytes) -> OldMessage:
    """A message in its record. Raises DecodeError."""
    types = (bytes, str, int, int, str, int, list, list, list, str, int, bool, str, list)
    id_, sender, date, received, name, inode, content, recipients, parents, *rest = unpack(
        data, *types
    )
    file_name, _size, folder, called, times = rest
    if len(key) != 24 or len(id_) != MESSAGE_ID_SIZE or len(times) != 3:
        raise _damaged()
    seconds, change, ends = _all(times, int)
    return OldMessage(
        id_,
        key[:16],
        number_of(key[16:]),
        sender,
        date,
        received,
        name,
        inode,
        _content(content),
        tuple(map(_recipient, recipients)),
        _all(parents, bytes),
        file_name,
        folder,
        called,
        (seconds, change),
        ends,
    )


def _recipient(said: object) -> tuple[str, str]:
    match said:
        case [str() as who, str() as state] if state in _STATES:
            return who, state
        case _:
            raise _damaged()


@dataclass(frozen=True, slots=True)
class OldPart:
    """A message, or a part of it, as its sender's client has packed it."""

    id: bytes
    conversation: bytes
    participants: tuple[str, ...]
    subject: str
    date: int
    file_name: str
    number: int
    count: int
    size: int
    digest: bytes
    chunk: bytes
    folder: bool
    lifetime: tuple[int, int]


@dataclass(frozen=True, slots=True)
class OldRequest:
    """What a stranger has sent, and when it came (milliseconds since 1970); no ``part`` for what is
    no message."""

    sender: str
    received: int
    part: OldPart | None


def read_request(data: bytes) -> OldRequest:
    """A stranger's message in its record. Raises DecodeError."""
    sender, received, body = unpack(data, str, int, bytes)
    return OldRequest(check_name(sender), received, _part(body))


def _part(body: bytes) -> OldPart | None:
    try:
        fields = msgpack.unpackb(body, raw=False, use_list=True, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise _damaged() from error
    if not isinstance(fields, list) or fields[:1] != [1] or len(fields) < 2:
        raise _damaged()
    if fields[1] not in (_KIND_PART, _KIND_FOLDER):
        return None
    types = (bytes, bytes, list, list, str, int, str, int, int, int, bytes, bytes, bytes, int, int)
    if len(fields) != _PART_FIELDS or tuple(map(type, fields[2:])) != types:
        raise _damaged()
    id_, conversation, _parents, people, subject, date, file_name, *share = fields[2:]
    number, count, size, digest, chunk, _bundle, seconds, change = share
    return OldPart(
        id_,
        conversation,
        _all(people, str),
        subject,
        date,
        file_name,
        number,
        count,
        size,
        digest,
        chunk,
        fields[1] == _KIND_FOLDER,
        (seconds, change),
    )


@dataclass(frozen=True, slots=True)
class OldNode:
    """A file, folder or link that programs had saved: its names as (parent's key, name)."""

    kind: str
    names: tuple[tuple[int, str], ...]
    mode: int
    mtime_ns: int
    content: OldContent | None
    target: str


def read_node(data: bytes) -> OldNode:
    """What programs had saved, in its record. Raises DecodeError."""
    kind, names, mode, mtime_ns, numbers, target = unpack(data, str, list, int, int, list, str)
    if kind not in ("file", "link", "directory"):
        raise _damaged()
    content = _content(numbers) if numbers else None
    return OldNode(kind, tuple(map(_place, names)), mode, mtime_ns, content, target)


def _place(said: object) -> tuple[int, str]:
    match said:
        case [int() as key, str() as name]:
            return key, name
        case _:
            raise _damaged()


@dataclass(frozen=True, slots=True)
class OldLifetime:
    """For how long the messages of a conversation are kept, who has said so, and when
    (milliseconds)."""

    seconds: int
    change: int
    source: str
    since: int


def read_lifetime(data: bytes) -> OldLifetime:
    """The lifetime of a conversation, in its record. Raises DecodeError."""
    return OldLifetime(*unpack(data, int, int, str, int))


def read_heads(data: bytes) -> tuple[bytes, ...]:
    """The ids of the newest messages of a conversation."""
    return tuple(data[at : at + MESSAGE_ID_SIZE] for at in range(0, len(data), MESSAGE_ID_SIZE))


def read_relabelled(data: bytes) -> str:
    """Whose messages still have names of before. Raises DecodeError."""
    name: str = unpack(data, str, bytes)[0]
    return name
