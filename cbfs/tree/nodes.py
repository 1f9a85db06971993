"""The inodes of the mount: plain objects without FUSE, and their records in the store."""

import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import trio

from cbfs.messages.listings import Entry, content_of, ends_of, entry_of
from cbfs.messages.model import Content, Message
from cbfs.storage.encoding import pack, unpack
from cbfs.tree.processes import Process
from cbfs.tree.rules import QUIET, SHORT_GRACE, Area
from cbfs.tree.write_buffer import Layer

ROOT = 1
CONVERSATIONS, OUTBOX, CONTACTS, UI_INFO, TMP = range(2, 7)
STATUS, README, PROFILE, QUARANTINE = range(7, 11)
UNREAD, BY_DATE, SEARCH, REQUESTS, DIRECTORIES = range(20, 25)
MAIL, MAIL_NEW, MAIL_CUR, MAIL_TMP = range(25, 29)
"""Inodes that are always there."""

FIXED_FOLDERS = frozenset(
    (
        *(CONVERSATIONS, OUTBOX, CONTACTS, UI_INFO, TMP, REQUESTS, DIRECTORIES),
        *(MAIL, MAIL_NEW, MAIL_CUR, MAIL_TMP),
    )
)
"""Those of the root, and of mail/, that are there all the time."""

FIRST_STORED = 1_000
"""What ``Writer.next_number`` counts begins here ..."""

FIRST_OWN = 1 << 32
"""... and what the mount counts by itself here."""

FIRST_MESSAGE = 1 << 40
"""A message's inode is this and its serial."""

FIRST_UNREAD, FIRST_FOUND, FIRST_MAIL = 1 << 41, 1 << 42, 1 << 43
"""That of a link to a message from unread/, of one from a search or a day, and of the message as a
mail, likewise."""

MADE = 1 << 62
"""Inode numbers from here on come from ``cbfs.tree.virtual.virtual_directory.inode_for``."""

MESSAGE_MODE = stat.S_IFREG | 0o400
ENDING_MODE = MESSAGE_MODE | stat.S_ISVTX
"""Of a message, and of one that is deleted by itself."""

MODES = 0o7777
"""What a program may say of permissions. The root of the mount lets nobody else in, and the mount
is nosuid: the bits are kept, and give nobody anything."""
NO_NAMES: "set[tuple[Folder, str]]" = set()
"""Of nodes that are made when somebody looks."""


def new_seed() -> bytes:
    """16 random bytes for a new draft."""
    return secrets.token_bytes(16)


class Failure(Enum):
    """Why the content of a file may be less than what was to be in it; or, MORE, go to more people
    than were meant: others have added them since."""

    NONE = 0
    WRITE = 1
    KILLED = 2
    UNMOUNT = 3
    MORE = 4


class Node:
    """One inode. ``names`` are the directory entries that lead to it, ``lookups`` how often the
    kernel was told of it (see ``Inodes``). Times in nanoseconds."""

    __slots__ = ("changed_ns", "inode", "lookups", "mode", "mtime_ns", "names")

    remade: bool = False
    """Its inode number says all that it takes to make it once more: see ``Inodes``."""

    ends: int = 0
    """When it is deleted by itself, in milliseconds since 1970, 0 for never. ``ls -l`` tells that
    by a T in the mode (the sticky bit), ``ls -lu`` shows the time as the access time."""

    def __init__(self, inode: int, mode: int, mtime_ns: int) -> None:
        self.inode = inode
        self.mode = mode
        self.mtime_ns = mtime_ns
        self.changed_ns = mtime_ns
        self.lookups = 0
        self.names: set[tuple[Folder, str]] = set()

    @property
    def size(self) -> int:
        """In bytes."""
        return 0

    @property
    def modified_ns(self) -> int:
        """The modification time that is shown."""
        return self.mtime_ns

    @property
    def links(self) -> int:
        """How many names it has, as stat(2) tells."""
        return max(1, len(self.names))

    @property
    def status_ns(self) -> int:
        """The time of its last change of any kind (ctime) that is shown."""
        return self.changed_ns

    def renew(self) -> int:
        """Something of it changes now: the time of that. It is later than that of the change
        before, be the clock set back: programs compare it to tell whether anything has changed."""
        self.changed_ns = max(time.time_ns(), self.changed_ns + 1)
        return self.changed_ns


@dataclass(slots=True)
class PendingSubmission:
    """A draft that is on its way to the engine: how to stop that, and when it has ended."""

    scope: trio.CancelScope
    done: trio.Event


