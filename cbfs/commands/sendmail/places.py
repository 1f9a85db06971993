"""What the folders of conversations are called in which a letter begins one, or goes on, and what a
letter of several files is called in there. Pure."""

from collections.abc import Callable, Sequence
from typing import Final

from cbfs.messages.file_names import folder_name, shown_file_name
from cbfs.tree.rules import METADATA, folder_taken_for, is_own
from cbfs_common.limits import FILE_NAME_MAX

MARK_MAX: Final = 60
"""Characters of a subject by which folders are chosen that are looked into."""

_BYTES_MAX: Final = 200
"""Bytes of a folder's name: it may get a number."""


def subject_mark(subject: str) -> Callable[[str], bool]:
    """Whether the folder of this name may be that of a conversation about ``subject``."""
    stem = folder_name(0, "x", (), "", lambda _name: False)
    tail = folder_name(0, "x", (), subject, lambda _name: False)[len(stem) :][:MARK_MAX]
    if not tail.strip():
        return lambda name: " " not in name or name.partition(" ")[2].startswith("(")
    return lambda name: tail in name


def conversation_name(people: Sequence[str], subject: str) -> str:
    """What a folder is called that begins a conversation; its metadata.toml says what counts."""
    listed = ",".join(people)
    name = shown_file_name(f"{listed[: _BYTES_MAX // 2]} {subject}".strip())
    return name.encode()[:_BYTES_MAX].decode(errors="ignore").rstrip(" .")


def message_name(text: str) -> str:
    """``text`` as the name of a folder that is a message: none by which it would be taken for what
    is never sent, or for the list of the people who get it."""
    name = shown_file_name(text)
    while folder_taken_for(name) or is_own(name) or name == METADATA:
        name = marked(name)
    return name


def marked(name: str) -> str:
    """A name that differs from this one by its last letter alone, and is as short as a name may
    be."""
    return name.encode()[: FILE_NAME_MAX - 1].decode(errors="ignore") + "_"
