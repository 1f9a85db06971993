"""Conversations and messages as plain values. Times are milliseconds since 1970, UTC."""

from dataclasses import dataclass
from enum import Enum

from cbfs_common.messages.body import MESSAGE_ID_SIZE, Parent
from cbfs_common.messages.conversation import FOREVER, Lifetime


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes in ``Table.CONTENT``: records ``id u64 | index u32``, each ``chunk`` bytes but the
    last. Immutable once a message refers to it; ids are random (``Writer.random_number``), so that
    nothing tells that a content was there once."""

    id: int
    size: int
    chunk: int


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
    ``outbox_inode`` are of ``Series.INODE``."""

    id: bytes
    participants: tuple[str, ...]
    subject: str
    started: int
    folder: str
    inode: int
    outbox_inode: int


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
    None for what was received."""

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
    parents: tuple[Parent, ...] = ()
    file_name: str = ""
    entry_size: int = 0
    folder: bool = False
    label: str = ""
    lifetime: Lifetime = FOREVER
    ends: int = 0
    place: int = 0
    missing: tuple[Parent, ...] = ()
    origin: Origin | None = None

    @property
    def id(self) -> bytes:
        """What it is called in notes and records: 16 bytes."""
        return self.hash[:MESSAGE_ID_SIZE]

    @property
    def as_parent(self) -> Parent:
        """As what answers it names it."""
        return Parent(self.sender, self.hash)