@dataclass(slots=True, eq=False)
class FolderDraft:
    """What is known of a folder in the outbox that is to be one message. ``version`` counts changes
    of what is in it: what was ``sent`` or ``given_up`` is a version. ``changed`` is on the
    monotonic clock, in seconds. ``maker``: the program that has made the folder where it is."""

    version: int = 0
    sent: int = -1
    given_up: int = -1
    changed: float = 0.0
    error: str = ""
    hold: str = ""
    sending: PendingSubmission | None = None
    maker: Process | None = None


class Folder(Node):
    """A directory: one whose entries are in memory, or made when somebody looks, as in
    ``cbfs.tree.virtual.virtual_directory.VirtualDirectory``.

    ``key`` is the id under which its children's records name it as their parent; ``folder_draft``
    is there when it is to be one message."""

    __slots__ = (
        "_entries", "_folders", "alias", "area", "conversation", "folder_draft", "key", "left",
        "recorded", "seed",
    )  # fmt: skip

    def __init__(
        self,
        inode: int,
        area: Area,
        mtime_ns: int,
        *,
        conversation: bytes | None = None,
        mode: int = 0o700,
    ) -> None:
        super().__init__(inode, stat.S_IFDIR | mode & MODES, mtime_ns)
        self.area = area
        self.conversation = conversation
        self.key = inode
        self.recorded = False
        self.folder_draft: FolderDraft | None = None
        self.alias: Folder | None = None  # the folder that has taken its place
        self.left: dict[str, float] = {}  # names that were taken out of a folder of the outbox
        self.seed = b""  # as in ``File``
        self._entries: dict[str, Node] = {}
        self._folders = 0

    @property
    def links(self) -> int:
        """Two and one for each folder in it, 0 when it was removed."""
        return 2 + self._folders if self.names or self.area is Area.ROOT else 0

    @property
    def above(self) -> "Folder":
        """What ``..`` leads to: itself where nothing is above it."""
        return next((directory for directory, _name in self.names), self)

    @property
    def entries(self) -> Mapping[str, Node]:
        """Its entries by name; change them with ``add`` and ``remove``."""
        return self._entries

    def add(self, name: str, node: Node) -> None:
        """Enter ``node`` under ``name``, now."""
        if name in self._entries:
            self.remove(name)
        self.enter(name, node)
        self.mtime_ns = self.renew()
        node.renew()

    def enter(self, name: str, node: Node) -> None:
        """It has been there under this name, which is free, all the time."""
        self._entries[name] = node
        node.names.add((self, name))
        self._folders += isinstance(node, Folder)

    def remove(self, name: str) -> Node:
        """Take the entry out, now."""
        node = self._entries.pop(name)
        node.names.discard((self, name))
        if self.area is Area.DRAFTS:
            now = time.monotonic()
            self.left.pop(name, None)  # so that they are in order
            self.left[name] = now
            while now - self.left[first := next(iter(self.left))] > QUIET:
                del self.left[first]
        self._folders -= isinstance(node, Folder)
        self.mtime_ns = self.renew()
        node.renew()
        return node


