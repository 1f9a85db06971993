"""A message as a mail: RFC 5322 text, by Python's ``email`` package. Pure.

The same message gives the same bytes, as long as people are called the same, and its size is known
without its content having been read.
What people have written (names, subjects, names of files) never ends a line of the head: no
character of it that ends lines, or controls anything, is left.
"""

import mimetypes
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from email.header import Header
from email.utils import format_datetime, quote
from functools import lru_cache
from urllib.parse import quote as percent

from cbfs.messages.file_names import moment
from cbfs.messages.mail_ids import MailId, mail_address
from cbfs.messages.model import Conversation, Message
from cbfs.tree.virtual.mail.pieces import Base64, Joined, Literal, Piece
from cbfs_common.limits import NAME_MAX

TEXT_MAX = 65_536
"""Bytes of a text that is shown as such; a longer one is sent in base64, as what is no text."""

LINE_MAX = 998
"""Bytes of a line of a mail (RFC 5322, 2.1.1)."""

FIRST_LINE_MAX = 100
"""Characters of the first line of a text that are its subject."""

_WIDTH = 76
_KEPT = 1_024
"""Parts of heads that are kept: most mails have the same as others."""

_CONTROLS = frozenset(("Cc", "Cs", "Zl", "Zp"))
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+\Z")
_CODED = re.compile(r"(?:%[0-9A-F]{2}|[^%]){1,20}")
_TYPES = mimetypes.MimeTypes()
"""What Python knows by itself: what this computer knows may change."""

SAID_MAX = 1_024
"""Bytes of a text that are looked at for a subject."""

_SAID = re.compile(rb"Subject: ([^\r\n]{1,998})\n(?=\n|From: )")

_UNPROVEN = " (unconfirmed)"
_CALLED_MAX = NAME_MAX + 1
"""Characters of what the user calls somebody: a petname, or ``@`` and a name."""

_NO_URL = re.compile("[/:]")
"""What would be read as more than the name of a file."""

_PACKED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
_BINARY = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Correspondent:
    """``shown`` is as people see a true name; ``label`` what the user calls them."""

    shown: str
    label: str


@dataclass(frozen=True, slots=True)
class MailHead:
    """What the head of a mail says of a message. ``parents`` are those that it answers; ``date`` in
    milliseconds since 1970. Of one that is not ``confirmed`` it is not proven who wrote it."""

    id: MailId
    sender: Correspondent
    to: tuple[Correspondent, ...]
    date: int
    subject: str
    parents: tuple[MailId, ...] = ()
    confirmed: bool = True


@dataclass(frozen=True, slots=True)
class Attached:
    """One file of a message: its bytes, and whether they may stand in a mail as they are
    (``is_plain``), or are a text that must be encoded (``is_text``)."""

    name: str
    body: Piece
    is_plain: bool = False
    type: str = ""
    is_text: bool = False


def head_of(
    message: Message,
    place: Conversation,
    said: str,
    line: str,
    person: Callable[[str], Correspondent],
) -> MailHead:
    """That of a message of the conversation ``place``, whose subject it has, unless it has ``said``
    another one itself; ``line`` where there is none. ``person`` says what somebody is called, by
    their true name."""
    others = [name for name in place.participants if name != message.sender]
    return MailHead(
        MailId(message.id, message.conversation),
        person(message.sender),
        tuple(map(person, others or [message.sender])),
        message.date,
        said or place.subject or line,
        tuple(MailId(parent.id, message.conversation) for parent in message.parents),
        not message.doubts,
    )


def one_line(text: str) -> str:
    """A text on one line: what ends lines, controls or cannot be encoded becomes a space, and many
    spaces one."""
    if not text.isprintable():  # else there is nothing of that, and it is not looked for
        text = "".join(" " if unicodedata.category(c) in _CONTROLS else c for c in text)
    return " ".join(text.split())


def is_plain(data: bytes) -> bool:
    """Whether a whole content may stand in a mail as it is: UTF-8 in lines that are not too long,
    and nothing that a mail program would change or lose."""
    if b"\r" in data or not is_text(data):
        return False
    return len(data) <= LINE_MAX or max(map(len, data.split(b"\n"))) <= LINE_MAX


def is_text(data: bytes) -> bool:
    """Whether a mail program can show a whole content as a text, encoded where need be: UTF-8."""
    if len(data) > TEXT_MAX or b"\0" in data:
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def attached(name: str, body: Piece, data: bytes | None) -> Attached:
    """A file whose whole content is ``data``; None for one that is too long to be a text."""
    plain = data is not None and is_plain(data)
    return Attached(name, body, plain, is_text=plain or (data is not None and is_text(data)))


def said_subject(data: bytes) -> str:
    """The subject with which a text begins, in a line as of a mail; empty where it does not. ``cbfs
    sendmail`` writes it where a mail goes on in a conversation about something else."""
    match = _SAID.match(data)
    return one_line(match[1].decode(errors="replace")) if match else ""


def first_line(data: bytes) -> str:
    """What a text begins with, as a subject; empty where there is nothing but spaces."""
    for line in data.decode(errors="replace").splitlines():
        found = one_line(line)
        if found:
            return (
                found
                if len(found) <= FIRST_LINE_MAX
                else found[: FIRST_LINE_MAX - 1].rstrip() + "…"
            )
    return ""


@lru_cache(_KEPT)
def type_of(name: str) -> str:
    """The type of a file by its name; empty for one that is not known."""
    found, packed = _TYPES.guess_type(_NO_URL.sub("_", name))
    if packed is not None:
        return _PACKED.get(packed, _BINARY)
    whole = found is not None and found.split("/")[0] not in {"message", "multipart"}
    return found if found and whole else ""  # those are not to be in base64


