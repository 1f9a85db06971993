"""A message of RFC 5322 as what becomes of it here: people, a subject, what it answers, and files.
Pure.

Who it is from is not asked: the sender is the account. People whom To and Cc name are in one
conversation; who gets it besides them, by Bcc or by the command line, is in another one each, so
that nobody sees it. Every text of
the message ends as the name of a person, a subject of one line, a file name, or bytes of a file.
"""

import email.errors
import re
from collections.abc import Iterator, Sequence
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from hashlib import blake2b
from mimetypes import MimeTypes
from typing import Final, NoReturn

from cbfs.commands.sendmail.letter import ROOT_SIZE, Letter, Recipient
from cbfs.commands.sendmail.options import Exit, NotSent
from cbfs.commands.sendmail.places import marked, message_name
from cbfs.contacts.user_names import typed_person
from cbfs.messages.file_names import free_name, shown_file_name
from cbfs.messages.mail_ids import DOMAIN, LETTER_TEXT, MailId, parse_mail_address, parse_mail_id
from cbfs.tree.rules import folder_taken_for
from cbfs_common.errors import DecodeError
from cbfs_common.limits import PARTICIPANTS_MAX, SUBJECT_MAX

MESSAGE_MAX: Final = 96 * 1024 * 1024
"""Bytes of a message: a file of 64 MiB in base64, which is the most that one can hold."""

HEADERS_MAX: Final = 64 * 1024
"""Bytes of the headers of a message: reading addresses takes long with more."""

MIME_PARTS_MAX: Final = 1_000
MIME_DEPTH_MAX: Final = 16
"""Parts of a message, and how deep they are in each other."""

ANSWERS_MAX: Final = 64
"""Message-IDs that are looked at of what a message answers: the newest."""

SYSTEM_NAMES: Final = frozenset(
    (
        *("root", "postmaster", "mailer-daemon", "daemon", "nobody", "www-data"),
        *("hostmaster", "webmaster", "abuse", "localhost"),
    )
)
"""Names by which programs mean somebody of this machine: somebody else may have registered them."""

_RESENT = ("resent-to", "resent-cc", "resent-bcc")
"""Who names people by one of these sends a message once more."""

_LOCAL = ("localhost", "localdomain", "local")
"""What domains of this machine and its network end with."""

_HEAD = re.compile(rb"(?:(?:From [^\n]*|[!-9;-~]+[ \t]*:[^\n]*|[ \t]+[^\s][^\n]*)(?:\n|\Z))*")
_DOT = re.compile(rb"^\.\r?\n|^\.\Z", re.MULTILINE)
_MAIL_ID = re.compile(r"<[^<>\s]+>")
_PARTS = re.compile(rb"^content-type\s*:", re.IGNORECASE | re.MULTILINE)
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\s]+")

_POLICY = policy.default
_TYPES = MimeTypes(filenames=())

_FAULTS = (
    *(ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError),
    email.errors.MessageError,
)
"""What the email package raises for what it cannot make sense of."""


def read_letter(
    data: bytes, arguments: Sequence[str], *, from_headers: bool, dot_ends: bool
) -> Letter:
    """The letter that a message is, for the recipients in the ``arguments`` and, with
    ``from_headers``, those in its headers. ``dot_ends``: a line that is a dot alone is its end.
    Raises NotSent."""
    if dot_ends and (end := _DOT.search(data)):
        data = data[: end.start()]
    message = _parsed(data)
    try:
        return _letter(message, arguments, from_headers=from_headers)
    except _FAULTS as error:
        _refuse("the message cannot be read", error)


def _parsed(data: bytes) -> EmailMessage:
    if len(data) > MESSAGE_MAX:
        _refuse(f"the message is too large: at most {MESSAGE_MAX:,} bytes")
    found = _HEAD.match(data, 0, HEADERS_MAX + 1)
    head = found[0] if found else b""
    if len(head) > HEADERS_MAX:
        _refuse(f"the headers of the message are too long: at most {HEADERS_MAX:,} bytes")
    if b"\0" in head:
        _refuse("there is a NUL byte in the headers of the message")
    if sum(1 for _ in _PARTS.finditer(data)) > MIME_PARTS_MAX:
        _refuse(f"the message has too many parts: at most {MIME_PARTS_MAX:,}")
    try:
        message = BytesParser(policy=_POLICY).parsebytes(data)
    except _FAULTS as error:
        _refuse("the message cannot be read", error)
    return message


