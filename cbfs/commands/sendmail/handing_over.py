"""A letter becomes drafts in the outbox of a mount, by its files alone.

Each message is made in tmp/, and is in the outbox by one rename: whole, or not at all. First all
are put there. What is for people who are no contacts yet is then waited for until the mount has
sent it, as nobody may have such a name: it is taken back if so. Once one is in, no error says that
nothing was sent, which would have it sent twice.
"""

import errno
import os
import secrets
import shutil
import time
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tomli_w

from cbfs.commands.process.entry import PROGRAM
from cbfs.commands.sendmail.letter import Letter, Recipient, groups_of, within
from cbfs.commands.sendmail.logins import check_logins
from cbfs.commands.sendmail.options import Exit, NotSent
from cbfs.commands.sendmail.places import conversation_name, subject_mark
from cbfs.commands.sendmail.threads import Threads
from cbfs.messages.file_names import ERROR_SUFFIX, free_name
from cbfs.messages.mail_ids import DOMAIN
from cbfs.tree.rules import METADATA
from cbfs_host.complaints import say

LOOK_UP_MAX: Final = 30.0
"""Seconds for which a letter to somebody who is no contact is waited for."""

_LOOK: Final = 0.05
_NO_PERSON: Final = (
    *("nobody is called", "user name", "do not follow", "was given up", "has expired"),
)
"""What error files say of somebody whom nobody can write to."""

_REFUSED = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.EFBIG)
_ENDED = (errno.ENOTCONN, errno.ECONNABORTED)
"""What a mount says whose daemon has ended, maybe after it did what it was asked."""


@dataclass(frozen=True, slots=True)
class _Draft:
    """A message in the outbox: for whom, whether all of them are known, and whether its folder was
    ``begun`` with it."""

    path: Path
    others: tuple[str, ...]
    known: bool
    begun: bool


@dataclass(frozen=True, slots=True)
class _GoesOn:
    """A folder in the outbox, and what its conversation is about."""

    folder: Path
    subject: str