def is_body(attached: Attached) -> bool:
    """Whether a mail program is to show it as what was written, and not as a file."""
    text = attached.is_plain or attached.is_text
    return text and (attached.type or type_of(attached.name)) in {"", "text/plain"}


def mail_of_one(head: MailHead, attached: Attached) -> Piece:
    """The mail of a message that is one file."""
    return Joined((Literal(_head(head, _part_head_of(attached))), _encoded(attached)))


def mail_of_many(head: MailHead, files: Sequence[Attached], room: int = 0) -> Piece:
    """The mail of a message that is a folder. Behind its head are ``room`` bytes at least: where
    the parts have less, empty lines are behind them, which belong to none."""
    boundary = f"={head.id.message.hex()}="  # no encoding gives a text with this
    kind = [f'Content-Type: multipart/mixed; boundary="{boundary}"']
    pieces: list[Piece] = [Literal(_head(head, kind))]
    for each in files:
        lines = "\n".join(_part_head_of(each))
        pieces += [Literal(f"\n--{boundary}\n{lines}\n\n".encode()), _encoded(each)]
    pieces.append(Literal(f"\n--{boundary}--\n".encode()))
    pieces.append(Literal(b"\n" * (room - sum(piece.size for piece in pieces[1:]))))
    return Joined(pieces)


def _encoded(attached: Attached) -> Piece:
    return attached.body if attached.is_plain else Base64(attached.body)


def _head(head: MailHead, kind: Sequence[str]) -> bytes:
    *others, last = head.to
    to = [*(_recipient(person, ",") for person in others), _recipient(last, "")]
    lines = [
        f"From: {_sender(head.sender, head.confirmed)}",
        "To: " + "\n ".join(to),
        f"Date: {format_datetime(moment(head.date // 1_000 * 1_000))}",
        f"Subject: {_text('Subject', head.subject)}".rstrip(),
        f"Message-ID: {head.id.encode()}",
    ]
    if head.parents:
        ids = [parent.encode() for parent in head.parents]
        # the nearest alone: aerc shows no thread in which a mail answers several
        lines += [f"In-Reply-To: {ids[-1]}", "References: " + "\n ".join(ids)]
    return "\n".join([*lines, "MIME-Version: 1.0", *kind, "", ""]).encode()


def _part_head_of(attached: Attached) -> tuple[str, ...]:
    kind = attached.type or type_of(attached.name)
    text = attached.is_plain or attached.is_text
    return _part_head(attached.name, kind, is_body(attached), text, attached.is_plain)


@lru_cache(_KEPT)
def _part_head(
    called: str, kind: str, is_shown: bool, is_text: bool, is_plain: bool
) -> tuple[str, ...]:
    lines = _part_lines(called, kind, is_shown=is_shown, is_text=is_text, is_plain=is_plain)
    return tuple(lines)


def _part_lines(
    called: str, kind: str, *, is_shown: bool, is_text: bool, is_plain: bool
) -> Iterator[str]:
    if is_text:
        yield f"Content-Type: {kind or 'text/plain'}; charset=utf-8"
    else:
        yield f"Content-Type: {kind or _BINARY}"
    yield f"Content-Transfer-Encoding: {'8bit' if is_plain else 'base64'}"
    name = one_line(called)
    if name:
        how = "inline" if is_shown else "attachment"
        yield f"Content-Disposition: {how};\n {_file_name(name)}"


def _file_name(name: str) -> str:
    if name.isascii() and len(name) < LINE_MAX // 4 and "=?" not in name:
        return f'filename="{quote(name)}"'
    parts = _CODED.findall(f"utf-8''{percent(name, safe='')}")  # RFC 2231
    if len(parts) == 1:
        return f"filename*={parts[0]}"
    return ";\n ".join(f"filename*{number}*={part}" for number, part in enumerate(parts))


@lru_cache(_KEPT)
def _sender(person: Correspondent, is_proven: bool) -> str:
    label = one_line(person.label)
    said = _mailbox("From", label if is_proven else label + _UNPROVEN, person.shown)
    return _padded(said, person.shown, len(_UNPROVEN))


@lru_cache(_KEPT)
def _recipient(person: Correspondent, behind: str) -> str:
    return _padded(_mailbox("To", one_line(person.label), person.shown) + behind, person.shown, 0)


def _padded(said: str, shown: str, more: int) -> str:
    """With spaces behind it, as long as for any name that the user can give who is ``shown`` so,
    and ``more``: mail programs keep in memory, and in files, where in a mail its text begins, and
    would look at another place when somebody has another name."""
    called = max(_CALLED_MAX, len(shown))
    return (
        said
        if "\n" in said
        else said.ljust(len(f'"{"":{called}}" <{mail_address(shown)}>,') + more)
    )


def _mailbox(field: str, label: str, shown: str) -> str:
    address = mail_address(shown)
    if _ATOMS.match(label) and len(label) + len(address) < _WIDTH and "=?" not in label:
        return f"{label} <{address}>"
    if label.isascii() and len(label) + len(address) < LINE_MAX // 2 and "=?" not in label:
        return f'"{quote(label)}" <{address}>'
    return f"{_words(field, label)}\n <{address}>" if label else address


def _text(field: str, text: str) -> str:
    text = one_line(text)
    if not text.isascii() or "=?" in text or any(len(word) > _WIDTH for word in text.split()):
        return _words(field, text)
    if len(text) + len(field) + 2 <= _WIDTH:
        return text
    return Header(text, "us-ascii", _WIDTH, field).encode()


def _words(field: str, text: str) -> str:
    """As encoded words (RFC 2047)."""
    return Header(text, "utf-8", _WIDTH, field).encode()