def _letter(message: EmailMessage, arguments: Sequence[str], *, from_headers: bool) -> Letter:
    named = [person_of(word) for word in arguments]
    resent = _resent(message) if from_headers else None
    heads, prefix = (message, "") if resent is None else (resent, "Resent-")
    shown = _in_headers(heads, (f"{prefix}To", f"{prefix}Cc"), strict=from_headers)
    blind = _in_headers(heads, (f"{prefix}Bcc",), strict=True) if from_headers else []
    if from_headers:
        together = _once(shown)
        blind = [*named, *blind]
    elif any(name in message for name in ("To", "Cc", "Bcc")):
        together = _seen(named, shown)
        blind = named
    else:
        together = _once(named)
    apart = tuple(each for each in _once(blind) if each not in together)
    if not (together or apart):
        raise NotSent(
            Exit.USAGE, "there is no recipient", "name them behind the options, or use -t"
        )
    if len(together) + len(apart) >= PARTICIPANTS_MAX:
        raise NotSent(
            Exit.NOUSER,
            "the message has too many recipients",
            f"send it to fewer than {PARTICIPANTS_MAX} at once",
        )
    subject = _subject(message)
    folder, files = _files(message, subject)
    answers = _answers(message)
    return Letter(together, apart, subject, answers, folder, files, _root(message, answers))


def _resent(message: EmailMessage) -> EmailMessage | None:
    """The headers by which a message was sent once more, the last time: the block that stands first
    (RFC 5322, 3.6.6). None for one that never was. It is for those whom they name, and for nobody
    whom it was for before."""
    block = EmailMessage(policy=_POLICY)
    seen: set[str] = set()
    for key, value in message.raw_items():
        name = key.lower()
        if not name.startswith("resent-"):
            continue
        if name in seen:
            break  # that is of an earlier time
        seen.add(name)
        block.set_raw(key, str(value))
    return block if seen & set(_RESENT) else None


def _once(people: Sequence[Recipient]) -> tuple[Recipient, ...]:
    """A name and an address stay two, as they may be two people: who has the account knows."""
    return tuple(dict.fromkeys(people))


def _seen(named: Sequence[Recipient], shown: Sequence[Recipient]) -> tuple[Recipient, ...]:
    """Those of ``named`` who stand in a header that all see. A program may give one as a name and
    the other as an address; that counts, unless ``named`` has somebody just as the header does."""
    exact = set(named) & set(shown)
    as_named = {each.name for each in shown} - {each.name for each in exact}
    return _once([each for each in named if each in exact or each.name in as_named])


# People


def person_of(text: str) -> Recipient:
    """Whom an address means that stands alone, or a name. Raises NotSent."""
    text = text.strip()
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1]
    is_address = text.lower().endswith((f"@{DOMAIN}", f".{DOMAIN}"))
    try:
        name = parse_mail_address(text) if is_address else text
        person = typed_person(name)
    except DecodeError as error:
        shown = text if text.isprintable() else ascii(text)
        raise NotSent(
            Exit.NOUSER,
            f"nobody can be called {shown[:200]!r} here",
            f"write to NAME or NAME@{DOMAIN}: {error.hint or str(error)}",
        ) from error
    if not is_address and (person in SYSTEM_NAMES or _is_local(person)):
        raise NotSent(
            Exit.NOUSER,
            f"{person} is meant for this machine, and nobody here is called so",
            "name a person, as by MAILTO=NAME in a crontab",
        )
    return Recipient(person, is_address)


def _is_local(person: str) -> bool:
    _name, at, place = person.partition("@")
    return bool(at) and place.rpartition(".")[2] in _LOCAL


def _in_headers(message: EmailMessage, names: Sequence[str], *, strict: bool) -> list[Recipient]:
    """Those whom these headers name. ``strict``: all must be people, else it raises NotSent."""
    found: list[Recipient] = []
    for name in names:
        for text in _texts(message, name):
            try:
                header = _POLICY.header_factory(name, text)
                addresses = [each.addr_spec for each in header.addresses]
                left_out = any("invalid address" in str(each) for each in header.defects)
            except _FAULTS as error:
                if strict:
                    _refuse(f"{name} cannot be read", error)
                continue
            is_group = text.rstrip().endswith(";")  # that nobody may be in
            nobody = not addresses and text.strip(" ,") and not is_group
            if strict and (left_out or nobody):
                _refuse(f"{name} cannot be read")
            for address in addresses:
                try:
                    found.append(person_of(address))
                except NotSent:
                    if strict:
                        raise
    return found


def _texts(message: EmailMessage, name: str) -> Iterator[str]:
    """The values of a header, each in one line. Bytes beyond ASCII are UTF-8, as far as they can
    be."""
    for key, value in message.raw_items():
        if key.lower() == name.lower():
            line = "".join(str(value).splitlines())
            yield line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


# What it says


def _subject(message: EmailMessage) -> str:
    for text in _texts(message, "Subject"):
        line = _UNSEEN.sub(" ", _decoded(text)).strip()
        return line.encode()[:SUBJECT_MAX].decode(errors="ignore").strip()
    return ""


def _decoded(text: str) -> str:
    """A header of which nothing is known but that it is text."""
    return str(_POLICY.header_factory("Subject", text))


def _answers(message: EmailMessage) -> tuple[MailId, ...]:
    """What it answers, as far as that is a message of ours: In-Reply-To, then References from the
    last on."""
    said, past = _mail_ids(message, "In-Reply-To"), _mail_ids(message, "References")
    found: dict[MailId, None] = {}
    for text in (said + past[::-1])[:ANSWERS_MAX]:
        try:
            found[parse_mail_id(text)] = None
        except DecodeError:
            continue  # a mail of elsewhere
    return tuple(found)


