"""Messages as RFC 5322 text: what a mail program reads back is what the message is, whatever its
people have written, and each size is known before anything is read."""

import email
import io
import zipfile
from email.message import EmailMessage
from email.policy import compat32, default

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbfs.messages.mail_ids import MailId
from cbfs.tree.virtual.mail.letter import (
    LINE_MAX,
    TEXT_MAX,
    Attached,
    Correspondent,
    MailHead,
    attached,
    first_line,
    is_plain,
    mail_of_many,
    mail_of_one,
    one_line,
    said_subject,
    type_of,
)
from cbfs.tree.virtual.mail.pieces import (
    Base64,
    Joined,
    Literal,
    Packed,
    Piece,
    Source,
    Stretch,
    zip_of,
)
from cbfs_common.limits import NAME_MAX

ID = MailId(b"\x0a" * 16, b"\x0b" * 16)
BOB = Correspondent("bob", "bob")
ALICE = Correspondent("alice", "alice")
WHEN = 1_795_445_162_123
TEXTS = st.text(max_size=200)
UNCHANGED = compat32.clone(max_line_length=None)
"""Lines of a head stay as they are."""

HOSTILE = (
    "a\nBcc: eve@example.org",
    "a\r\nBcc: eve@example.org\r\n\r\nbody",
    "a\x0bBcc: eve@example.org",
    "a\x85Bcc: eve@example.org",
    "a\u2028Bcc: eve@example.org",
    '"bob" <eve@example.org>, "x',
    "eve@example.org",
    "<>",
    "<eve@example.org>",
    "=?utf-8?q?=0ABcc:_eve=40example.org?=",
    "=?utf-8?b?CkJjYzogZXZl?=",
    "\\",
    '\\"',
    "(comment",
    "tab\there",
    "\0",
    "\u202egnp.exe",
    "x" * 300,
    "ö" * 255,
    "wort " * 60,
    "日本語の題名 " * 20,
    "",
    " ",
    ":;,<>@[]",
)


def nothing(_offset: int, _size: int) -> bytes:
    raise AssertionError("nothing is to be read")


def source(data: bytes) -> Source:
    return lambda offset, size: data[offset : offset + size]


def whole(piece: Piece, data: bytes = b"") -> bytes:
    text = piece.read(source(data), 0, piece.size)
    assert len(text) == piece.size
    return text


def head(
    subject: str = "lunch",
    sender: Correspondent = BOB,
    to: tuple[Correspondent, ...] = (ALICE,),
    parents: tuple[MailId, ...] = (),
    *,
    confirmed: bool = True,
) -> MailHead:
    return MailHead(ID, sender, to, WHEN, subject, parents, confirmed)


def parsed(text: bytes) -> EmailMessage:
    found = email.message_from_bytes(text, policy=default)
    assert isinstance(found, EmailMessage)
    assert not found.defects
    for part in found.walk():
        assert not part.defects
    return found


def one(data: bytes, name: str = "", what: MailHead | None = None) -> EmailMessage:
    file = attached(name, Stretch(0, len(data)), data)
    return parsed(whole(mail_of_one(what or head(), file), data))


def test_every_header_is_there() -> None:
    parents = tuple(MailId(bytes([n]) * 16, ID.conversation) for n in range(1, 17))
    people = (ALICE, Correspondent("carol@example.org", "Carol C."))
    mail = one(b"Ten is fine.\n", what=head(to=people, parents=parents))
    assert mail["From"].strip() == "bob <bob@cbfs.invalid>"
    assert [each.addr_spec for each in mail["To"].addresses] == [
        "alice@cbfs.invalid",
        "carol@example.org.cbfs.invalid",
    ]
    assert [each.display_name for each in mail["To"].addresses] == ["alice", "Carol C."]
    assert mail["Date"] == "Mon, 23 Nov 2026 14:46:02 +0000"
    assert mail["Subject"] == "lunch"
    assert mail["Message-ID"] == ID.encode()
    assert mail["In-Reply-To"] == parents[-1].encode()
    assert mail["References"].split() == [parent.encode() for parent in parents]
    assert mail["MIME-Version"] == "1.0"
    assert mail.get_content_type() == "text/plain"
    assert mail.get_content() == "Ten is fine.\n"
    assert set(mail.keys()) == {
        "From", "To", "Date", "Subject", "Message-ID", "In-Reply-To", "References",
        "MIME-Version", "Content-Type", "Content-Transfer-Encoding",
    }  # fmt: skip


