"""A mail becomes a letter: people, a subject, answers, files. What a mail can be is anything."""

import time
from email import policy
from email.message import EmailMessage
from unittest import mock

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbfs.commands.sendmail import reading
from cbfs.commands.sendmail.letter import (
    Letter,
    Recipient,
    called,
    decode_letter,
    encode_letter,
    groups_of,
)
from cbfs.commands.sendmail.options import Exit, NotSent
from cbfs.commands.sendmail.reading import (
    HEADERS_MAX,
    MIME_DEPTH_MAX,
    MIME_PARTS_MAX,
    person_of,
    read_letter,
)
from cbfs.messages.mail_ids import DOMAIN, MailId
from cbfs_common.errors import DecodeError
from cbfs_common.limits import FILE_NAME_MAX, PARTICIPANTS_MAX, SUBJECT_MAX

ONE, TWO = MailId(b"m" * 16, b"c" * 16), MailId(b"n" * 16, b"d" * 16)


def by_arguments(data: bytes | str, *people: str, dot_ends: bool = False) -> Letter:
    raw = data.encode() if isinstance(data, str) else data
    return read_letter(raw, people or ("bob",), from_headers=False, dot_ends=dot_ends)


def by_headers(data: bytes | str, *people: str) -> Letter:
    raw = data.encode() if isinstance(data, str) else data
    return read_letter(raw, people, from_headers=True, dot_ends=False)


def refused(data: bytes | str, *people: str, headers: bool = False) -> NotSent:
    raw = data.encode() if isinstance(data, str) else data
    with pytest.raises(NotSent) as caught:
        read_letter(raw, people, from_headers=headers, dot_ends=False)
    assert caught.value.hint
    return caught.value


def names(people: tuple[Recipient, ...]) -> list[str]:
    return [each.name for each in people]


def text_of(letter: Letter) -> bytes:
    assert not letter.folder
    ((_name, content),) = letter.files
    return content


# People


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bob", Recipient("bob")),
        (" Bob ", Recipient("bob")),
        ("bob@cbfs.invalid", Recipient("bob", is_address=True)),
        ("<BOB@CBFS.Invalid>", Recipient("bob", is_address=True)),
        ("bob@example.org.cbfs.invalid", Recipient("bob@example.org", is_address=True)),
        ("bob@example.org", Recipient("bob@example.org")),
    ],
)
def test_an_address_is_a_name_here(text: str, expected: Recipient) -> None:
    assert person_of(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "@", "b@", "@cbfs.invalid", "b ob", "bob\nX: y", "bob\0", "../bob", "a", "root!x",
     "bob@cbfs.invalid@cbfs.invalid", "\udcff", "b" * 33, "bob@a_b", ".cbfs.invalid", "/etc/passwd",
     "|sh", "bob,carol"],
)  # fmt: skip
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(NotSent) as caught:
        person_of(text)
    assert caught.value.code == Exit.NOUSER
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text",
    ["root", "Root", "bob@localhost", "bob@host.local", "bob@localhost.localdomain", "nobody"],
)
def test_who_is_meant_on_this_machine_is_no_stranger_of_that_name(text: str) -> None:
    with pytest.raises(NotSent) as caught:
        person_of(text)
    assert caught.value.code == Exit.NOUSER
    assert "MAILTO=NAME" in caught.value.hint
    assert person_of("root@cbfs.invalid").name == "root"


PETNAMES = {"bob": "carol", "bobby": "robert"}


def owner(label: str) -> str:
    """Whose true name it is, where carol is called bob, and robert bobby."""
    return label[1:] if label.startswith("@") else PETNAMES.get(label, label)


def test_an_address_is_a_true_name_where_it_is_also_a_petname() -> None:
    """Also when the one who has the name is no contact, so that nobody is shown as @NAME."""
    assert called(Recipient("bob", is_address=True), owner) == "@bob"
    assert called(Recipient("bob"), owner) == "bob"
    assert called(Recipient("dave", is_address=True), owner) == "dave"
    assert called(Recipient("bob@example.org", is_address=True), owner) == "bob@example.org"


