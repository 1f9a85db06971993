"""Conversations and messages as plain values. Times are milliseconds since 1970, UTC."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from cbfs_common.messages import body
from cbfs_common.messages.body import MESSAGE_ID_SIZE
from cbfs_common.messages.conversation import FOREVER, Lifetime
from cbfs_common.person import Directories


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes in ``Table.CONTENT``: records ``id u64 | index u32``, each ``chunk`` bytes but the
    last. Immutable once a message refers to it; ids are random (``Writer.random_number``), so that
    nothing tells that a content was there once."""

    id: int
    size: int
    chunk: int


class ParentRef(NamedTuple):
    """A message that another one answers: what its author is called, and its hash (32)."""

    author: str
    hash: bytes

    @property
    def id(self) -> bytes:
        """The id (16) of that message."""
        return self.hash[:MESSAGE_ID_SIZE]


def parents_said(directories: Directories, parents: Iterable[ParentRef]) -> tuple[body.Parent, ...]:
    """Parents as a message names them."""
    return tuple(body.Parent(directories.person(each.author), each.hash) for each in parents)


def parents_heard(directories: Directories, said: Iterable[body.Parent]) -> tuple[ParentRef, ...]:
    """Parents that a message names."""
    return tuple(ParentRef(directories.text(each.author), each.hash) for each in said)


class Delivery(Enum):
    """How far a message is on its way to one recipient."""

    QUEUED = "queued"
    SENT = "sent"  # at the recipient's server
    RECEIVED = "received"  # a receipt has come
    CANCELLED = "cancelled"  # taken back before it was delivered, and never will be
    LEFT_OUT = "left out"  # blocked when it was written, or while it waited: it is not sent to them
    KEPT = "kept here"  # a note to oneself, which goes nowhere


@dataclass(frozen=True, slots=True)
class Conversation:
    """``participants`` are sorted and include oneself. ``folder`` is the name under
    conversations/ and outbox/, unique, made by ``file_names.folder_name``. ``inode`` and
    ``outbox_inode`` are of ``Series.INODE``; the latter is 0 when another one has the folder under
    outbox/, as this one goes on there.

    ``root``: the id of the conversation from which it goes on with other people, or empty.
    ``next``: that of the one in which it goes on, or empty. ``left``: who of the participants has
    left it (``cbfs.receiving.compositions``)."""

    id: bytes
    participants: tuple[str, ...]
    subject: str
    started: int
    folder: str
    inode: int
    outbox_inode: int
    root: bytes = b""
    next: bytes = b""
    left: tuple[str, ...] = ()

    @property
    def began(self) -> bytes:
        """The id of the one in which it began: its own, unless it goes on from another one."""
        return self.root or self.id

    @property
    def present(self) -> tuple[str, ...]:
        """The participants who have not left."""
        return tuple(name for name in self.participants if name not in self.left)


@dataclass(slots=True)
class Turnover:
    """What has become of conversations, to be told when it is on the disk: those that are ``new``
    or other than before, as they are now; and ``moved``, those whose folder under outbox/ is now
    that of another one, in order. All by their ids."""

    new: dict[bytes, Conversation] = field(default_factory=dict)
    moved: dict[bytes, bytes] = field(default_factory=dict)

    def add(self, more: "Turnover") -> None:
        """What has come about after these."""
        self.new |= more.new
        self.moved |= more.moved


@dataclass(frozen=True, slots=True)
class Origin:
    """What one's own message was made with, besides what everybody is shown of it, so that it is
    the same whenever it is sent: ``salt`` (16), the ``date`` that others see (milliseconds), and
    the ``digest`` of its content (32)."""

    salt: bytes
    date: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation, sent or received. Times are milliseconds since 1970.

    ``hash`` (32) names it, by all that it says; its ``id`` (16) is the beginning of that.
    ``name`` is the file name in the conversation's folder, unique there, made by
    ``file_names.message_name``. ``recipients`` is empty for what was received; of a note to oneself
    it is oneself. ``parents`` and ``file_name`` are as its sender wrote them. ``entry_size`` is how
    many bytes it has in the conversation's transcript. ``folder``: its content is a folder
    (``cbfs_common.messages.folder``). ``label``: what its sender was called when it was named.
    ``ends``: when it is deleted, by the ``lifetime`` that it carries; 0 is never. ``place`` orders
    the messages of a conversation, the same at everybody who has the same messages (PROTOCOL.rst,
    Conversations). ``missing`` are those of its parents that have never been here. ``origin`` is
    None for what was received. ``leaving``: its sender leaves the conversation with it.
    ``added``: whom its sender has added to the conversation by it. ``doubts``: the sessions (ids of
    16) that it has come on, in none of which its sender is proven; none when it is known who has
    written it."""

    hash: bytes
    conversation: bytes
    serial: int
    sender: str
    date: int
    received: int
    name: str
    inode: int
    content: Content
    recipients: tuple[tuple[str, Delivery], ...]
    parents: tuple[ParentRef, ...] = ()
    file_name: str = ""
    entry_size: int = 0
    folder: bool = False
    label: str = ""
    lifetime: Lifetime = FOREVER
    ends: int = 0
    place: int = 0
    missing: tuple[ParentRef, ...] = ()
    origin: Origin | None = None
    leaving: bool = False
    added: tuple[str, ...] = ()
    doubts: tuple[bytes, ...] = ()

    @property
    def id(self) -> bytes:
        """What it is called in notes and records: 16 bytes."""
        return self.hash[:MESSAGE_ID_SIZE]

    @property
    def as_parent(self) -> ParentRef:
        """As what answers it names it."""
        return ParentRef(self.sender, self.hash)
