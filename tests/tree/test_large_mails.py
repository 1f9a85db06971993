"""Mails of messages that are too large for one: what a mail program reads of them."""

import email
from email.message import EmailMessage
from email.policy import default

import pytest

from cbfs.tree.virtual.mail.large import (
    NAMES_MAX,
    ROOM,
    WRITTEN_MAX,
    mail_of_large_file,
    mail_of_large_folder,
    written_in,
)
from cbfs.tree.virtual.mail.letter import Attached
from cbfs.tree.virtual.mail.pieces import Piece
from cbfs_common.limits import FILE_NAME_MAX
from tests.tree.test_mail_texts import head, parsed, whole

MIB = 1 << 20


def texts(made: Piece, content: bytes = b"") -> list[str]:
    return [part.get_content() for part in parsed(whole(made, content)).iter_parts()]


def folder(entries: list[tuple[str, int | None]], written: Attached | None = None) -> Piece:
    return mail_of_large_folder(head(), "trip", 3 * MIB, entries, written)


def test_of_a_folder_it_has_what_was_written_and_the_names_of_the_rest() -> None:
    content = b"x" * 10 + "Schöne Grüße\n".encode()
    written = written_in("message", 10, content[10:])
    entries: list[tuple[str, int | None]] = [
        ("a\nb.bin", 3 * MIB),
        ("inner", None),
        ("message", 16),
    ]
    (text,) = texts(folder(entries, written), content)
    assert text == (
        "Schöne Grüße\n"
        "\n"
        "trip: a folder of 3,145,728 bytes, which is too large for a mail.\n"
        "It is in the folder of its conversation, under conversations/, with\n"
        "  a b.bin: 3,145,728 bytes\n"
        "  inner: a folder\n"
        "  message: 16 bytes\n"
    )


def test_it_is_as_long_and_begins_at_the_same_place_before_it_is_here() -> None:
    """Else mutt, which has looked at it by then, cuts what it shows; and aerc shows as many parts
    as there were."""
    text = "ö".encode() * WRITTEN_MAX  # which is longer when it is encoded
    many: list[tuple[str, int | None]] = [("message", len(text))]
    many += [("ü" * (FILE_NAME_MAX // 2), 4 << 30)] * NAMES_MAX
    before = folder([])
    afters = folder(many, written_in("message", 0, text)), folder([("a", 3 * MIB)])
    head_before = whole(before).partition(b"\n\n")[0]
    assert before.size == len(head_before) + 2 + ROOM
    for after in afters:
        assert after.size == before.size
        assert whole(after, text).startswith(head_before)
    assert texts(before) == [
        "trip: a folder of 3,145,728 bytes, which is too large for a mail.\n"
        "It is in the folder of its conversation, under conversations/.\n"
    ]


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a\0"])
def test_what_is_no_text_is_named_only(data: bytes) -> None:
    assert written_in("message", 0, data) is None


def test_a_long_text_is_cut_between_letters_and_that_is_said() -> None:
    data = b"x" + "öö\n".encode() * WRITTEN_MAX
    written = written_in("message", 0, data)
    (text,) = texts(folder([("message", len(data))], written), data)
    assert text.startswith("x" + "öö\n" * (WRITTEN_MAX // 5) + "\ntrip: ")
    assert text.endswith(
        f"  message: {len(data):,} bytes, of which {1 + WRITTEN_MAX // 5 * 5:,} are above\n"
    )


def test_so_many_are_named_and_the_others_counted() -> None:
    (note,) = texts(folder([(f"{n}.jpg", MIB) for n in range(NAMES_MAX + 5)]))
    assert "  31.jpg: 1,048,576 bytes\n  and 5 more\n" in note
    assert "32.jpg" not in note


@pytest.mark.parametrize(("name", "said"), [("", "a file"), ("a\nb", "a b")])
def test_a_file_is_named(name: str, said: str) -> None:
    made = whole(mail_of_large_file(head(), name, 4 << 30))
    mail = email.message_from_bytes(made, policy=default)
    assert isinstance(mail, EmailMessage)
    assert mail.get_content().startswith(f"{said}: a file of 4,294,967,296 bytes, which is too")