def test_a_petname_and_an_address_are_two_people() -> None:
    for letter in (
        by_headers("To: bob, bob@cbfs.invalid\n\nhi\n"),
        by_arguments("Subject: x\n\nhi\n", "bob", "bob@cbfs.invalid"),
    ):
        assert groups_of(letter, owner) == (("bob", "@bob"),)
        assert groups_of(letter, lambda label: label) == (("bob",),)
    letter = by_headers("To: bob\nBcc: bob@cbfs.invalid, carol, erin\n\nhi\n")
    assert groups_of(letter, owner) == (("bob",), ("@bob",), ("erin",))
    assert groups_of(letter, lambda label: label) == (("bob",), ("carol",), ("erin",))
    letter = by_arguments("To: bob\n\nhi\n", "bob", "bob@cbfs.invalid")
    assert groups_of(letter, owner) == (("bob",), ("@bob",))
    letter = by_arguments("To: dave\n\nhi\n", "dave@cbfs.invalid")
    assert groups_of(letter, owner) == (("dave",),)


def test_who_has_a_petname_gets_it_once() -> None:
    letter = by_headers("To: bobby, robert@cbfs.invalid, dave\nBcc: robert\n\nhi\n")
    assert groups_of(letter, owner) == (("bobby", "dave"),)


def test_to_and_cc_are_together_and_bcc_apart() -> None:
    letter = by_headers(
        "To: Bob <bob@cbfs.invalid>, carol\nCc: dave@cbfs.invalid\nBcc: erin, frank, bob\n\nhi\n"
    )
    assert names(letter.together) == ["bob", "carol", "dave"]
    assert names(letter.apart) == ["erin", "frank", "bob"]
    assert groups_of(letter, str) == (("bob", "carol", "dave"), ("erin",), ("frank",))
    assert b"erin" not in letter.files[0][1]


def test_arguments_are_who_gets_it() -> None:
    assert names(by_arguments("Subject: x\n\nhi\n", "bob", "carol").together) == ["bob", "carol"]
    letter = by_arguments("To: bob, list@example.org\nBcc: eve\n\nhi\n", "bob", "carol")
    assert (names(letter.together), names(letter.apart)) == (["bob"], ["carol"])
    letter = by_arguments("Bcc: bob, carol\n\nhi\n", "bob", "carol")
    assert (names(letter.together), names(letter.apart)) == ([], ["bob", "carol"])


def test_who_stands_in_neither_to_nor_cc_is_shown_to_nobody() -> None:
    """Whatever names them besides: Bcc, the command line, or both, as a name or as an address."""
    for to, bcc, words, together, apart in (
        ("To: bob", "Bcc: carol@cbfs.invalid", ["carol"], ["bob"], ["carol"]),
        ("To: bob", "Bcc: carol", ["carol@cbfs.invalid"], ["bob"], ["carol"]),
        ("To: bob", "Bcc: erin", ["carol", "erin"], ["bob"], ["carol", "erin"]),
        ("Cc: bob", "X: y", ["carol", "bob"], ["bob"], ["carol"]),
        ("X: y", "Bcc: bob, carol", [], [], ["bob", "carol"]),
        ("X: y", "Bcc: bob", ["carol"], [], ["bob", "carol"]),
        ("To: list:;", "X: y", ["bob", "carol"], [], ["bob", "carol"]),
    ):
        letter = by_headers(f"{to}\n{bcc}\n\nhi\n", *words)
        assert names(letter.together) == together, (to, bcc, words)
        assert sorted(set(names(letter.apart))) == apart, (to, bcc, words)


def test_from_is_not_asked() -> None:
    one = by_headers("From: eve\nSender: eve\nReply-To: eve\nTo: bob\n\nhi\n")
    assert one == by_headers("To: bob\n\nhi\n")