class MountOutbox:
    """The outbox of what is mounted at ``mount``."""

    def __init__(self, mount: Path) -> None:
        self._mount = mount
        self._outbox = mount / "outbox"
        self._conversations = mount / "conversations"
        self._contacts = set(os.listdir(mount / "contacts"))  # noqa: PTH208 - names
        self._me = str(_table(mount / "profile.toml").get("name", ""))
        self._threads = Threads(mount)

    def take(self, letter: Letter) -> None:
        """Put a letter there, for all, and wait for those whom it must wait for. Raises NotSent,
        OSError; the latter only while nothing of it is in the outbox."""
        people = [*letter.together, *letter.apart]
        check_logins(people, {*self._contacts, self._me})
        self._check_directories(people)
        groups = groups_of(letter, self._owner)
        stage = self._mount / "tmp" / f"mail-{secrets.token_hex(8)}"
        stage.mkdir()
        made: list[tuple[Path, _GoesOn | None]] = []
        sent: list[_Draft] = []
        left: NotSent | None = None
        try:
            made = [self._made(letter, group, stage / str(at)) for at, group in enumerate(groups)]
            for group, (item, place) in zip(groups, made, strict=True):
                sent.append(self._put(letter, group, item, place))
        except OSError as error:
            if not sent and error.errno not in (_REFUSED + _ENDED if made else _REFUSED):
                raise
            left = self._not_taken(error)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
        missed = [name for group in groups[len(sent) :] for name in self._without_me(group)]
        limit = time.monotonic() + LOOK_UP_MAX
        for draft in list(sent):
            try:
                self._wait(draft, limit)
            except NotSent as error:
                sent.remove(draft)
                missed += draft.others
                left = left or error
        if left is not None:
            raise _partly(left, [name for each in sent for name in each.others], missed)

    def _not_taken(self, error: OSError) -> NotSent:
        what = (error.strerror or "").lower()
        if error.errno in _ENDED:
            return NotSent(
                Exit.UNAVAILABLE,
                f"the mount has ended meanwhile, maybe with the message in its outbox: {what}",
                "look there before you send it again",
            )
        return NotSent(
            Exit.UNAVAILABLE,
            f"the mount does not take it: {what}",
            f"see: cbfs status {self._mount}",
        )

    def _check_directories(self, people: list[Recipient]) -> None:
        """Raises NotSent for somebody of a name directory that is not followed."""
        followed = set(os.listdir(self._mount / "directories"))  # noqa: PTH208 - names
        for each in people:
            place = each.name.partition("@")[2]
            if place and each.name not in self._contacts and place not in followed:
                raise NotSent(
                    Exit.NOUSER,
                    f"nobody can be called {each.name} here",
                    f"for an address of mail, name the person; to follow the name directory"
                    f" {place}: cp POLICY {self._mount}/directories/",
                )

    def _made(
        self, letter: Letter, group: tuple[str, ...], place: Path
    ) -> tuple[Path, _GoesOn | None]:
        """The message in a folder of its own, under the name that it is to have; and where it goes
        on."""
        goes_on = self._place(letter, self._without_me(group))
        return _written(letter, place, goes_on), goes_on

    def _owner(self, label: str) -> str:
        """The true name of whom a label means; no name when it cannot be read."""
        if label in self._contacts:
            table = _table(self._mount / "contacts" / label / "profile.toml")
            return str(table.get("name", f"?{label}"))
        return label.removeprefix("@")

    def _without_me(self, group: tuple[str, ...]) -> list[str]:
        """Oneself is written to when one is alone."""
        return [name for name in group if name != self._me] or [self._me]

    def _put(
        self, letter: Letter, group: tuple[str, ...], item: Path, place: _GoesOn | None
    ) -> _Draft:
        others = self._without_me(group)
        known = all(map(self._is_known, others))
        if place is None and (place := self._place(letter, others)) is not None:
            item = _written(
                letter, item.parent.parent / "again", place
            )  # somebody has begun it meanwhile
        if place is not None:
            try:
                path = _moved(item, place.folder)
            except FileNotFoundError:  # it has been sent, and the folder has another name
                if not item.exists():
                    raise
                place = self._place(letter, others)
                item = _written(letter, item.parent.parent / "once more", place)
            else:
                self._threads.remember(letter.root, self._people(others), place.subject)
                return _Draft(path, tuple(others), known, begun=False)
        path = self._begun(letter, others, item) if place is None else _moved(item, place.folder)
        subject = letter.subject if place is None else place.subject
        self._threads.remember(letter.root, self._people(others), subject)
        return _Draft(path, tuple(others), known, place is None)

    def _is_known(self, name: str) -> bool:
        """Whether nothing is in the way of a message to them, as far as can be seen."""
        folder = self._mount / "contacts" / name
        if name == self._me:
            return True
        if name not in self._contacts:
            return False
        return not any((folder / mark).exists() for mark in ("blocked", "CHANGED"))

    # conversations

    def _people(self, others: list[str]) -> set[str]:
        """Those who are in the conversation with these, as its metadata.toml has them."""
        return {self._true(name) for name in (*others, self._me)}

    def _place(self, letter: Letter, others: list[str]) -> _GoesOn | None:
        """The conversation in which a letter goes on: the one that it answers, or the newest of the
        same people about the same subject, or the one into which what it answers has gone. What is
        for other people than those who are in a conversation never goes there."""
        people = self._people(others)
        subject = letter.subject
        for answered in letter.answers:
            name = self._named(answered.conversation.hex())
            if name:
                table = _table(self._conversations / name / METADATA)
                if self._fits(name, table, people):
                    return _GoesOn(self._outbox / name, str(table.get("subject", "")))
                subject = str(table.get("subject", subject))
                break
        is_in_thread = self._threads.about(letter.root, people)
        found = self._about(people, bool, is_in_thread) if is_in_thread else None
        return found or self._about(people, subject_mark(subject), subject.__eq__)

    def _about(
        self, people: set[str], mark: Callable[[str], bool], is_about: Callable[[str], bool]
    ) -> _GoesOn | None:
        """The newest conversation of these people whose subject is the right one. ``mark``: whether
        the folder of that name may be one of such a subject."""
        for name in self._newest():
            if mark(name):
                table = _table(self._conversations / name / METADATA)
                subject = str(table.get("subject", ""))
                if is_about(subject) and self._fits(name, table, people):
                    return _GoesOn(self._outbox / name, subject)
        return self._begun_for(people, is_about)

    def _begun_for(self, people: set[str], is_about: Callable[[str], bool]) -> _GoesOn | None:
        """The folder in the outbox in which somebody has just begun a conversation of these people
        about this, that has not been sent yet."""
        for name in sorted(os.listdir(self._outbox)):  # noqa: PTH208 - names
            folder = self._outbox / name
            if folder.is_symlink() or (self._conversations / name).exists():
                continue
            table = _table(folder / METADATA)
            there = table.get("participants", [])
            if not (isinstance(there, list) and all(isinstance(each, str) for each in there)):
                continue
            named = {self._true(each) for each in there} | {self._true(self._me)}
            about = str(table.get("subject", ""))
            if there and named == people and is_about(about):
                return _GoesOn(folder, about)
        return None

    def _fits(self, name: str, table: dict[str, Any], people: set[str]) -> bool:
        there = table.get("participants", [])
        folder = self._outbox / name
        return set(there) == people and folder.is_dir() and not folder.is_symlink()

    def _named(self, identity: str) -> str:
        """What the folder of a conversation is called, by its id in hexadecimal, or empty."""
        for name in self._newest():
            with suppress(OSError):
                if os.getxattr(self._conversations / name, "user.cbfs.id") == identity.encode():
                    return name
        return ""

    def _newest(self) -> list[str]:
        return sorted(os.listdir(self._conversations), reverse=True)  # noqa: PTH208 - names

    def _true(self, name: str) -> str:
        """What stands in metadata.toml for somebody who is written to as ``name``."""
        if name not in self._contacts:
            return name
        true = str(_table(self._mount / "contacts" / name / "profile.toml").get("name", name))
        return f"@{true}" if f"@{true}" in self._contacts else true

    def _begun(self, letter: Letter, others: list[str], item: Path) -> Path:
        """Where the message is in the outbox, in a new conversation."""
        fresh = item.parent.parent / "new"
        fresh.mkdir()
        table = {"participants": others, "subject": letter.subject}
        _write(fresh / METADATA, tomli_w.dumps(table).encode())
        item.rename(fresh / item.name)
        name = conversation_name(others, letter.subject)
        while True:
            free = free_name(name, lambda each: os.path.lexists(self._outbox / each))
            try:
                fresh.rename(self._outbox / free)
            except OSError as error:  # somebody else was faster
                if error.errno not in {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}:
                    raise
            else:
                return self._outbox / free / item.name

    # what becomes of it

    def _wait(self, draft: _Draft, limit: float) -> None:
        """Until the mount has sent a draft to people who are not known, or ``limit``. Raises
        NotSent when it cannot be sent: then it is not in the outbox any more, nor the folder that
        was begun with it. What cannot be learned is said, and is no reason to send it again."""
        if draft.known:
            return
        while True:
            try:
                why = _attribute(draft.path, "user.cbfs.error")
            except FileNotFoundError:
                return
            except OSError:
                break
            if why and self._is_taken_back(draft.path, begun=draft.begun):
                what, _, hint = why.strip().partition("\nWhat to do: ")
                raise NotSent(
                    Exit.NOUSER if any(map(what.__contains__, _NO_PERSON)) else Exit.UNAVAILABLE,
                    what.removeprefix("This was not sent: ").rstrip("."),
                    _own_hint(draft.others, what) or hint.rstrip("."),
                )
            if time.monotonic() >= limit:
                break
            time.sleep(_LOOK)
        say(
            f"{PROGRAM}: {', '.join(draft.others)}: not looked up yet; the message is in the"
            f" outbox, and cbfs status {self._mount} says what becomes of it\n"
        )

    def _is_taken_back(self, draft: Path, *, begun: bool) -> bool:
        away = self._mount / "tmp" / f"mail-{secrets.token_hex(8)}"
        try:
            draft.rename(away)
        except OSError:
            return False  # it has been sent after all
        if os.path.isdir(away):  # noqa: PTH112 - of a mount that has ended, Path.is_dir raises
            shutil.rmtree(away, ignore_errors=True)
        else:
            with suppress(OSError):  # tmp/ is emptied at unmount
                away.unlink()
        if begun:  # the folder of a conversation must stay: without it one has left
            with suppress(OSError):
                _remove_begun(draft.parent)
        return True


