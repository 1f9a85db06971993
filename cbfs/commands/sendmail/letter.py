"""A letter: what a mail program has handed over, and what becomes of it in a conversation. Pure."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from cbfs.contacts.user_names import typed_person
from cbfs.messages.file_names import shown_file_name
from cbfs.messages.mail_ids import CONVERSATION_ID_SIZE, LETTER_TEXT, MailId
from cbfs.storage.encoding import number_of, pack, u32, unpack
from cbfs_common.errors import DecodeError
from cbfs_common.limits import FOLDER_ENTRIES_MAX, PARTICIPANTS_MAX, SUBJECT_MAX
from cbfs_common.messages.body import MESSAGE_ID_SIZE

K = TypeVar("K")
V = TypeVar("V")

LETTER_HEAD_MAX: Final = 2 * 1024 * 1024
"""Bytes of all that is in a letter but its contents: a folder may have 4,096 names."""

ROOT_SIZE: Final = 16
"""Bytes that stand for a Message-ID."""

_NONE = "not a letter that waits"
_SIZE = 4
_BEFORE_THREADS = b"\x96"  # a head of six: what waits since before threads were remembered
_ANSWERS = re.compile(r"\A(?:(?:re|aw|sv|antw|odp)(?:\[[0-9]+\])?\s*:\s*)+", re.IGNORECASE)
_CUT = 16
"""Bytes by which a subject may be longer than the one that it repeats, by what stands before it."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """Somebody a message is for: ``name`` as people are shown, ``bob`` or ``bob@example.org``. It
    is their true name, and nobody's petname, when ``is_address``: it stood in an address."""

    name: str
    is_address: bool = False


@dataclass(frozen=True, slots=True)
class Letter:
    """``together``: who is in one conversation; ``apart``: who is in one of their own each. At
    least one of the two is not empty. ``answers``: the messages that it answers, the nearest first.
    ``files``: (name, content) each; where ``folder`` is empty, there is one, which is the text.
    ``root`` stands for the Message-ID with which its thread began, where that is none of a message
    of ours; empty where it has none."""

    together: tuple[Recipient, ...]
    apart: tuple[Recipient, ...]
    subject: str
    answers: tuple[MailId, ...]
    folder: str
    files: tuple[tuple[str, bytes], ...]
    root: bytes = b""


def within(letter: Letter, subject: str) -> Letter:
    """A letter as it goes on in a conversation about ``subject``: where it is about something else,
    its text says so first, in a line from which ``git am`` and mail/ of a mount take it."""
    (name, content), *others = letter.files
    own = letter.subject
    if name != LETTER_TEXT or not own or _repeats(own, subject) or content == f"{own}\n".encode():
        return letter
    gap = b"" if content.startswith(b"From: ") else b"\n"  # that is also for git am
    text = f"Subject: {own}\n".encode() + gap + content
    return replace(letter, files=((name, text), *others))


def _repeats(own: str, subject: str) -> bool:
    """Whether a subject is that of the conversation, or says that it answers in one that has
    none."""
    bare, about = _bare(own), _bare(subject)
    if bare == about or (_ANSWERS.match(own) and not about):
        return True
    return len(own.encode()) > SUBJECT_MAX - _CUT and about.startswith(bare)


def _bare(subject: str) -> str:
    """Without what says that it answers, and spaces, of which programs lose some on the way."""
    return "".join(_ANSWERS.sub("", subject, count=1).split())


def called(recipient: Recipient, owner: Callable[[str], str]) -> str:
    """What to write to a recipient as. ``owner``: the true name of whom a label means. An address
    has a true name: where that is somebody else's petname, whose it is is ``@NAME``."""
    name = recipient.name
    if not recipient.is_address or "@" in name or owner(name) == name:
        return name
    return f"@{name}"


