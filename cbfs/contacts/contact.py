"""One contact: what is known of a person, how, and what stands in the way of writing to them."""

from dataclasses import dataclass, replace
from enum import Enum

from cbfs.storage.encoding import pack, unpack
from cbfs_common.errors import DecodeError
from cbfs_common.names.entry import Entry, decode_entry
from cbfs_common.person import directory_text
from cbfs_common.profile import NO_KEM, Profile, decode_profile


class How(Enum):
    """How a contact's keys became known."""

    DIRECTORY = "the name directory, asked for the name"
    BUNDLE = "a proof of the name directory, in a message of theirs"
    LINE = "a line that one of you gave the other (whoever read it on its way may have used it)"
    USER = "your word, after the name had a new owner"


class Standing(Enum):
    """What the user has decided about somebody so far."""

    KNOWN = "known"  # written to, or accepted
    LISTED = "listed"  # met in a conversation that somebody known has begun, or blocked
    STRANGER = "stranger"  # has written: what they send waits in requests/


class Mark(Enum):
    """What a user decides about a contact by a file of that name."""

    BLOCKED = "blocked"  # what they send is dropped, and nothing is sent to them
    MUTED = "muted"  # what they send is not shown as unread


_STANDINGS = {standing.value: standing for standing in Standing}


@dataclass(frozen=True, slots=True)
class Contact:
    """What is known of one person. Times are in milliseconds since 1970, 0 for never.

    ``entry``: the directory's, as last accepted. ``since``: first seen. ``moved``: when keys or
    home server last changed, by the owner's own signature. ``verified``: when the user compared
    fingerprints. ``offered``: an entry of the same name that only the user can accept, ``stopped``
    since when. ``doubted``: since when the change feed says that something has changed, and nobody
    knows what. ``warning``: what the directory did that does not fit, in words; or empty.
    ``blocked`` and ``muted``: since when the user wants that. ``declined``: when the user last
    declined their request. ``petname``: what the user calls them, empty for their name.
    ``directory``: the name directory that has their name (16), empty for one's own. ``rekeyed``:
    when the owner's signature last put other keys in the place of those that were known."""

    entry: Entry
    since: int
    how: How = How.DIRECTORY
    moved: int = 0
    verified: int = 0
    offered: Entry | None = None
    stopped: int = 0
    doubted: int = 0
    warning: str = ""
    blocked: int = 0
    muted: int = 0
    standing: Standing = Standing.KNOWN
    declined: int = 0
    petname: str = ""
    directory: bytes = b""
    rekeyed: int = 0

    def brought_back(self, now: int) -> "Contact":
        """This contact with no date later than ``now``: the clock was ahead when it was written."""
        return replace(
            self,
            since=min(self.since, now),
            moved=min(self.moved, now),
            verified=min(self.verified, now),
            stopped=min(self.stopped, now),
            doubted=min(self.doubted, now),
            blocked=min(self.blocked, now),
            muted=min(self.muted, now),
            declined=min(self.declined, now),
            rekeyed=min(self.rekeyed, now),
        )

    @property
    def name(self) -> str:
        """What they are called here, as ``Directories`` has it."""
        name = self.entry.name
        return f"{name}@{directory_text(self.directory)}" if self.directory else name

    @property
    def profile(self) -> Profile:
        """Their keys and home server."""
        return decode_profile(self.entry.profile)

    @property
    def is_outlived(self) -> bool:
        """Whether they are known from a name directory of long ago only, and by no key of ML-KEM:
        nothing can be sent to them before a directory of now shows their other keys."""
        return self.profile.kem == NO_KEM

    @property
    def followed(self) -> Entry | None:
        """The entry from which others of their name must follow; None where that is of another
        directory, from long ago."""
        return None if self.is_outlived else self.entry

    def is_taken_up(self, entry: Entry) -> bool:
        """Whether an entry of another directory is theirs, who are known from long ago: it has
        their keys, with one of ML-KEM, and an owner who is known as theirs has signed it. Keys
        alone anybody can name."""
        known, new = self.profile, decode_profile(entry.profile)
        same = (known.signing, known.auth) == (new.signing, new.auth)
        return same and set(entry.owners.keys) <= set(self.entry.owners.keys)

    def marked(self, mark: Mark) -> int:
        """Since when the user has blocked or muted them, 0 for not."""
        return self.blocked if mark is Mark.BLOCKED else self.muted

    def with_mark(self, mark: Mark, since: int) -> "Contact":
        """This contact after the user has blocked or muted them at ``since``; 0 undoes it."""
        blocked = mark is Mark.BLOCKED
        return replace(self, blocked=since) if blocked else replace(self, muted=since)

    @property
    def offered_profile(self) -> Profile | None:
        """The keys and home server that only the user can accept; None for none."""
        return None if self.offered is None else decode_profile(self.offered.profile)

    def moved_to(self, entry: Entry, now: int) -> "Contact":
        """This contact after a change that the owner has signed. Other keys have to be compared
        anew."""
        new, old = decode_profile(entry.profile), self.profile
        same = new.keys == old.keys
        return replace(
            self,
            entry=entry,
            moved=self.moved if new == old else now,
            verified=self.verified if same else 0,
            rekeyed=self.rekeyed if same else now,
            doubted=0,
            warning="",
        )

    def encode(self) -> bytes:
        """This contact as a record of ``Table.PEERS``."""
        return pack(
            self.entry.encode(),
            self.since,
            self.how.name,
            self.moved,
            self.verified,
            self.offered.encode() if self.offered else b"",
            self.stopped,
            self.doubted,
            self.warning,
            self.blocked,
            self.muted,
            self.standing.value,
            self.declined,
            self.petname,
            self.directory,
            self.rekeyed,
        )


def decode_contact(data: bytes) -> Contact:
    """The contact in a record that ``Contact.encode`` made. Raises DecodeError."""
    entry, since, how, moved, verified, offered, stopped, doubted, warning, *rest = unpack(
        data, bytes, int, str, int, int, bytes, int, int, str, int, int, str, int, str, bytes, int
    )
    blocked, muted, standing, declined, petname, directory, rekeyed = rest
    if how not in How.__members__ or standing not in _STANDINGS:
        raise DecodeError("a record of the store is damaged")
    contact = Contact(
        decode_entry(entry),
        since,
        How[how],
        moved,
        verified,
        decode_entry(offered) if offered else None,
        stopped,
        doubted,
        warning,
        blocked,
        muted,
        _STANDINGS[standing],
        declined,
        petname,
        directory,
        rekeyed,
    )
    decode_profile(contact.entry.profile)
    return contact