def test_a_mail_of_a_text_is_this_text() -> None:
    data = "See you at ten. Grüße\n".encode()
    attached = Attached("note", Stretch(0, len(data)), is_plain(data))
    assert whole(mail_of_one(head(), attached), data).decode() == (
        f"From: bob <bob@cbfs.invalid>{' ' * 47}\n"
        f"To: alice <alice@cbfs.invalid>{' ' * 31}\n"
        "Date: Mon, 23 Nov 2026 14:46:02 +0000\n"
        "Subject: lunch\n"
        f"Message-ID: <{'0a' * 16}.{'0b' * 16}@cbfs.invalid>\n"
        "MIME-Version: 1.0\n"
        "Content-Type: text/plain; charset=utf-8\n"
        "Content-Transfer-Encoding: 8bit\n"
        "Content-Disposition: inline;\n"
        ' filename="note"\n'
        "\n"
        "See you at ten. Grüße\n"
    )


def test_who_is_not_proven_to_have_written_it_is_said_so() -> None:
    mail = one(b"x", what=head(confirmed=False))
    assert mail["From"].addresses[0].display_name == "bob (unconfirmed)"
    assert mail["From"].addresses[0].addr_spec == "bob@cbfs.invalid"


def body_at(sender: str, other: str, shown: str, *, confirmed: bool) -> tuple[int, int]:
    """Where the text begins in a mail to alice and somebody, and how long the mail is."""
    to = Correspondent(shown, other), ALICE
    what = head(sender=Correspondent(shown, sender), to=to, confirmed=confirmed)
    made = mail_of_one(what, Attached("", Literal(b"hello\n"), is_plain=True))
    return whole(made).index(b"\n\n"), made.size


@pytest.mark.parametrize("shown", ["bob", "b" * NAME_MAX, "bob@example.org"])
def test_a_text_begins_at_the_same_place_whatever_people_are_called(shown: str) -> None:
    """mutt would show it without its first letters, after somebody is proven to have written it."""
    labels = shown, "b", f"@{'b' * NAME_MAX}", "with-some_9"
    places = {
        body_at(sender, other, shown, confirmed=confirmed)
        for sender in labels
        for other in labels
        for confirmed in (True, False)
    }
    assert len(places) == 1


def check_heads(text: bytes) -> None:
    """The head has the fields that it should have, once each, in lines that may be sent."""
    top, _, _ = text.partition(b"\n\n")
    lines = top.split(b"\n")
    fields = [line.split(b":")[0] for line in lines if line[:1] not in b" \t"]
    assert len(set(fields)) == len(fields)
    allowed = b"From To Date Subject Message-ID MIME-Version Content-Type"
    allowed += b" Content-Transfer-Encoding Content-Disposition"
    assert set(fields) <= set(allowed.split())
    for line in lines:
        assert len(line) <= LINE_MAX
        assert line.isascii()
        assert not set(line) & {0, 11, 12, 13}


def same(one: str, other: str) -> bool:
    """The same text, but for spaces."""
    return "".join(one.split()) == "".join(other.split())


@pytest.mark.parametrize("text", HOSTILE)
def test_what_people_write_stays_in_its_header(text: str) -> None:
    check_injection(text)


@given(TEXTS)
def test_any_text_stays_in_its_header(text: str) -> None:
    check_injection(text)


def check_injection(text: str) -> None:
    who = Correspondent("bob", text)
    what = head(text, who, (who, ALICE))
    data = b"\xff" * 10
    made = whole(mail_of_one(what, Attached(text, Stretch(0, 10))), data)
    check_heads(made)
    mail = parsed(made)
    assert same(mail["Subject"], one_line(text))
    (sender,) = mail["From"].addresses
    assert sender.addr_spec == "bob@cbfs.invalid"
    assert same(sender.display_name, one_line(text))
    assert [each.addr_spec for each in mail["To"].addresses] == [
        "bob@cbfs.invalid", "alice@cbfs.invalid",
    ]  # fmt: skip
    how = mail["Content-Disposition"]  # get_filename() takes brackets off that belong to it
    assert (how.params["filename"] if how else "") == one_line(text)
    assert mail.get_payload(decode=True) == data