def test_all_must_be_people_or_nobody_gets_it() -> None:
    assert refused("To: bob, root@localhost!\n\nhi\n", headers=True).code == Exit.NOUSER
    assert refused("To: bob\nBcc: x\n\nhi\n", headers=True).code == Exit.NOUSER
    for to in ("bob; carol", "<bob> carol", "bob@cbfs.invalid carol@cbfs.invalid", "bob, ;",
               "a@b@c", '"bob, carol', "bob carol", "bob>, carol"):  # fmt: skip
        code = refused(f"To: {to}\n\nhi\n", headers=True).code
        assert code in {Exit.NOUSER, Exit.DATAERR}, to
    assert names(by_headers("To: Käse <bob>, <carol\n\nhi\n").together) == ["bob", "carol"]
    assert refused("hi\n", "bob", "x").code == Exit.NOUSER
    assert refused("Subject: x\n\nhi\n", headers=True).code == Exit.USAGE
    assert refused("hi\n").code == Exit.USAGE
    many = ", ".join(f"name{number}" for number in range(PARTICIPANTS_MAX))
    assert refused(f"To: {many}\n\nhi\n", headers=True).code == Exit.NOUSER


def test_a_group_that_nobody_is_in_is_nobody() -> None:
    letter = by_headers("To: undisclosed-recipients:;\nBcc: bob\n\nhi\n")
    assert (names(letter.together), names(letter.apart)) == ([], ["bob"])


def test_nobody_is_written_to_twice() -> None:
    letter = by_headers("To: bob, bob@cbfs.invalid\nTo: bob\nCc: bob\n\nhi\n")
    assert groups_of(letter, str) == (("bob",),)


# Subject, answers


def test_the_subject_is_one_line() -> None:
    assert by_headers("To: bob\nSubject: a\n b\t c\n\nhi\n").subject == "a b c"
    assert (
        by_headers("To: bob\nSubject: =?utf-8?q?a=0D=0ABcc:_eve?=\n\nhi\n").subject == "a Bcc: eve"
    )
    assert by_headers("To: bob\nSubject: =?utf-8?b?w6TDtg==?=\n\nhi\n").subject == "äö"
    assert by_headers("To: bob\nSubject: äö\n\nhi\n").subject == "äö"
    assert by_headers(b"To: bob\nSubject: \xe4\x00\n\nhi\n".replace(b"\0", b"")).subject
    assert by_headers("To: bob\n\nhi\n").subject == ""
    long = by_headers(f"To: bob\nSubject: {'ä' * SUBJECT_MAX}\n\nhi\n").subject
    assert len(long.encode()) == SUBJECT_MAX


def test_what_it_answers_is_found() -> None:
    head = f"In-Reply-To: {ONE.encode()}\nReferences: <x@y> {TWO.encode()}\n {ONE.encode()}\n"
    assert by_headers(f"To: bob\n{head}\nhi\n").answers == (ONE, TWO)
    assert by_headers("To: bob\nIn-Reply-To: <1@host> junk <\nReferences: <\n\nhi\n").answers == ()


# Text


def test_a_text_is_its_bytes() -> None:
    assert text_of(by_arguments("Subject: x\n\n  hi\n\n-- \nme\n")) == b"  hi\n\n-- \nme\n"
    assert text_of(by_arguments(b"Subject: x\r\n\r\nhi\r\nyou\r\n")) == b"hi\nyou\n"
    assert text_of(by_arguments("just a text\nof two lines\n")) == b"just a text\nof two lines\n"
    assert text_of(by_arguments("\nnote: no header\n")) == b"note: no header\n"
    assert text_of(by_arguments("Subject: x\n\nno newline")) == b"no newline\n"
    assert text_of(by_arguments("Subject: x\n\na\0b\n")) == b"a\0b\n"