def _own_hint(others: tuple[str, ...], what: str) -> str:
    """What helps the writer of a letter against ``what`` went wrong, who has no folder: with the
    address of somebody who is called so here, and has another name, or a name that nobody has; else
    empty."""
    for each in others:
        if each.startswith("@") and each in what:
            return f"to write to whom you call {each[1:]}, leave out @{DOMAIN}"
    return "mend the name" if _NO_PERSON[0] in what else ""


def _remove_begun(folder: Path) -> None:
    """Remove a folder that a draft was begun with and is not in any more, unless somebody has put
    something else there. Raises OSError."""
    people = folder / METADATA
    if any(each.name != METADATA and each.suffix != ERROR_SUFFIX for each in folder.iterdir()):
        return
    said = people.read_bytes()
    people.unlink()
    try:
        folder.rmdir()  # error files go with it
    except OSError:
        _write(people, said)  # what came just now is for the same people


def _partly(error: NotSent, sent: list[str], missed: list[str]) -> NotSent:
    """An error that says who has got the message all the same. Its code is then none that programs
    try again for."""
    if not sent:
        return error
    return NotSent(
        error.code,
        f"sent to {', '.join(sent)}, not to {', '.join(missed)}: {error}",
        f"{error.hint}; then send it to {', '.join(missed)} alone" if error.hint else "",
    )


