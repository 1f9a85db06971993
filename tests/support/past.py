"""The history of an account, made for those who read it without a mount."""

from dataclasses import dataclass, field

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.messages.content import gone_key
from cbfs.messages.conversations import add_conversation, get_conversation, put_label
from cbfs.messages.history import Arrival, add_message
from cbfs.messages.model import Content, Conversation, Message
from cbfs.messages.queues import blobs
from cbfs.messages.queues.blobs import Blob, BlobStage
from cbfs.storage.encoding import u32, u64
from cbfs.storage.records import Series, Table, Writer
from cbfs.storage.store import Store
from cbfs_common.messages.conversation import Lifetime
from cbfs_common.messages.folder import FolderEntry, encode_table

NOW = 1_763_909_162_123
"""Milliseconds: 2025-11-23, 14:46:02 UTC."""

CHUNK = 65_536


@dataclass
class Talk:
    """A conversation of alice's with others, in a store; each message is a second after the one
    before."""

    store: Store
    others: tuple[str, ...] = ("bob",)
    subject: str = ""
    number: int = 1
    _count: int = field(default=0)

    def __post_init__(self) -> None:
        people = tuple(sorted(("alice", *self.others)))
        self.id = bytes([self.number]) * 16
        self.store.write(
            lambda writer: add_conversation(writer, self.id, "alice", people, self.subject, NOW)
        )

    @property
    def place(self) -> Conversation:
        with self.store.read() as reader:
            found = get_conversation(reader, self.id)
        assert found is not None
        return found

    def says(
        self,
        sender: str,
        data: bytes | str,
        name: str = "",
        *,
        folder: bool = False,
        lifetime: int = 0,
        doubtful: bool = False,
    ) -> Message:
        """Somebody says something."""
        whole = data.encode() if isinstance(data, str) else data
        self._count += 1
        now = NOW + 1_000 * self._count

        def change(writer: Writer) -> Message:
            content = _content(writer, whole)
            arrival = Arrival(
                SYSTEM_RANDOM.token(32),
                sender,
                now,
                (),
                name,
                writer.next_number(Series.INODE),
                content,
                self.others if sender == "alice" else (),
                folder=folder,
                lifetime=Lifetime(lifetime, 1 if lifetime else 0),
                doubts=(bytes(16),) if doubtful else (),
            )
            return add_message(writer, self.id, arrival, now)

        return self.store.write(change)

    def sends_folder(self, sender: str, name: str, files: dict[str, bytes]) -> Message:
        """A folder whose files have these paths, of two parts at most."""
        entries: list[FolderEntry] = []
        above: dict[str, int] = {}
        bodies = b""
        for path, body in files.items():
            folder, _, last = path.rpartition("/")
            if folder and folder not in above:
                entries.append(FolderEntry(0, folder, None))
                above[folder] = len(entries)
            entries.append(FolderEntry(above.get(folder, 0), last, len(body)))
            bodies += body
        return self.says(sender, encode_table(entries) + bodies, name, folder=True)

    def removes(self, message: Message, index: int) -> None:
        """An entry of a folder is removed."""
        key = gone_key(message) + u32(index)
        self.store.write(lambda writer: writer.put(Table.GONE, key, b""))

    def half_came(self, message: Message) -> None:
        """Only a part of a large file is here."""
        content = message.content
        blob = Blob(
            content.id,
            BlobStage.FETCHING,
            content.size,
            b"r",
            self.id,
            message.serial,
            NOW,
            done=content.size // 2,
        )
        self.store.write(lambda writer: blobs.put(writer, blob))


def petname(store: Store, name: str, shown: str) -> None:
    """The user calls somebody so."""
    store.write(lambda writer: put_label(writer, name, shown))


def _content(writer: Writer, data: bytes) -> Content:
    id_ = writer.random_number()
    for index, start in enumerate(range(0, len(data), CHUNK)):
        writer.put(Table.CONTENT, u64(id_) + u32(index), data[start : start + CHUNK])
    return Content(id_, len(data), CHUNK)