def test_a_dot_ends_it_unless_it_is_told_not_to() -> None:
    data = "Subject: x\n\none\n.\ntwo\n..\n"
    assert text_of(by_arguments(data, dot_ends=True)) == b"one\n"
    assert text_of(by_arguments(data)) == b"one\n.\ntwo\n..\n"
    assert text_of(by_arguments("Subject: x\n\none\n.two\n.", dot_ends=True)) == b"one\n.two\n"
    assert text_of(by_arguments(b"Subject: x\r\n\r\none\r\n.\r\ntwo", dot_ends=True)) == b"one\n"


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("", "ä\n".encode()),
        ("Content-Type: text/plain; charset=utf-8\n", "ä\n".encode()),
        ("Content-Type: text/plain; charset=latin-1\n", b"\xe4\n"),
        ("Content-Type: text/plain; charset=nonsense\n", b"\xe4\n"),
        ("Content-Type: text/plain\n", b"\xe4\n"),
        ("Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n", b"w6QK\n"),
        ("Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n",
         b"=C3=A4\n"),
    ],
)  # fmt: skip
def test_letters_beyond_ascii_arrive(head: str, body: bytes) -> None:
    assert text_of(by_arguments(f"MIME-Version: 1.0\n{head}\n".encode() + body)) == "ä\n".encode()


def test_an_empty_message_is_its_subject_or_refused() -> None:
    assert text_of(by_arguments("Subject: it is done\n\n")) == b"it is done\n"
    assert text_of(by_arguments("Subject: it is done\n")) == b"it is done\n"
    assert refused("", "bob").code == Exit.DATAERR
    assert refused("X: y\n\n \n\n", "bob").code == Exit.DATAERR


# Attachments


def made(*files: tuple[str, bytes], text: str = "see\n", subject: str = "photos") -> bytes:
    message = EmailMessage()
    message["To"], message["Subject"] = "bob", subject
    if text:
        message.set_content(text)
    for name, content in files:
        message.add_attachment(content, maintype="application", subtype="x", filename=name)
    return message.as_bytes(policy=policy.default.clone(linesep="\n"))


def test_attachments_are_files_of_a_folder() -> None:
    letter = by_headers(made(("a.png", b"\0\1"), ("b.txt", b"x\r\n")))
    assert letter.folder == "photos"
    assert letter.files == (("message", b"see\n"), ("a.png", b"\0\1"), ("b.txt", b"x\r\n"))
    letter = by_headers(made(("a.png", b"\0\1"), text=""))
    assert letter.files == (("a.png", b"\0\1"),)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a/b/c.txt", "c.txt"),
        ("..\\..\\c.txt", "c.txt"),
        ("../../etc/passwd", "passwd"),
        ("..", "attachment"),
        (".bashrc", "bashrc"),
        ("-rf", "_rf"),
        ("x.error", "x.error_"),
        ("x.part", "x.part_"),
        ("x~", "x~_"),
        ("a\nb", "a_b"),
        ("\u202egpj.exe", "_gpj.exe"),
        ("message", "message (2)"),
        ("ä.txt", "ä.txt"),
    ],
)
def test_names_of_files_are_names_of_files(given: str, expected: str) -> None:
    escaped = given.encode().hex(" ").upper().replace(" ", "%")
    data = (
        "To: bob\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\nsee\n--b\n"
        "Content-Type: image/x-none\n"
        f"Content-Disposition: attachment; filename*=utf-8''%{escaped}\n\nx\n--b--\n"
    )
    assert by_headers(data).files == (("message", b"see\n"), (expected, b"x"))


def test_two_of_one_name_are_two() -> None:
    letter = by_headers(made(("a.txt", b"1"), ("a.txt", b"2"), ("a.txt", b"3"), text=""))
    assert letter.files == (("a.txt", b"1"), ("a (2).txt", b"2"), ("a (3).txt", b"3"))


@pytest.mark.parametrize(
    ("subject", "expected"),
    [("", "mail"), ("...", "mail"), ("a/b", "a_b"), (".x", "_x"), ("draft.tmp", "draft.tmp_"),
     ("x~", "x~_"), ("y.error", "y.error_"), ("ä" * 200, "ä" * 100),
     # by these it would be who gets it, or would never be sent
     ("metadata.toml", "metadata.toml_"), ("desktop.ini", "desktop.ini_"),
     ("Thumbs.db", "Thumbs.db_")],
)  # fmt: skip
def test_the_folder_is_called_as_its_subject(subject: str, expected: str) -> None:
    assert by_headers(made(("a", b"1"), subject=subject)).folder == expected