class Text(Node):
    """A file that the daemon writes; ``render`` gives its bytes as they are now."""

    __slots__ = ("render",)

    def __init__(self, inode: int, render: Callable[[], bytes], mtime_ns: int) -> None:
        super().__init__(inode, stat.S_IFREG | 0o400, mtime_ns)
        self.render = render

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.render())

    @property
    def status_ns(self) -> int:
        """When anything of it last changed, its bytes among it, in nanoseconds since 1970."""
        return max(self.changed_ns, self.modified_ns)

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on, fewer at the end."""
        return self.render()[offset : offset + size]

    def opened(self) -> "Text":
        """What somebody reads who has opened it."""
        return self


class MessageFile(Node):
    """A message in a conversation. There may be very many, and a listing makes one of each: only
    what handlers need is kept, the rest is in the store under ``conversation`` and ``serial``."""

    __slots__ = ("conversation", "entry", "removed")

    remade = True
    mode = MESSAGE_MODE
    names = NO_NAMES

    def __init__(self, conversation: bytes, entry: Entry) -> None:
        self.inode = FIRST_MESSAGE + entry[0]
        self.mtime_ns, self.changed_ns = entry[1] * 1_000_000, entry[9] * 1_000_000
        self.lookups = 0
        self.conversation = conversation
        self.entry = entry
        self.removed = False

    @property
    def ends(self) -> int:  # type: ignore[override]  # it is in the entry
        """When it is deleted by itself, in milliseconds since 1970, 0 for never."""
        return ends_of(self.entry)

    def ends_anew(self, message: Message) -> None:
        """It ends at another time than before."""
        self.entry = entry_of(message)

    def named_anew(self, message: Message) -> None:
        """It has another name, and may have another date."""
        self.entry = entry_of(message)
        self.mtime_ns, self.changed_ns = message.date * 1_000_000, message.received * 1_000_000

    @property
    def links(self) -> int:
        """1, and 0 when it was removed."""
        return 0 if self.removed else 1

    @property
    def name(self) -> str:
        """That of its file."""
        return self.entry[2]

    @property
    def serial(self) -> int:
        """Its number among all messages."""
        return self.entry[0]

    @property
    def content(self) -> Content:
        """Where its bytes are."""
        return content_of(self.entry)

    @property
    def size(self) -> int:
        """In bytes."""
        return self.entry[4]


class FolderFile(MessageFile):
    """A file in a message that is a folder: ``length`` bytes of its content from ``start`` on."""

    __slots__ = ("length", "start")

    remade = False

    def __init__(self, message: Message, inode: int, start: int, length: int) -> None:
        super().__init__(message.conversation, entry_of(message))
        self.inode = inode
        self.start = start
        self.length = length

    @property
    def size(self) -> int:
        """In bytes."""
        return self.length


class SymbolicLink(Node):
    """A symbolic link; ``author`` made it. Only ``recorded`` ones are in the store."""

    __slots__ = ("author", "recorded", "target")

    def __init__(self, inode: int, target: str, mtime_ns: int, *, recorded: bool) -> None:
        super().__init__(inode, stat.S_IFLNK | 0o777, mtime_ns)
        self.target = target
        self.recorded = recorded
        self.author: Process | None = None

    @property
    def links(self) -> int:
        """How many names it has, 0 when it was removed; 1 for those that have none because they are
        made when somebody looks."""
        return len(self.names) if self.recorded else 1

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.target.encode())


class MessageLink(SymbolicLink):
    """A link to a message, made when somebody looks. There may be as many as there are messages."""

    __slots__ = ()

    remade = True
    names = NO_NAMES

    def __init__(self, inode: int, target: str, date: int) -> None:
        """``date``: that of the message, in milliseconds since 1970."""
        self.inode, self.mode = inode, stat.S_IFLNK | 0o777
        self.mtime_ns = self.changed_ns = date * 1_000_000
        self.lookups = 0
        self.target = target
        self.recorded = False
        self.author = None


class File(Node):
    """A file that programs write. ``content`` is what the store has, ``storing`` what is just being
    stored over it, ``draft`` what has changed since (see ``cbfs.tree.file_contents``). ``version``
    counts changes: what was ``stored``, ``sent`` or ``given_up`` is a version. ``changed`` is on
    the monotonic clock, in seconds; ``touched``, which programs have changed it last, and when each
    did: none has that time when it is not known who it was.

    ``failure``: why something may be missing of it; ``anew`` is how much of it has been written
    from its start by who has opened it since, -1 for nobody. ``unfinished``: a program that has it
    open has written since it last said, by close, that this is all; ``noted``: its record says so.
    ``spare``: it got its name as the backup of another file. ``seed``: 16 random bytes, from which
    the id of the message is made."""

    __slots__ = (
        "anew",
        "asked",
        "author",
        "changed",
        "content",
        "draft",
        "error",
        "failure",
        "given_up",
        "handles",
        "hold",
        "lent",
        "lock",
        "message",
        "noted",
        "seed",
        "sending",
        "sent",
        "spare",
        "stored",
        "storing",
        "touched",
        "unfinished",
        "version",
        "writers",
    )

    def __init__(self, inode: int, mode: int, mtime_ns: int, content: Content | None) -> None:
        super().__init__(inode, stat.S_IFREG | mode & MODES, mtime_ns)
        self.content = content
        self.draft: Layer | None = None
        self.storing: Layer | None = None
        self.version = 0
        self.stored = 0 if content else -1
        self.sent = -1
        self.message: Message | None = None  # what ``sent`` has become, if that is known
        self.asked = -1  # the version that ``cbfs.outbox.sync_send`` waits for
        self.given_up = -1
        self.lock = trio.Lock()  # held while its content is being stored
        self.sending: PendingSubmission | None = None
        self.lent = False  # the content belongs to a message
        self.writers = 0
        self.handles = 0
        self.author: Process | None = None
        self.changed = 0.0
        self.touched: dict[Process, float] = {}
        self.error = ""
        self.hold = ""  # why it is not sent yet
        self.failure = Failure.NONE
        self.anew = -1
        self.unfinished = False
        self.noted = False
        self.spare = False
        self.seed = new_seed()

    @property
    def links(self) -> int:
        """How many names it has, 0 when it was removed."""
        return len(self.names)

    @property
    def is_sent(self) -> bool:
        """It is a message as it is: its record is the message's."""
        return self.sent == self.version

    @property
    def size(self) -> int:
        """In bytes."""
        layer = self.draft or self.storing
        if layer is not None:
            return layer.size
        return self.content.size if self.content else 0

    def touch(self, by: Process | None) -> None:
        """It changes now, by this program; None: nobody knows by which."""
        now = self.changed = time.monotonic()
        self.touched = {each: at for each, at in self.touched.items() if now - at < SHORT_GRACE}
        if by is not None:
            self.touched[by] = now

    def fill(self, data: bytes) -> None:
        """What the daemon writes into a fresh one."""
        self.draft = Layer(0, 0)
        self.draft.write(0, data, lambda _index: b"")