@pytest.mark.parametrize(
    ("data", "plain", "text"),
    [
        (b"", True, True),
        (b"no end of line", True, True),
        ("Grüße, 日本語\n".encode(), True, True),
        (b"a\r\nb\r\n", False, True),
        (b"a\rb", False, True),
        (b"a\0b", False, False),
        (b"\xff\xfe", False, False),
        (b"x" * LINE_MAX + b"\n" + b"y" * LINE_MAX, True, True),
        (b"a long paragraph " * 80, False, True),
        (b"x" * (LINE_MAX + 1), False, True),
        (b"x\n" * (TEXT_MAX // 2), True, True),
        (b"x\n" * (TEXT_MAX // 2) + b"x", False, False),
        (b"From here\n.\n--boundary\nBcc: eve\n", True, True),
        (b"\n\nSubject: x\n", True, True),
    ],
)
def test_contents_come_back_as_they_are(data: bytes, plain: bool, text: bool) -> None:
    """And texts are texts, which mail programs show, also where they must be encoded."""
    assert is_plain(data) is plain
    mail = one(data)
    assert mail["Content-Transfer-Encoding"] == ("8bit" if plain else "base64")
    assert mail.get_payload(decode=True) == data
    assert (mail.get_content_type() == "text/plain") is text
    assert (mail.get_content_charset() == "utf-8") is text


@given(st.binary(max_size=3_000))
def test_any_content_comes_back(data: bytes) -> None:
    assert one(data).get_payload(decode=True) == data


@pytest.mark.parametrize(
    ("name", "type_", "how"),
    [
        ("note", "text/plain", "inline"),
        ("note.txt", "text/plain", "inline"),
        ("page.html", "text/html", "attachment"),
        ("photo.jpg", "image/jpeg", "attachment"),
        ("Grüße.pdf", "application/pdf", "attachment"),
    ],
)
def test_files_have_types_and_names(name: str, type_: str, how: str) -> None:
    mail = one(b"text\n", name)
    assert mail.get_content_type() == type_
    assert mail.get_content_disposition() == how
    assert mail.get_filename() == name
    assert one(b"\0", name).get_content_type() == (
        "application/octet-stream" if name == "note" else type_
    )


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("x.tar.gz", "application/gzip"),
        ("x.eml", ""),
        ("x.mht", ""),
        ("x.unheard-of", ""),
        ("data:text/html,x", ""),
        ("http://x/y.png", "image/png"),
    ],
)
def test_types_by_names(name: str, type_: str) -> None:
    assert type_of(name) == type_


def test_a_folder_has_its_files_as_parts() -> None:
    data = b"hello\n\x00\x01PDF" + b"x" * 10_000 + b"inside"
    files = [
        Attached("text", Stretch(0, 6), is_plain=True),
        Attached("a.pdf", Stretch(6, 10_005)),
        Attached("empty", Stretch(0, 0), is_plain=True),
        Attached("sub.zip", zip_of([Packed("deep/ö", 10_011, 6)]), type="application/zip"),
    ]
    made = mail_of_many(head(), files)
    mail = parsed(whole(made, data))
    assert mail.get_content_type() == "multipart/mixed"
    parts = list(mail.iter_parts())
    assert [part.get_filename() for part in parts] == ["text", "a.pdf", "empty", "sub.zip"]
    assert [part.get_content_type() for part in parts] == [
        "text/plain", "application/pdf", "text/plain", "application/zip",
    ]  # fmt: skip
    assert [part.get_payload(decode=True) for part in parts[:3]] == [
        data[:6], data[6:10_011], b"",
    ]  # fmt: skip
    body = mail.get_body(("plain",))
    assert body is not None
    assert body.get_content() == "hello\n"
    with zipfile.ZipFile(io.BytesIO(parts[3].get_content())) as archive:
        assert archive.testzip() is None
        assert archive.read("deep/ö") == b"inside"


def test_the_same_message_gives_the_same_bytes() -> None:
    files = [Attached("a", Stretch(0, 3)), Attached("b.zip", zip_of([Packed("c", 0, 3)]))]
    first, second = (whole(mail_of_many(head(), files), b"abc") for _ in range(2))
    assert first == second


def test_sizes_are_known_without_the_content() -> None:
    files = [Attached("a", Stretch(0, 3)), Attached("b.zip", zip_of([Packed("c", 0, 3)]))]
    for made in (mail_of_many(head(), files), mail_of_one(head(), files[0])):
        assert made.size == len(whole(made, b"abc"))


LINES = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=300)


@given(
    TEXTS, TEXTS, TEXTS, LINES.map(str.encode) | st.binary(max_size=300), st.integers(0, 16),
    st.booleans(),
)  # fmt: skip
def test_the_bytes_are_those_that_pythons_email_makes(
    label: str, subject: str, name: str, data: bytes, count: int, confirmed: bool
) -> None:
    parents = tuple(MailId(bytes([n]) * 16, ID.conversation) for n in range(count))
    people = (ALICE, Correspondent("carol@example.org", label))
    what = head(f"x{subject}", Correspondent("bob", label), people, parents, confirmed=confirmed)
    file = attached(name, Stretch(0, len(data)), data)
    for made in (
        mail_of_one(what, file),
        mail_of_many(what, [file, Attached("", Stretch(0, 0), is_plain=True), file]),
    ):
        text = whole(made, data)
        found = email.message_from_bytes(text, policy=UNCHANGED)
        assert found.as_bytes() == text


CONTENT = bytes(range(256)) * 9
SPANS = st.tuples(st.integers(0, 2_000), st.integers(0, 300))
LEAVES = st.one_of(st.binary(max_size=200).map(Literal), SPANS.map(lambda span: Stretch(*span)))


def archives() -> st.SearchStrategy[Piece]:
    names = st.text(
        st.characters(codec="utf-8", exclude_characters="/\0\\"), min_size=1, max_size=9
    )
    files = st.lists(st.tuples(names, SPANS), max_size=4, unique_by=lambda file: file[0])
    return files.map(lambda found: zip_of([Packed(name, *span) for name, span in found]))


PIECES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(inner.map(Base64), st.lists(inner, max_size=4).map(Joined), archives()),
    max_leaves=6,
)