def test_of_alternatives_the_plain_text_is_taken() -> None:
    message = EmailMessage()
    message["To"] = "bob"
    message.set_content("plain\n")
    message.add_alternative("<p>html</p>", subtype="html")
    assert text_of(by_headers(message.as_bytes())) == b"plain\n"
    message.add_attachment(b"x", maintype="image", subtype="png", filename="a.png")
    assert by_headers(message.as_bytes()).files == (("message", b"plain\n"), ("a.png", b"x"))


def test_html_alone_is_a_file() -> None:
    data = "To: bob\nSubject: x\nContent-Type: text/html\n\n<p>hi</p>\n"
    assert by_headers(data).files == (("message.html", b"<p>hi</p>\n"),)


def test_a_mail_in_a_mail_is_a_file() -> None:
    inner = EmailMessage()
    inner["Subject"] = "inside"
    inner.set_content("deep\n")
    message = EmailMessage()
    message["To"] = "bob"
    message.set_content("see\n")
    message.add_attachment(inner)
    letter = by_headers(message.as_bytes())
    assert [name for name, _ in letter.files] == ["message", "attachment.eml"]
    assert b"Subject: inside" in letter.files[1][1]


# What is meant to do harm


def test_what_is_too_large_is_refused() -> None:
    with mock.patch.object(reading, "MESSAGE_MAX", 100):
        assert refused("Subject: x\n\n" + "x" * 100, "bob").code == Exit.DATAERR
    assert refused(f"To: bob\nX: {'y' * HEADERS_MAX}\n\nhi\n", headers=True).code == Exit.DATAERR
    assert text_of(by_arguments("x" * HEADERS_MAX * 2)) == b"x" * HEADERS_MAX * 2 + b"\n"
    many = "content-type:\n" * (MIME_PARTS_MAX + 1)
    assert refused(f"To: bob\n\n{many}", "bob").code == Exit.DATAERR


def test_a_nul_in_a_header_is_refused() -> None:
    assert refused(b"To: bob\nSubject: a\0b\n\nhi\n", "bob").code == Exit.DATAERR


def nested(depth: int) -> str:
    head = "To: bob\n"
    for number in range(depth):
        head += f"Content-Type: multipart/mixed; boundary=b{number}\n\n--b{number}\n"
    return head + "\nhi\n"


def test_parts_in_each_other_are_not_followed_for_ever() -> None:
    assert text_of(by_headers(nested(MIME_DEPTH_MAX))) == b"hi\n"
    assert refused(nested(MIME_DEPTH_MAX + 1), headers=True).code == Exit.DATAERR
    assert refused(nested(MIME_PARTS_MAX), headers=True).code == Exit.DATAERR
    rfc822 = "To: bob\n" + "Content-Type: message/rfc822\n\n" * (MIME_PARTS_MAX - 1) + "\nhi\n"
    assert refused(rfc822, headers=True).code == Exit.DATAERR


def test_comments_in_each_other_are_not_followed_for_ever() -> None:
    assert refused(f"To: bob {'(' * 5_000}\n\nhi\n", headers=True).code == Exit.DATAERR


WORDS = st.sampled_from(
    [
        *(
            "To:",
            "Cc: ",
            "Bcc:",
            "Subject: ",
            "bob",
            "<",
            ">",
            ",",
            ":",
            ";",
            "(",
            ")",
            '"',
            "\\",
            "@",
        ),
        *(DOMAIN, "=?utf-8?q?", "=?utf-8?b?", "?=", "\n", "\n ", "\r\n", "\n\n", ".", "\0"),
        *(
            "Content-Type: ",
            "multipart/mixed",
            "; boundary=",
            "b",
            "--b",
            "--b--",
            "text/plain",
            "/",
        ),
        *(
            "; charset=",
            "Content-Disposition: attachment; filename=",
            "filename*0*=",
            "''",
            "%",
            "*",
        ),
        *(
            "Content-Transfer-Encoding: ",
            "base64",
            "quoted-printable",
            "7bit",
            "=",
            "message/rfc822",
        ),
        *(
            "In-Reply-To:",
            "References:",
            "ä",
            "\udcff",
            "multipart/alternative",
            "utf-8",
            "text/html",
        ),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=60).map("".join), st.booleans(), st.booleans())
