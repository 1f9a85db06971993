"""Messages as mails: what is read of the store for them, and the files that show them.

Of a mail only its head is in memory, and that of the last few; its content is read when somebody
reads it. How long a mail is is kept with the pages that are listed, so that nothing is read for
that. Kernels have the content of small ones, which is given to them when one is opened: whoever
opens many asks once for each.
"""

import errno
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from hashlib import blake2b

from cbfs.interface import Backend
from cbfs.messages.content import gone_key, read_content
from cbfs.messages.file_names import free_name, shown_file_name
from cbfs.messages.history import get_message
from cbfs.messages.mail_ids import LETTER_TEXT
from cbfs.messages.marks.mail_pages import STAMP_SIZE
from cbfs.messages.model import Conversation, Message
from cbfs.messages.queues import blobs
from cbfs.storage.encoding import u32
from cbfs.storage.store import Reader, Table
from cbfs.tree.nodes import FIRST_MAIL, MESSAGE_MODE, NO_NAMES, Node
from cbfs.tree.rules import TreeError
from cbfs.tree.virtual.conversation_folder import Contents, MessageNodes
from cbfs.tree.virtual.mail.large import (
    WRITTEN_MAX,
    mail_of_large_file,
    mail_of_large_folder,
    written_in,
)
from cbfs.tree.virtual.mail.letter import (
    SAID_MAX,
    TEXT_MAX,
    Attached,
    Correspondent,
    MailHead,
    attached,
    first_line,
    head_of,
    is_body,
    mail_of_many,
    mail_of_one,
    said_subject,
)
from cbfs.tree.virtual.mail.pages import MailPages
from cbfs.tree.virtual.mail.pieces import Literal, Packed, Piece, Stretch, zip_of
from cbfs.tree.virtual.message_links import in_thread
from cbfs_common.messages.folder import TOP

REMEMBERED = 16_384
"""Entries of mails that are remembered, of each its head and its files: some hundred bytes each."""

MAIL_FILES_MAX = 256
"""Files that a mail has; of a folder with more, the others are one archive."""

GIVEN_MAX = 16_384
"""Bytes of a mail that kernels are given as a whole: nearly all are smaller."""

GIVEN_KEPT = 16_384
"""So many mails are remembered as given."""

READY_MAX = 64
"""Small mails that are kept as a whole between the question for their size and their opening."""

_REST = "more.zip"
_FORM = "3"
"""Another one whenever mails are laid out in another way, so that what is stored of how long they
are is not believed."""


@dataclass(frozen=True, slots=True)
class MailText:
    """A message as a mail: ``text`` of ``message``, of which ``gone`` entries had been removed, if
    it is a folder; made of so many ``entries``, some in archives if it ``packs``."""

    message: Message
    text: Piece
    gone: int
    entries: int = 1
    packs: bool = False


