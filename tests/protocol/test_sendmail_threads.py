"""Mails of a thread that goes on in one conversation, as git sends a series."""

from email.message import EmailMessage

import pytest

from cbfs.commands.sendmail.letter import ROOT_SIZE, Letter, Recipient, within
from cbfs.messages.mail_ids import MailId
from tests.protocol.test_sendmail_letter import by_headers, text_of

OURS = MailId(b"m" * 16, b"c" * 16).encode()
OTHER = MailId(b"n" * 16, b"d" * 16).encode()
COVER = "To: bob\nSubject: [PATCH 0/2] all\nMessage-ID: <1-0@host>\n\nhi\n"
PATCH = (
    "To: bob\nSubject: [PATCH 1/2] one\nMessage-ID: <1-1@host>\nIn-Reply-To: <1-0@host>\n"
    "References: <1-0@host>\n\nhi\n"
)
OF_PATCH = (
    "To: bob\nSubject: [PATCH 2/2] two\nMessage-ID: <1-2@host>\nIn-Reply-To: <1-1@host>\n"
    "References: <1-0@host>\n <1-1@host>\n\nhi\n"
)


def test_mails_of_a_thread_have_one_root() -> None:
    roots = {by_headers(text).root for text in (COVER, PATCH, OF_PATCH)}
    assert len(roots) == 1
    assert len(roots.pop()) == ROOT_SIZE
    assert by_headers("To: bob\nIn-Reply-To: <1-0@host>\n\nhi\n").root == by_headers(PATCH).root
    assert by_headers("To: bob\nMessage-ID: <x@y>\n\nhi\n").root != by_headers(COVER).root
    assert by_headers("To: bob\nMessage-ID: nothing\n\nhi\n").root == b""


def test_what_answers_a_message_of_ours_needs_no_root() -> None:
    assert by_headers(f"To: bob\nMessage-ID: <x@y>\nReferences: {OURS} <1@2>\n\nhi\n").root == b""


def test_what_python_writes_is_an_answer() -> None:
    """Ids that do not fit on a line are words that it encodes, as if they were text."""
    mail = EmailMessage()
    mail["To"], mail["In-Reply-To"], mail["References"] = "bob", OURS, f"{OTHER} {OURS}"
    mail.set_content("hi\n")
    assert b"<" + 8 * b"6d" not in mail.as_bytes()
    assert [each.encode() for each in by_headers(mail.as_bytes()).answers] == [OURS, OTHER]


def letter(subject: str, text: bytes, name: str = "message") -> Letter:
    return Letter((Recipient("bob"),), (), subject, (), "", ((name, text),))


def test_what_is_about_something_else_says_so() -> None:
    found = within(letter("[PATCH 1/2] net/core: ä", b"From: A <a@b>\n\nhi\n"), "[PATCH 0/2] all")
    assert text_of(found) == "Subject: [PATCH 1/2] net/core: ä\nFrom: A <a@b>\n\nhi\n".encode()
    assert text_of(within(letter("new", b"hi\n"), "old")) == b"Subject: new\n\nhi\n"
    assert text_of(within(letter("Re: new", b"hi\n"), "old")) == b"Subject: Re: new\n\nhi\n"
    assert text_of(within(letter("new", b"hi\n"), "")) == b"Subject: new\n\nhi\n"


@pytest.mark.parametrize(
    ("own", "about"),
    [
        ("lunch", "lunch"),
        ("Re: lunch", "lunch"),
        ("AW: Re[2]: lunch", "lunch"),
        ("a b", "a  b "),
        ("Re: äö", "ä ö"),
        ("Re: plans", "Re: plans"),
        ("Re:", "Re:"),
        ("Re: the first line", ""),
        ("", "lunch"),
        ("Re: " + "x" * 196, "x" * 200),
        ("hi", "lunch"),
    ],
)
def test_what_repeats_the_subject_says_nothing(own: str, about: str) -> None:
    """Nor does a mail whose text is its subject."""
    assert text_of(within(letter(own, b"hi\n"), about)) == b"hi\n"


def test_what_is_no_text_stays() -> None:
    assert text_of(within(letter("new", b"hi\n", "message.html"), "old")) == b"hi\n"