@given(PIECES, st.integers(0, 3_000), st.integers(0, 3_000))
def test_any_part_of_a_piece_is_that_part_of_the_whole(
    piece: Piece, offset: int, size: int
) -> None:
    text = whole(piece, CONTENT)
    assert piece.read(source(CONTENT), offset, size) == text[offset : offset + size]


@given(archives())
def test_archives_can_be_read(archive: Piece) -> None:
    with zipfile.ZipFile(io.BytesIO(whole(archive, CONTENT))) as found:
        assert found.testzip() is None


def test_only_what_is_asked_for_is_read() -> None:
    asked: list[tuple[int, int]] = []

    def watch(offset: int, size: int) -> bytes:
        asked.append((offset, size))
        return bytes(size)

    mail = mail_of_one(head(), Attached("x", Stretch(0, 1 << 30)))
    assert mail.read(nothing, 0, 100)
    assert len(mail.read(watch, 1 << 29, 4_096)) == 4_096
    assert sum(size for _, size in asked) < 4_096


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("\n \n\t\nhello  there\nmore", "hello there"),
        ("x" * 100, "x" * 100),
        ("x" * 101, "x" * 99 + "…"),
        ("a\u2028b", "a"),
    ],
)
def test_the_first_line_is_a_subject(text: str, line: str) -> None:
    assert first_line(text.encode()) == line


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("Subject: [PATCH 1/2] ä\n\nhi\n", "[PATCH 1/2] ä"),
        ("Subject: one\nFrom: A <a@b>\n\nhi\n", "one"),
        ("Subject:  two \x07 words \n\n", "two words"),
        ("Subject: not alone\nin its line\n", ""),
        ("Subject: \n\nhi\n", ""),
        ("hi\nSubject: late\n\n", ""),
        ("Subject: " + "x" * 999 + "\n\n", ""),
    ],
)
def test_a_text_says_its_subject(text: str, subject: str) -> None:
    assert said_subject(text.encode()) == subject