class Mails:
    """The mails of one mount. ``conversation`` gives the one of an id, and raises KeyError for one
    that is not shown; ``nodes`` knows what is in messages that are folders."""

    def __init__(
        self,
        backend: Backend,
        nodes: MessageNodes,
        conversation: Callable[[bytes], Conversation],
        pages: MailPages,
    ) -> None:
        self._backend = backend
        self._pages = pages
        self._nodes = nodes
        self._conversation = conversation
        self._known: OrderedDict[int, MailText] = OrderedDict()
        self._people: dict[str, Correspondent] = {}
        self._stamps: dict[bytes, bytes] = {}
        self._given: set[int] = set()
        self._ready: dict[int, bytes] = {}
        self._entries = 0  # of all of them
        self.were_others = False
        """Whether kernels may still have mails as they were when people were called otherwise."""

    def known(self, serial: int) -> MailText | None:
        """That of a message, when it is remembered."""
        return self._known.get(serial)

    def forget(self, serial: int) -> None:
        """Something that the mail of that message says may be another now."""
        self._taken_out(serial)
        self._given.discard(serial)
        self._ready.pop(serial, None)

    def forget_all(self) -> None:
        """Something may be another now in any of them: what somebody is called."""
        self._known.clear()
        self._people.clear()
        self._stamps.clear()
        self._given.clear()
        self._ready.clear()
        self._entries = 0

    def people_changed(self) -> list[bytes]:
        """Somebody may be called something else than before. Gives the conversations whose mails
        say so, as far as anybody has been told of any."""
        if all(found == self._found(name) for name, found in self._people.items()):
            return []
        before = self._stamps
        self._stamps = {}
        self.forget_all()
        self.were_others = True
        return [key for key, stamp in before.items() if self.stamp(key) != stamp]

    def stamp(self, conversation: bytes) -> bytes:
        """What stands for all that the length of mails of a conversation depends on besides their
        messages; empty for one that is not shown."""
        found = self._stamps.get(conversation)
        if found is None:
            try:
                place = self._conversation(conversation)
            except KeyError:
                return b""
            texts = [_FORM, place.subject]
            for name in place.participants:
                texts += name, *astuple(self._person(name))
            data = b"".join(u32(len(text.encode())) + text.encode() for text in texts)
            found = self._stamps[conversation] = blake2b(data, digest_size=STAMP_SIZE).digest()
        return found

    # how long they are

    def known_size(self, conversation: bytes, serial: int) -> int | None:
        """How many bytes a mail has, if that is known."""
        mail = self._known.get(serial)
        if mail is not None:
            return mail.text.size
        if serial in self._ready:
            return len(self._ready[serial])
        row = self._pages.row(serial)
        if row is None or not row.size or row.stamp != self.stamp(conversation):
            return None
        return row.size

    def size(self, conversation: bytes, serial: int) -> int:
        """How many bytes a mail has. Raises TreeError(ESTALE) when the message is gone."""
        known = self.known_size(conversation, serial)
        if known is not None:
            return known
        return len(self._whole(conversation, serial)) or self.of(conversation, serial).text.size

    def _sized(self, message: Message, text: Piece) -> None:
        """Keep how long the mail of a message is, which is one of those of which nearly all are:
        where nothing of the message can make that another."""
        stamp = self.stamp(message.conversation)
        if stamp and not (message.folder or message.doubts):
            self._pages.sized(message.serial, text.size, stamp)

    # what kernels have

    def is_given(self, serial: int) -> bool:
        """Whether a kernel has been given that mail as it is now."""
        return serial in self._given

    def give(self, conversation: bytes, serial: int) -> bytes:
        """A mail as a whole for a kernel, which has it from now on; empty for one that it is to ask
        for. Raises TreeError(ESTALE) when the message is gone."""
        content = self._whole(conversation, serial)
        if content:
            del self._ready[serial]
            if len(self._given) >= GIVEN_KEPT:
                self._given.clear()
            self._given.add(serial)
        return content

    def _whole(self, conversation: bytes, serial: int) -> bytes:
        """All of a small mail, which stays at hand for a moment: who asks for its size opens it
        then. Empty for others. Raises TreeError(ESTALE) when the message is gone."""
        found = self._ready.get(serial)
        if found is not None:
            return found
        place = self._place(conversation)
        with self._backend.store.read() as reader:
            message = self._message(reader, conversation, serial)
            if message.folder or message.content.size > GIVEN_MAX:
                return b""
            data = read_content(reader, message.content, 0, message.content.size)
        text = self._of_one(message, place, Literal(data), data, said_subject(data))
        if text.size > GIVEN_MAX:
            return b""
        self._sized(message, text)
        if len(self._ready) >= READY_MAX:
            del self._ready[next(iter(self._ready))]
        content = self._ready[serial] = text.read(_nothing, 0, text.size)
        return content

    def forgotten(self, serial: int) -> None:
        """A kernel has forgotten that mail."""
        self._given.discard(serial)

    # what is in them

    def of(self, conversation: bytes, serial: int) -> MailText:
        """That of a message. Raises TreeError(ESTALE) when the message is gone."""
        found = self._taken_out(serial)
        if found is None or not self._is_right(found):
            found = self._made(conversation, serial)
        self._known[serial] = found
        self._entries += found.entries
        while self._entries > REMEMBERED and len(self._known) > 1:
            self._taken_out(next(iter(self._known)))
        return found

    def _taken_out(self, serial: int) -> MailText | None:
        found = self._known.pop(serial, None)
        self._entries -= found.entries if found else 0
        return found

    def read(self, mail: MailText, offset: int, size: int) -> bytes:
        """``size`` bytes of a mail from ``offset`` on, fewer at its end. Raises TreeError(ESTALE)
        when the message, or something that was in it, was removed meanwhile: it is erased at once,
        whoever has it open; and when its conversation was left."""
        message = mail.message
        self._place(message.conversation)
        with self._backend.store.read() as reader:
            gone = get_message(reader, message.conversation, message.serial) is None
            if gone or _gone(reader, message) != mail.gone:
                raise TreeError(errno.ESTALE)
            return mail.text.read(
                lambda start, length: read_content(reader, message.content, start, length),
                offset,
                size,
            )

    def _is_right(self, mail: MailText) -> bool:
        if not mail.message.folder:
            return True
        with self._backend.store.read() as reader:
            return _gone(reader, mail.message) == mail.gone

    def _made(self, conversation: bytes, serial: int) -> MailText:
        place = self._place(conversation)
        with self._backend.store.read() as reader:
            message = self._message(reader, conversation, serial)
            gone = _gone(reader, message)
            if blobs.get(reader, message.content.id) is not None:
                head = self._head(message, place, shown_file_name(message.file_name))
                return MailText(message, self._large(reader, message, head), gone)
            if message.folder:
                files, packed, said = self._files(reader, message)
                head = self._head(message, place, shown_file_name(message.file_name), said)
                text, entries = mail_of_many(head, files), 1 + len(files) + packed
                return MailText(message, text, gone, entries, packed > 0)
            size = message.content.size
            data = read_content(reader, message.content, 0, size) if size <= TEXT_MAX else None
            start = data or read_content(reader, message.content, 0, min(size, SAID_MAX))
        text = self._of_one(message, place, Stretch(0, size), data, said_subject(start))
        self._sized(message, text)
        return MailText(message, text, gone)

    def _message(self, reader: Reader, conversation: bytes, serial: int) -> Message:
        message = get_message(reader, conversation, serial)
        if message is None:
            raise TreeError(errno.ESTALE)
        return message

    def _of_one(
        self, message: Message, place: Conversation, body: Piece, data: bytes | None, said: str
    ) -> Piece:
        """The mail of a message that is one file, whose content is ``data``; None for one that is
        too long to be a text. It has ``said`` that this is its subject, if anything."""
        name = shown_file_name(message.file_name) if message.file_name else ""
        file = attached(name, body, data)
        line = (first_line(data or b"") if is_body(file) else "") or name
        return mail_of_one(self._head(message, place, line, said), file)

    def _place(self, conversation: bytes) -> Conversation:
        try:
            return self._conversation(conversation)
        except KeyError as error:
            raise TreeError(errno.ESTALE) from error

    def _head(self, message: Message, place: Conversation, line: str, said: str = "") -> MailHead:
        return head_of(message, place, said, line, self._person)

    def _person(self, name: str) -> Correspondent:
        found = self._people.get(name)
        if found is None:
            if len(self._people) >= REMEMBERED:
                self._people.clear()
            found = self._people[name] = self._found(name)
        return found

    def _found(self, name: str) -> Correspondent:
        people = self._backend.people
        return Correspondent(people.shown(name), people.label(name))

    def _large(self, reader: Reader, message: Message, head: MailHead) -> Piece:
        called = shown_file_name(message.file_name) if message.file_name else ""
        if not message.folder:
            return mail_of_large_file(head, called, message.content.size)
        contents = self._contents(message)
        table, written = contents.table, None
        below = list(contents.below(TOP))
        entries = [(name, table.entries[at].size) for name, at in below]
        for (name, at), (_name, size) in zip(below, entries, strict=True):
            if name == LETTER_TEXT and size is not None:
                start, length = table.starts[at], min(size, WRITTEN_MAX + 1)
                data = read_content(reader, message.content, start, length)
                written = written_in(name, start, data)
        return mail_of_large_folder(head, called, message.content.size, entries, written)

    def _contents(self, message: Message) -> Contents:
        contents = self._nodes.contents((message.conversation, message.serial))
        if contents is None:
            raise TreeError(errno.ESTALE)
        return contents

    def _files(self, reader: Reader, message: Message) -> tuple[list[Attached], int, str]:
        """The files of a message that is a folder, and its folders as archives; how many files
        these have; and the subject that its text says."""
        contents = self._contents(message)
        table, left, said = contents.table, TEXT_MAX, ""
        found: list[Attached] = []
        count = 0

        def pack(name: str, entries: Iterable[tuple[str, int]]) -> None:
            nonlocal count
            packed = _all_files(contents, entries)
            found.append(Attached(name, zip_of(packed), type="application/zip"))
            count += len(packed)

        entries = sorted(contents.below(TOP), key=lambda entry: entry[0] != LETTER_TEXT)
        shown = entries if len(entries) <= MAIL_FILES_MAX else entries[: MAIL_FILES_MAX - 1]
        for name, at in shown:
            size = table.entries[at].size
            if size is None:
                pack(f"{name}.zip", contents.below(at + 1))
                continue
            data, start = None, table.starts[at]
            if size <= left:
                left -= size  # so that what is read of many small files is not much
                data = read_content(reader, message.content, start, size)
            if name == LETTER_TEXT:
                said = said_subject(data or b"")
            found.append(attached(name, Stretch(start, size), data))
        if len(shown) < len(entries):
            names = {each.name for each in found}
            pack(free_name(_REST, names.__contains__), entries[len(shown) :])
        return found, count, said