def groups_of(letter: Letter, owner: Callable[[str], str]) -> tuple[tuple[str, ...], ...]:
    """What to write to people as, in each conversation that a letter goes into: nobody twice, by
    whatever names, and nobody alone who is in the one of all."""
    together: dict[str, str] = {}
    apart: dict[str, str] = {}
    for people, group in ((letter.together, together), (letter.apart, apart)):
        for each in people:
            label = called(each, owner)
            group.setdefault(owner(label), label)
    alone = [(label,) for true, label in apart.items() if true not in together]
    return (tuple(together.values()), *alone) if together else tuple(alone)


def copies_size(letter: Letter) -> int:
    """How many bytes its contents are in all conversations that it may go into."""
    groups = len(letter.apart) + bool(letter.together)
    return groups * sum(len(content) for _name, content in letter.files)


def encode_letter(letter: Letter) -> bytes:
    """A letter as it waits in the spool: size of the head u32 | head | contents. The head is an
    array of msgpack, in which files are pairs of a name and a size."""
    people = [[[each.name, each.is_address] for each in group]
              for group in (letter.together, letter.apart)]  # fmt: skip
    answers = [[each.message, each.conversation] for each in letter.answers]
    sizes = [[name, len(content)] for name, content in letter.files]
    head = pack(*people, letter.subject, answers, letter.folder, sizes, letter.root)
    return b"".join((u32(len(head)), head, *(content for _name, content in letter.files)))


def decode_letter(data: bytes) -> Letter:
    """The letter that ``encode_letter`` has made these bytes of. Raises DecodeError."""
    end = _SIZE + number_of(data[:_SIZE])
    if not _SIZE < end <= min(len(data), _SIZE + LETTER_HEAD_MAX):
        raise DecodeError(_NONE)
    head = data[_SIZE:end]
    roots = () if head[:1] == _BEFORE_THREADS else (bytes,)
    together, apart, subject, answers, folder, files, *root = unpack(
        head, list, list, str, list, str, list, *roots
    )
    letter = Letter(
        tuple(Recipient(*_pair(each, str, bool)) for each in together),
        tuple(Recipient(*_pair(each, str, bool)) for each in apart),
        subject,
        tuple(MailId(*_pair(each, bytes, bytes)) for each in answers),
        folder,
        _contents([_pair(each, str, int) for each in files], data, end),
        *root,
    )
    if not _is_letter(letter):
        raise DecodeError(_NONE)
    return letter


def _contents(
    sizes: list[tuple[str, int]], data: bytes, start: int
) -> tuple[tuple[str, bytes], ...]:
    """The files of these names and sizes, whose contents are all that is from ``start`` on."""
    files = []
    for name, size in sizes:
        if not 0 <= size <= len(data) - start:
            raise DecodeError(_NONE)
        files.append((name, data[start : start + size]))
        start += size
    if start != len(data):
        raise DecodeError(_NONE)
    return tuple(files)


def _pair(item: object, one: type[K], other: type[V]) -> tuple[K, V]:
    """An array of two, which must be of just these types."""
    if not isinstance(item, list) or tuple(map(type, item)) != (one, other):
        raise DecodeError(_NONE)
    return item[0], item[1]


def _is_letter(letter: Letter) -> bool:
    """Whether all in it is as the reading of a mail leaves it. Raises DecodeError."""
    people = (*letter.together, *letter.apart)
    names = [name for name, _content in letter.files]
    return (
        0 < len(people) < PARTICIPANTS_MAX
        and all(typed_person(each.name) == each.name for each in people)
        and len(letter.subject.encode()) <= SUBJECT_MAX
        and all(len(each.message) == MESSAGE_ID_SIZE for each in letter.answers)
        and all(len(each.conversation) == CONVERSATION_ID_SIZE for each in letter.answers)
        and len(letter.root) in {0, ROOT_SIZE}
        and 0 < len(names) <= (FOLDER_ENTRIES_MAX if letter.folder else 1)
        and all(shown_file_name(name) == name for name in (letter.folder or "_", *names))
    )
