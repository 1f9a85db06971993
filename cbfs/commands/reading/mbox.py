"""History as one file of mails, as mutt, Thunderbird and Python's ``mailbox`` read it: mbox (RFC
4155), in which a line that begins like the first one of a mail has a ``>`` before it, as it has
there already behind any number of them (mboxrd).

Each message is the mail that it is in ``mail/`` of a mount, with two differences: a large file is
in it, and the files of a folder are, each with the names of the folders above it.
"""

import re
import time
from typing import BinaryIO

from cbfs.commands.reading.past import STRETCH, Past, PastMessage
from cbfs.messages.content import read_content
from cbfs.messages.file_names import shown_file_name
from cbfs.messages.mail_ids import LETTER_TEXT, mail_address
from cbfs.messages.model import Message
from cbfs.storage.records import DamagedRecord
from cbfs.tree.virtual.mail.letter import (
    SAID_MAX,
    TEXT_MAX,
    Attached,
    Correspondent,
    MailHead,
    first_line,
    head_of,
    is_body,
    is_plain,
    mail_of_many,
    mail_of_one,
    one_line,
    said_subject,
)
from cbfs.tree.virtual.mail.pieces import Literal, Piece, Stretch

_BEGINS = re.compile(rb"^(?=>*From )", re.MULTILINE)


class Mbox:
    """Writes messages as mails into a file."""

    def __init__(self, past: Past, file: BinaryIO) -> None:
        self._past = past
        self._file = file

    def add(self, told: PastMessage) -> None:
        """Write one. Raises DamagedRecord, and then nothing of it is in the file; OSError."""
        start = self._file.tell()
        message = told.message
        try:
            self._file.write(self._first_line(message))
            self._write(message, self._mail(told))
            self._file.write(b"\n")
        except DamagedRecord:
            self._file.seek(start)
            self._file.truncate()
            raise

    def _first_line(self, message: Message) -> bytes:
        who = mail_address(self._past.shown(message.sender)).replace(" ", "_")
        when = time.strftime("%a %b %e %H:%M:%S %Y", time.gmtime(message.date // 1_000))
        return f"From {one_line(who)} {when}\n".encode()

    def _write(self, message: Message, mail: Piece) -> None:
        """Stretch by stretch, each to the end of a line: no line of a mail is long."""

        def source(offset: int, size: int) -> bytes:
            return read_content(self._past.reader, message.content, offset, size)

        begun = b""
        for offset in range(0, mail.size, STRETCH):
            lines, end, rest = (begun + mail.read(source, offset, STRETCH)).rpartition(b"\n")
            self._file.write(_BEGINS.sub(b">", lines + end))
            begun = rest
        if begun:
            self._file.write(_BEGINS.sub(b">", begun) + b"\n")

    def _mail(self, told: PastMessage) -> Piece:
        message = told.message
        name = shown_file_name(message.file_name) if message.file_name else ""
        if not told.whole:
            return mail_of_one(self._head(told, name), _missing(name, message))
        if message.folder:
            return mail_of_many(self._head(told, name, self._said(told)), self._files(told))
        size = message.content.size
        data = self._read(message, 0, size) if size <= TEXT_MAX else b""
        plain = size <= TEXT_MAX and is_plain(data)
        attached = Attached(name, Literal(data) if plain else Stretch(0, size), plain)
        line = (first_line(data) if is_body(attached) else "") or name
        said = said_subject(data or self._read(message, 0, min(size, SAID_MAX)))
        return mail_of_one(self._head(told, line, said), attached)

    def _files(self, told: PastMessage) -> list[Attached]:
        found = []
        for file in told.files:
            name = file.name.replace("/", "_")
            plain = file.size <= TEXT_MAX and is_plain(
                self._read(told.message, file.start, file.size)
            )
            found.append(Attached(name, Stretch(file.start, file.size), plain))
        return found

    def _said(self, told: PastMessage) -> str:
        """The subject that the text in a folder says."""
        for file in told.files:
            if file.name == LETTER_TEXT:
                start = self._read(told.message, file.start, min(file.size, SAID_MAX))
                return said_subject(start)
        return ""

    def _read(self, message: Message, start: int, size: int) -> bytes:
        return read_content(self._past.reader, message.content, start, size)

    def _head(self, told: PastMessage, line: str, said: str = "") -> MailHead:
        return head_of(told.message, told.place, said, line, self._person)

    def _person(self, name: str) -> Correspondent:
        return Correspondent(self._past.shown(name), self._past.label(name))


def _missing(name: str, message: Message) -> Attached:
    text = (
        f"{name or 'a file'}: {message.content.size:,} bytes, of which not all had come when this"
        " was written.\n"
    )
    return Attached("", Literal(text.encode()), is_plain=True, type="text/plain")