def _all_files(contents: Contents, entries: Iterable[tuple[str, int]]) -> list[Packed]:
    """These, and all files below those that are folders."""
    found: list[Packed] = []
    left = list(entries)
    while left:
        path, at = left.pop()
        size = contents.table.entries[at].size
        if size is None:
            left += [(f"{path}/{name}", inner) for name, inner in contents.below(at + 1)]
        else:
            found.append(Packed(path, contents.table.starts[at], size))
    return sorted(found)


def _nothing(_offset: int, _size: int) -> bytes:
    """Where all of a mail is known, nothing of its content is read."""
    raise AssertionError


def _gone(reader: Reader, message: Message) -> int:
    """How many entries were removed from a message that is a folder."""
    return sum(1 for _ in reader.keys(Table.GONE, gone_key(message))) if message.folder else 0


class MailFile(Node):
    """A message as a file of mail/. There may be very many: see ``MessageFile``. Its size is known
    when somebody asks."""

    __slots__ = ("_mails", "conversation", "serial")

    remade = True
    mode = MESSAGE_MODE
    names = NO_NAMES

    def __init__(self, mails: Mails, conversation: bytes, serial: int, received: int) -> None:
        """``received``: when the message came, in milliseconds since 1970."""
        self.inode = FIRST_MAIL + serial
        self.mtime_ns = self.changed_ns = received * 1_000_000
        self.lookups = 0
        self.conversation = conversation
        self.serial = serial
        self._mails = mails

    @property
    def known_size(self) -> int | None:
        """How many bytes it has, if nothing need be read for that."""
        return self._mails.known_size(self.conversation, self.serial)

    @property
    def links(self) -> int:
        """Always 1."""
        return 1

    @property
    def size(self) -> int:
        """In bytes. Raises TreeError(ESTALE) when the message is gone."""
        return self._mails.size(self.conversation, self.serial)

    @property
    def received(self) -> int:
        """When the message came, in milliseconds since 1970."""
        return self.mtime_ns // 1_000_000

    @property
    def is_given(self) -> bool:
        """Whether a kernel has been given its content as it is now."""
        return self._mails.is_given(self.serial)

    @property
    def was_another(self) -> bool:
        """Whether a kernel may think that it has another size."""
        return self._mails.were_others

    def give(self) -> bytes:
        """Its content, as a whole, for a kernel; empty for what that is to ask for piece by piece.
        Raises TreeError(ESTALE) when the message is gone."""
        return self._mails.give(self.conversation, self.serial)

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on, fewer at the end. Raises TreeError(ESTALE) when the
        message is gone."""
        return self._mails.read(self._mails.of(self.conversation, self.serial), offset, size)

    def opened(self) -> "OpenMail":
        """What somebody reads who has opened it."""
        return OpenMail(self, self._mails)


class OpenMail(MailFile):
    """A mail as one handle reads it: the same to its end, whatever people are called meanwhile."""

    __slots__ = ("_mail",)

    def __init__(self, file: MailFile, mails: Mails) -> None:
        super().__init__(mails, file.conversation, file.serial, 0)
        self.mtime_ns, self.changed_ns = file.mtime_ns, file.changed_ns
        self._mail = mails.of(file.conversation, file.serial)

    @property
    def size(self) -> int:
        """In bytes."""
        return self._mail.text.size

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on, fewer at the end. Raises TreeError(ESTALE) when the
        message is gone."""
        return self._mails.read(self._mail, offset, size)

    @property
    def packs(self) -> bool:
        """Whether it has archives: where one begins, a file must be read as a whole."""
        return self._mail.packs

    async def read_apart(self, offset: int, size: int) -> bytes:
        """What ``read`` gives, by a thread."""
        return await in_thread(lambda: self.read(offset, size))
