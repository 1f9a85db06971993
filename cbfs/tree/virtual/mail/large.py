"""Mails of messages that are too large for one: what was written, as soon as that is here, and what
is left out. Pure.

A program that reads all mails would else read gigabytes, or wait for what is arriving. Mail
programs keep how long a mail is and where its text begins, and look at it when it has come: so that
of a folder has the same head and the same length before what is in the folder is here and after.
"""

from collections.abc import Sequence
from dataclasses import replace

from cbfs.tree.virtual.mail.letter import (
    Attached,
    MailHead,
    attached,
    mail_of_many,
    mail_of_one,
    one_line,
)
from cbfs.tree.virtual.mail.pieces import Joined, Literal, Piece, Stretch

ROOM = 24_576
"""Bytes behind the head of the mail of a folder."""

WRITTEN_MAX = 8_192
"""Bytes of what was written that it has."""

NAMES_MAX = 32
"""Entries of a folder that it names, with up to some 300 bytes each."""


def mail_of_large_file(head: MailHead, called: str, size: int) -> Piece:
    """That of a file of ``size`` bytes, which may have no name."""
    return mail_of_one(head, _note(f"{_too_large(called or 'a file', 'a file', size)}.\n"))


def mail_of_large_folder(
    head: MailHead,
    called: str,
    size: int,
    entries: Sequence[tuple[str, int | None]],
    written: Attached | None,
) -> Piece:
    """That of a folder of ``size`` bytes. ``entries``: the name and the size of each, None for a
    folder; empty while they are not here. ``written`` is the beginning of one of them."""
    lines = [_too_large(called, "a folder", size) + (", with" if entries else ".")]
    for name, length in entries[:NAMES_MAX]:
        what = f"{length:,} bytes" if length is not None else "a folder"
        if written and written.name == name and written.body.size != length:
            what += f", of which {written.body.size:,} are above"
        lines.append(f"  {one_line(name)}: {what}")
    if len(entries) > NAMES_MAX:
        lines.append(f"  and {len(entries) - NAMES_MAX:,} more")
    note = _note("".join(f"{line}\n" for line in lines))
    if written:  # in one part, as there is one before it is here: mail programs keep how many
        whole = Joined((written.body, Literal(b"\n"), note.body))
        return mail_of_many(head, [replace(written, body=whole)], ROOM)
    return mail_of_many(head, [note], ROOM)


def written_in(name: str, start: int, data: bytes) -> Attached | None:
    """The part of a mail that has what was written in a file of that name: ``data`` are the bytes
    of the content from ``start`` on, or their beginning. None where that is no text."""
    text = data[:WRITTEN_MAX]
    if len(data) > WRITTEN_MAX:
        text = text.decode(errors="ignore").encode()
    found = attached(name, Stretch(start, len(text)), text)
    return found if found.is_text else None


def _too_large(called: str, kind: str, size: int) -> str:
    return (
        f"{one_line(called)}: {kind} of {size:,} bytes, which is too large for a mail.\n"
        "It is in the folder of its conversation, under conversations/"
    )


def _note(text: str) -> Attached:
    return Attached("", Literal(text.encode()), is_plain=True, type="text/plain")