def _root(message: EmailMessage, answers: tuple[MailId, ...]) -> bytes:
    """What stands for the mail with which its thread began, as far as that says: git sends a
    series as one, of mails that answer the first."""
    if answers:
        return b""
    for header in ("References", "In-Reply-To", "Message-ID"):
        for found in _mail_ids(message, header):
            return blake2b(found.encode(), digest_size=ROOT_SIZE).digest()
    return b""


def _mail_ids(message: EmailMessage, header: str) -> list[str]:
    """Python's email package writes one that does not fit on a line as encoded words (RFC 2047)."""
    found: list[str] = []
    for text in _texts(message, header):
        is_coded = "=?" in text
        found += _MAIL_ID.findall(_decoded(text) if is_coded else text)
    return found


def _files(message: EmailMessage, subject: str) -> tuple[str, tuple[tuple[str, bytes], ...]]:
    """(the name of the folder, what is in it); of a text alone no name, and one file."""
    body: tuple[str, bytes] | None = None
    files: list[tuple[str, bytes]] = []
    for part in _leaves(message):
        name = _file_name(part)
        text = part.get_content_maintype() == "text"
        if text and not name and body is None and not _is_attachment(part):
            html = part.get_content_subtype() == "html"
            body = (f"{LETTER_TEXT}.html" if html else LETTER_TEXT, _text(part))
        elif name or body is None or _bytes(part).strip():
            files.append((name or _made_name(part), _text(part) if text else _bytes(part)))
    if body and not body[1].strip():
        body = None
    if body is None and not files:
        if not subject:
            _refuse("the message is empty")
        body = (LETTER_TEXT, f"{subject}\n".encode())
    if body and not files and body[0] == LETTER_TEXT:
        return "", (body,)
    taken: set[str] = set()
    named = []
    for name, content in [*([body] if body else []), *files]:
        free = free_name(name, taken.__contains__)
        taken.add(free)
        named.append((free, content))
    return _folder_name(subject), tuple(named)


def _leaves(message: EmailMessage) -> Iterator[EmailMessage]:
    """The parts that are no containers, in order; of alternatives the one that is plain text, else
    the last. Raises NotSent for too many, or too deep ones."""
    left: list[tuple[EmailMessage, int]] = [(message, 0)]
    count = 0
    while left:
        part, depth = left.pop()
        count += 1
        if depth > MIME_DEPTH_MAX or count > MIME_PARTS_MAX:
            _refuse("the message has too many parts in each other")
        if part.get_content_maintype() != "multipart" or not part.is_multipart():
            yield part
            continue
        inside = [each for each in part.iter_parts() if isinstance(each, EmailMessage)]
        if part.get_content_subtype() == "alternative" and inside:
            plain = [each for each in inside if each.get_content_type() == "text/plain"]
            inside = [(plain or inside[-1:])[0]]
        left += [(each, depth + 1) for each in reversed(inside)]


def _is_attachment(part: EmailMessage) -> bool:
    return str(part.get_content_disposition()) == "attachment"


def _bytes(part: EmailMessage) -> bytes:
    if part.get_content_maintype() == "message" and part.is_multipart():
        (inside, *_more) = part.iter_parts()
        return bytes(inside.as_bytes())
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _text(part: EmailMessage) -> bytes:
    """A text in UTF-8, with the ends of lines of here, and one at its end."""
    data = _bytes(part)
    for charset in (str(part.get_content_charset("utf-8")), "utf-8"):
        try:
            text = data.decode(charset)
            break
        except (LookupError, ValueError):
            continue
    else:
        text = data.decode("latin-1")
    lines = text.replace("\r\n", "\n")
    if lines and not lines.endswith("\n"):
        lines += "\n"
    return lines.encode("utf-8", "replace")


# Names of files


def _file_name(part: EmailMessage) -> str:
    """What an attachment is called by its sender, as the name of a file; empty when it has none."""
    given = part.get_filename("")
    text = str(given).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    last = re.split(r"[/\\]", text)[-1].strip(" .")
    return _clean(last) if last else ""


def _made_name(part: EmailMessage) -> str:
    kind = part.get_content_type()
    if kind == "text/plain":
        return "attachment.txt"
    if kind == "message/rfc822":
        return "attachment.eml"
    return _clean(f"attachment{_TYPES.guess_extension(kind) or ''}")


def _folder_name(subject: str) -> str:
    return message_name(subject) if subject.strip(" .") else "mail"


def _clean(text: str) -> str:
    """``text`` as a file name that is not taken for that of a scratch file here."""
    name = shown_file_name(text)
    while folder_taken_for(name):
        name = marked(name)
    return name


def _refuse(message: str, error: BaseException | None = None) -> NoReturn:
    raise NotSent(Exit.DATAERR, message, "write it as RFC 5322 says") from error
