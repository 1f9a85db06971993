"""What a message body says. PROTOCOL.rst, Message."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple, TypeGuard

import msgpack

from cbfs_common.errors import DecodeError, LimitError
from cbfs_common.limits import (
    BLOB_ABOVE,
    BLOB_SIZE_MAX,
    BODY_MAX,
    BUNDLE_MAX,
    DATE_MAX,
    FILE_NAME_MAX,
    FILE_SIZE_MAX,
    LIFETIME_CHANGE_MAX,
    MESSAGE_LIFETIME_MAX,
    NOTE_IDS_MAX,
    PARENTS_MAX,
    PARTICIPANTS_MAX,
    PARTS_MAX,
    SUBJECT_MAX,
)
from cbfs_common.messages.blobs import decode_reference
from cbfs_common.messages.conversation import FOREVER, Lifetime, is_lifetime
from cbfs_common.person import DIRECTORY_SIZE, Person
from cbfs_common.primitives import kdf
from cbfs_common.strict_msgpack import unpack

MESSAGE_HASH_SIZE = 32
MESSAGE_ID_SIZE = 16
SALT_SIZE = 16
DIGEST_SIZE = 32
BODY_VERSION = 1
KIND_PART = 1
KIND_NOTE = 2
KIND_FOLDER = 3
KIND_LEAVING = 4
KIND_BLOB = 5
KIND_BLOB_FOLDER = 6
MESSAGE_REF_SIZE = 2 * MESSAGE_ID_SIZE
"""conversation 16 | message 16"""
_PART_FIELDS = 19
_NOTE_FIELDS = 7
_LISTS = 4
_PACKED_REF = 2 + MESSAGE_REF_SIZE
_LISTS_GROW = _LISTS * 2
"""Bytes of a ref in a body, and by which the heads of its lists grow that have any."""
_COUNT_MAX = FILE_SIZE_MAX  # as long a number as any in part_capacity
_SOLE_PART = 1


class UnknownKind(DecodeError):
    """A body of a later version or kind of this protocol."""


class Parent(NamedTuple):
    """A message that another one answers: who has written it, as its sender says, and its hash
    (32)."""

    author: Person
    hash: bytes

    @property
    def id(self) -> bytes:
        """The id (16) of that message."""
        return self.hash[:MESSAGE_ID_SIZE]


@dataclass(frozen=True, slots=True)
class Refs:
    """Messages that one client tells another of, by conversation and id, 32 bytes together, at
    most NOTE_IDS_MAX in all.

    ``received`` (sent by who gets this) are here, whole. ``wanted`` are missing here: who wrote
    one is asked to send it again. ``offered`` were sent from here, and nothing was heard of
    them. ``taken_back`` were written here, and will not be sent."""

    received: tuple[bytes, ...] = ()
    wanted: tuple[bytes, ...] = ()
    offered: tuple[bytes, ...] = ()
    taken_back: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        return sum(map(len, self.listed()))

    def listed(self) -> list[tuple[bytes, ...]]:
        """As in a body."""
        return [self.received, self.wanted, self.offered, self.taken_back]


NO_REFS = Refs()


@dataclass(frozen=True, slots=True)
class Part:
    """A message, or one of the ``count`` parts that a long one travels in.

    ``salt`` (16) is not to be guessed. ``parents`` (at most 16) are the newest messages of the
    conversation that the sender had seen when it was written; their authors are among
    ``participants``: sorted, the sender among them. ``date``:
    milliseconds since 1970 by the sender's clock. ``file_name`` may be empty. ``size`` and
    ``digest`` (BLAKE2b-256) are those of the whole content; ``chunk`` is this part's share of
    it. All parts but the last have chunks of one size. ``bundle``: the sender's name proof, or
    empty. ``folder``: the content is that of a folder (``cbfs_common.messages.folder``), of the
    name ``file_name``, which is then not empty. ``lifetime``: for how long it is kept. ``note``:
    what else the sender's client tells that of this recipient. ``root``: the id (16) of the
    conversation from which this one goes on with other people, or empty. ``leaving``: the sender
    leaves the conversation with it; it is in one part, and ``file_name`` is empty. ``blob``: the
    content is a blob (``cbfs_common.messages.blobs``), of which ``digest`` is that of its tree; it
    is in one part, whose ``chunk`` is the encoded reference.
    """

    salt: bytes
    conversation: bytes
    parents: tuple[Parent, ...]
    participants: tuple[Person, ...]
    subject: str
    date: int
    file_name: str
    number: int
    count: int
    size: int
    digest: bytes
    chunk: bytes
    bundle: bytes
    folder: bool = False
    lifetime: Lifetime = FOREVER
    note: Refs = NO_REFS
    root: bytes = b""
    leaving: bool = False
    blob: bool = False

    @property
    def kind(self) -> int:
        """What it is, in a body."""
        if self.leaving:
            return KIND_LEAVING
        if self.blob:
            return KIND_BLOB_FOLDER if self.folder else KIND_BLOB
        return KIND_FOLDER if self.folder else KIND_PART

    def hash(self, sender: Person) -> bytes:
        """The hash (32) of the message that ``sender`` has sent this part of: the same of all its
        parts, and of no other message."""
        return kdf(
            b"",
            b"cbfs1 message",
            msgpack.packb(
                (
                    self.kind,
                    self.salt,
                    self.conversation,
                    _packed_person(sender),
                    _packed_parents(self),
                    _packed_people(self.participants),
                    self.subject,
                    self.date,
                    self.file_name,
                    self.size,
                    self.digest,
                    self.lifetime.seconds,
                    self.lifetime.change,
                    self.root,
                )
            ),
            MESSAGE_HASH_SIZE,
        )


@dataclass(frozen=True, slots=True)
class Note:
    """What one client tells another, and no person writes. ``bundle`` as in a Part."""

    refs: Refs
    bundle: bytes


Body = Part | Note


def encode_note(note: Note) -> bytes:
    """A body of at most BODY_MAX bytes. Raises DecodeError when ``note`` is none that
    ``decode_body`` would take."""
    _check_note(note)
    packed: bytes = msgpack.packb(
        (
            BODY_VERSION,
            KIND_NOTE,
            *note.refs.listed(),
            note.bundle,
        )
    )
    return packed


def encode_part(part: Part) -> bytes:
    """A body of at most BODY_MAX bytes. Raises LimitError when it would be longer, and
    DecodeError when ``part`` is none that ``decode_body`` would take."""
    _check_part(part)
    body = _pack(part)
    if len(body) > BODY_MAX:
        raise LimitError("the message is too long for one envelope")
    return body


def part_capacity(participants: tuple[Person, ...], subject: str, file_name: str) -> int:
    """Bytes of content that fit into every part of such a message, whatever its parents and its
    bundle."""
    largest = Part(
        salt=bytes(SALT_SIZE),
        conversation=bytes(MESSAGE_ID_SIZE),
        parents=(Parent(participants[0], bytes(MESSAGE_HASH_SIZE)),) * PARENTS_MAX,
        participants=participants,
        subject=subject,
        date=DATE_MAX,
        file_name=file_name,
        number=_COUNT_MAX,
        count=_COUNT_MAX,
        size=FILE_SIZE_MAX,
        digest=bytes(DIGEST_SIZE),
        chunk=bytes(BODY_MAX),
        bundle=bytes(BUNDLE_MAX),
        lifetime=Lifetime(MESSAGE_LIFETIME_MAX, LIFETIME_CHANGE_MAX),
        root=bytes(MESSAGE_ID_SIZE),
    )
    return 2 * BODY_MAX - len(_pack(largest))


def room_for_refs(part: Part) -> int:
    """How many messages may be named in the note of a part, beside what it has in it. Raises as
    ``encode_part`` does."""
    left = BODY_MAX - len(encode_part(replace(part, note=NO_REFS)))
    return max(0, min(NOTE_IDS_MAX, (left - _LISTS_GROW) // _PACKED_REF))


def decode_body(body: bytes) -> Body:
    """Parse a body. Raises UnknownKind for one of a later version or kind, DecodeError for
    anything else that is not as PROTOCOL.rst says."""
    if len(body) > BODY_MAX:
        raise DecodeError("not a message")
    fields = unpack(body, "not a message", len(body))
    if not isinstance(fields, list) or len(fields) < 2:
        raise DecodeError("not a message")
    version, kind = fields[:2]
    if not _is_int(version) or not _is_int(kind):
        raise DecodeError("not a message")
    if version != BODY_VERSION or kind not in _DECODERS:
        raise UnknownKind("a message of a later version", "is there a newer cbfs?")
    return _DECODERS[kind](fields)


def decode_part(body: bytes) -> Part:
    """Parse a body that must be a ``Part``. Raises DecodeError."""
    part = decode_body(body)
    if not isinstance(part, Part):
        raise DecodeError("not a part of a message")
    return part


def _pack(part: Part) -> bytes:
    packed: bytes = msgpack.packb(
        (
            BODY_VERSION,
            part.kind,
            part.salt,
            part.conversation,
            _packed_parents(part),
            _packed_people(part.participants),
            part.subject,
            part.date,
            part.file_name,
            part.number,
            part.count,
            part.size,
            part.digest,
            part.chunk,
            part.bundle,
            part.lifetime.seconds,
            part.lifetime.change,
            part.note.listed(),
            part.root,
        )
    )
    return packed


def _packed_parents(part: Part) -> list[bytes]:
    """Each as the number of its author among the participants, from 0, u8 | hash 32."""
    number = part.participants.index
    return [bytes([number(parent.author)]) + parent.hash for parent in part.parents]


def _packed_people(people: tuple[Person, ...]) -> list[bytes]:
    return [_packed_person(person) for person in people]


def _packed_person(person: Person) -> bytes:
    """directory 16 | name."""
    return person.directory + person.name.encode("ascii")


def _people(packed: object) -> tuple[Person, ...]:
    if not isinstance(packed, list) or not all(isinstance(each, bytes) for each in packed):
        raise DecodeError("not a list of participants")
    try:
        people = [Person(p[:DIRECTORY_SIZE], p[DIRECTORY_SIZE:].decode("ascii")) for p in packed]
    except UnicodeDecodeError as error:
        raise DecodeError("not a list of participants") from error
    return tuple(people)


def _parents(packed: object, participants: tuple[Person, ...]) -> tuple[Parent, ...]:
    if not isinstance(packed, list) or len(packed) > PARENTS_MAX:
        raise DecodeError("not a message")
    for each in packed:
        if not _is_bytes(each, 1 + MESSAGE_HASH_SIZE) or each[0] >= len(participants):
            raise DecodeError("not a message")
    return tuple(Parent(participants[each[0]], each[1:]) for each in packed)


def _decode_part(fields: list[Any]) -> Part:
    if len(fields) != _PART_FIELDS:
        raise DecodeError("not a message")
    kind, salt, conversation, parents, people, *plain, seconds, change, note, root = fields[1:]
    participants = _people(people)
    parents = _parents(parents, participants)
    lifetime, refs = Lifetime(seconds, change), _decode_refs(note)
    folder, blob = kind in _FOLDERS, kind in _BLOBS
    behind = folder, lifetime, refs, root, kind == KIND_LEAVING, blob
    part = Part(*(salt, conversation, parents, participants, *plain, *behind))
    _check_part(part)
    return part


def _decode_note(fields: list[Any]) -> Note:
    if len(fields) != _NOTE_FIELDS:
        raise DecodeError("not a note")
    note = Note(_decode_refs(fields[2:6]), *fields[6:])
    _check_note(note)
    return note


def _decode_refs(lists: object) -> Refs:
    if (
        not isinstance(lists, list)
        or len(lists) != _LISTS
        or not all(isinstance(ids, list) for ids in lists)
    ):
        raise DecodeError("not a note")
    return Refs(*(tuple(ids) for ids in lists))


def _are_refs(refs: Refs) -> bool:
    lists = refs.listed()
    return (
        len(refs) <= NOTE_IDS_MAX
        and all(_is_bytes(id_, MESSAGE_REF_SIZE) for ids in lists for id_ in ids)
        and all(len(set(ids)) == len(ids) for ids in lists)
    )


def _check_note(note: Note) -> None:
    if not (
        _are_refs(note.refs) and isinstance(note.bundle, bytes) and len(note.bundle) <= BUNDLE_MAX
    ):
        raise DecodeError("not a note")


def _check_part(part: Part) -> None:
    """Types and sizes of every field: what is decoded has been through nothing else yet."""
    if not (
        _is_bytes(part.salt, SALT_SIZE)
        and _is_bytes(part.conversation, MESSAGE_ID_SIZE)
        and _is_bytes(part.digest, DIGEST_SIZE)
        and len(part.parents) <= PARENTS_MAX
        and all(_is_bytes(parent.hash, MESSAGE_HASH_SIZE) for parent in part.parents)
        and all(parent.author in part.participants for parent in part.parents)
        and len({parent.hash for parent in part.parents}) == len(part.parents)
        and _is_text(part.subject, SUBJECT_MAX)
        and _is_text(part.file_name, FILE_NAME_MAX)
        and (part.file_name or not part.folder)
        and (not part.leaving or (part.count == _SOLE_PART and not part.file_name))
        and not (part.leaving and part.blob)
        and (part.root == b"" or _is_bytes(part.root, MESSAGE_ID_SIZE))
        and _is_int(part.date, DATE_MAX)
        and isinstance(part.chunk, bytes)
        and isinstance(part.bundle, bytes)
        and len(part.bundle) <= BUNDLE_MAX
        and is_lifetime(part.lifetime.seconds, part.lifetime.change)
        and _are_refs(part.note)
    ):
        raise DecodeError("not a message")
    _check_participants(part.participants)
    _check_share(part)


def _check_participants(people: tuple[Person, ...]) -> None:
    if not 2 <= len(people) <= PARTICIPANTS_MAX:
        raise DecodeError("not a list of participants")
    for person in people:
        person.checked()
    if any(person >= after for person, after in pairwise(people)):
        raise DecodeError("not a list of participants")


def _check_share(part: Part) -> None:
    """The chunk is as long as its place among the parts says, or refers to the blob that the
    content is."""
    if part.blob:
        _check_reference(part)
        return
    number, count, size = part.number, part.count, part.size
    if not (
        _is_int(size, FILE_SIZE_MAX) and _is_int(count, PARTS_MAX) and _is_int(number, count - 1)
    ):
        raise DecodeError("not a part of a message")
    length = len(part.chunk)
    if count == _SOLE_PART:
        whole = length == size
    elif number < count - 1:
        whole = (count - 1) * length < size <= count * length
    else:
        before, rest = divmod(size - length, count - 1)
        whole = rest == 0 and 0 < length <= before
    if not whole:
        raise DecodeError("not a part of a message")


def _check_reference(part: Part) -> None:
    if not (
        _is_int(part.size, BLOB_SIZE_MAX)
        and part.size > BLOB_ABOVE
        and _is_int(part.number, 0)
        and _is_int(part.count, _SOLE_PART)
        and part.count == _SOLE_PART
    ):
        raise DecodeError("not a part of a message")
    reference = decode_reference(part.chunk)
    if (reference.size, reference.digest) != (part.size, part.digest):
        raise DecodeError("not a part of a message")


def _is_int(value: object, most: int = 2**64 - 1) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= most


def _is_bytes(value: object, size: int) -> TypeGuard[bytes]:
    return isinstance(value, bytes) and len(value) == size


def _is_text(value: object, most: int) -> TypeGuard[str]:
    if not isinstance(value, str):
        return False
    try:
        return len(value.encode()) <= most
    except UnicodeEncodeError:  # a lone surrogate
        return False


_FOLDERS = frozenset((KIND_FOLDER, KIND_BLOB_FOLDER))
_BLOBS = frozenset((KIND_BLOB, KIND_BLOB_FOLDER))
_DECODERS: dict[int, Callable[[list[Any]], Body]] = {
    KIND_PART: _decode_part,
    KIND_NOTE: _decode_note,
    KIND_FOLDER: _decode_part,
    KIND_LEAVING: _decode_part,
    KIND_BLOB: _decode_part,
    KIND_BLOB_FOLDER: _decode_part,
}