def _written(letter: Letter, place: Path, goes_on: _GoesOn | None) -> Path:
    """The message in a folder of its own, in the new folder ``place``, under the name that it is to
    have, whatever that is."""
    told = letter if goes_on is None else within(letter, goes_on.subject)
    place.mkdir()
    place = place / "item"
    place.mkdir()
    if not told.folder:
        item = place / f"mail-{secrets.token_hex(8)}"
        _write(item, told.files[0][1])
        return item
    item = place / told.folder
    item.mkdir()
    for name, content in told.files:
        _write(item / name, content)
    return item


def _moved(item: Path, place: Path) -> Path:
    """Put a message into the folder of a conversation, under its own name or one that is free."""
    while True:
        name = free_name(item.name, lambda each: os.path.lexists(place / each))
        try:
            item.rename(place / name)
        except OSError as error:
            if error.errno not in {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}:
                raise
        else:
            return place / name


def _write(path: Path, content: bytes) -> None:
    """A file is on the disk when close says nothing else."""
    with path.open("xb") as file:
        file.write(content)


def _table(path: Path) -> dict[str, Any]:
    """A file of the mount's that is TOML, empty when it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _attribute(path: Path, name: str) -> str:
    """An extended attribute, empty when there is none. Raises FileNotFoundError."""
    try:
        return os.getxattr(path, name).decode(errors="replace")
    except OSError as error:
        if error.errno == errno.ENODATA:
            return ""
        if error.errno in {errno.ENOENT, errno.ESTALE}:
            raise FileNotFoundError(errno.ENOENT, str(path)) from error
        raise