def test_any_words_become_a_letter_or_are_refused(text: str, headers: bool, dot: bool) -> None:
    try:
        data = text.encode("utf-8", "surrogateescape")
        letter = read_letter(data, () if headers else ("bob",), from_headers=headers, dot_ends=dot)
    except NotSent as error:
        assert error.code in {Exit.DATAERR, Exit.NOUSER, Exit.USAGE}
        return
    sound(letter)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_become_a_letter_or_are_refused(data: bytes) -> None:
    try:
        letter = read_letter(b"Subject:" + data, ("bob",), from_headers=False, dot_ends=True)
    except NotSent as error:
        assert error.code in {Exit.DATAERR, Exit.NOUSER, Exit.USAGE}
        return
    sound(letter)


def sound(letter: Letter) -> None:
    assert letter.files
    assert len(letter.subject.encode()) <= SUBJECT_MAX
    assert letter.subject.isprintable() or not letter.subject.isascii()
    assert "\n" not in letter.subject
    taken = [name for name, _content in letter.files]
    assert len(set(taken)) == len(taken)
    for name in [*taken, *([letter.folder] if letter.folder else [])]:
        assert 0 < len(name.encode()) <= FILE_NAME_MAX
        assert not {"/", "\0", "\n"} & set(name)
        assert not name.startswith(".")
    assert bool(letter.folder) or len(letter.files) == 1
    assert decode_letter(encode_letter(letter)) == letter


@pytest.mark.parametrize("data", [b"", b"x", encode_letter(by_arguments("hi\n"))[:-1]])
def test_what_is_no_letter_is_not_read(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_letter(data)


def test_addresses_are_read_in_time() -> None:
    """Not a measurement: what grows with the square of its size would take minutes."""
    many = ", ".join(["bob"] * (HEADERS_MAX // 6))
    began = time.process_time()
    by_headers(f"To: {many}\n\nhi\n")
    assert time.process_time() - began < 60


@pytest.mark.parametrize("name", ["Resent-To", "Resent-Cc", "Resent-Bcc"])
def test_what_is_sent_once_more_does_not_go_to_those_who_have_it(name: str) -> None:
    text = f"{name}: dave\nResent-From: alice\nTo: bob\nCc: carol\nBcc: erin\n\nhi\n"
    found = by_headers(text)
    assert (*found.together, *found.apart) == (Recipient("dave"),)
    assert bool(found.apart) is (name == "Resent-Bcc")
    assert read_letter(text.encode(), ["dave"], from_headers=False, dot_ends=False).apart == (
        Recipient("dave"),
    )


def test_of_what_was_sent_more_than_once_the_last_time_counts() -> None:
    text = (
        "Resent-Date: x\nResent-To: dave\nResent-Cc: frank\nResent-Date: y\nResent-To: erin\n"
        "Resent-Bcc: gina\nTo: bob\n\nhi\n"
    )
    found = by_headers(text)
    assert found.together == (Recipient("dave"), Recipient("frank"))
    assert found.apart == ()
    assert refused("Resent-To: two words\nTo: bob\n\nhi\n", headers=True).code == Exit.NOUSER


def test_who_says_by_whom_it_was_sent_once_more_names_nobody() -> None:
    found = by_headers("Resent-From: dave\nTo: bob\n\nhi\n")
    assert found.together == (Recipient("bob"),)


def test_a_letter_that_has_waited_since_before_threads_were_remembered_is_read() -> None:
    letter = by_arguments("Subject: x\n\nhi\n")
    data = encode_letter(letter)
    size = int.from_bytes(data[:4], "big")
    *head, root = msgpack.unpackb(data[4 : 4 + size])
    assert root == b""
    old = msgpack.packb(head)
    assert decode_letter(len(old).to_bytes(4, "big") + old + data[4 + size :]) == letter