def encode_record(node: Node, without: frozenset[int] = frozenset()) -> bytes:
    """What the store keeps of a Folder, File or SymbolicLink, but for its names in folders of the
    keys ``without``."""
    names = sorted(
        [directory.key, name] for directory, name in node.names if directory.key not in without
    )
    times = node.mtime_ns, node.changed_ns
    if isinstance(node, File):
        return _file_record(names, node)(node.content)
    if isinstance(node, SymbolicLink):
        return _encode_fields("link", names, node.mode, *times, [], node.target, [])
    marks = [node.seed] if isinstance(node, Folder) else []
    return _encode_fields("directory", names, node.mode, *times, [], "", marks)


def record_maker(file: File) -> Callable[[Content | None], bytes]:
    """Makes the record of a file as it is now, for a content whose id is known only within the
    transaction that stores it (which runs in another thread)."""
    return _file_record(sorted([directory.key, name] for directory, name in file.names), file)


def _file_record(names: list[list[object]], file: File) -> Callable[[Content | None], bytes]:
    mode, times = file.mode, (file.mtime_ns, file.changed_ns)
    failure = file.failure
    if file.unfinished and failure is Failure.NONE:
        failure = Failure.UNMOUNT  # unless there is a later record
    marks = [failure.value, file.spare, file.seed]

    def record(content: Content | None) -> bytes:
        numbers = [content.id, content.size, content.chunk] if content else []
        return _encode_fields("file", names, mode, *times, numbers, "", marks)

    return record


def content_in(record: bytes | None) -> Content | None:
    """Where the bytes of a file are, as its record says. Raises DecodeError."""
    if record is None:
        return None
    numbers = _decode_fields(record)[5]
    return Content(*numbers) if numbers else None


_FIELDS = (str, list, int, int, int, list, str, list)
"""Of a record: its kind, names as (parent's key, name), mode, times of modification and of any
change, the numbers of its content, the target of a link, what else there is to know of a draft."""


def _encode_fields(*fields: object) -> bytes:
    return pack(*fields)


def _decode_fields(record: bytes) -> list[Any]:
    return unpack(record, *_FIELDS)


def decode_record(inode: int, data: bytes) -> tuple[Node, list[tuple[int, str]]]:
    """(node, its names as (parent's key, name)). Raises DecodeError."""
    kind, names, mode, mtime_ns, changed_ns, numbers, target, marks = _decode_fields(data)
    node: Node
    if kind == "file":
        node = File(inode, mode, mtime_ns, Content(*numbers) if numbers else None)
        failure, node.spare, node.seed = marks
        node.failure = Failure(failure)
    elif kind == "link":
        node = SymbolicLink(inode, target, mtime_ns, recorded=True)
    else:
        node = Folder(inode, Area.KEPT, mtime_ns, mode=mode)
        node.recorded = True
        (node.seed,) = marks
    node.changed_ns = changed_ns
    return node, [(key, name) for key, name in names]


def in_another_folder(data: bytes, old: int, new: int) -> bytes | None:
    """The record with its names in the folder of key ``old`` as names in that of ``new``; None when
    it has none there. Raises DecodeError."""
    kind, names, *rest = _decode_fields(data)
    if all(key != old for key, _name in names):
        return None
    moved = sorted([new if key == old else key, name] for key, name in names)
    return _encode_fields(kind, moved, *rest)


def walk(directory: Folder) -> Iterator[tuple[Folder, str, Node]]:
    """(where it is, name, node) of all below a folder, each folder before what is in it."""
    left = [directory]
    while left:
        here = left.pop()
        for name, node in sorted(here.entries.items()):
            yield here, name, node
            if isinstance(node, Folder):
                left.append(node)
