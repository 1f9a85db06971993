"""Entries, contacts and policies of format 2 as those of format 8: the people had no key of ML-KEM,
and a namespace was any name of a key."""

import re
from typing import Final

from cbfs.earlier.old_records import OldContact, OldEntry
from cbfs.storage.encoding import pack
from cbfs_common.errors import DecodeError
from cbfs_common.limits import NAMESPACE_MAX
from cbfs_common.names.entry import Entry
from cbfs_common.names.note import LOG_KEY, NoteKey, parse_note_key
from cbfs_common.names.policy import Policy, parse_policy
from cbfs_common.profile import NO_KEM, Profile

_LOG: Final = "log "
_REFUSED: Final = re.compile("[^a-z0-9]+")


def bring_entry(old: OldEntry) -> bytes:
    """An entry of a name directory as a record has it."""
    keys = old.profile
    profile = Profile(keys.user_id, keys.signing, keys.auth, NO_KEM, keys.server)
    return Entry(
        *(old.name, old.incarnation, old.version, old.status, old.expires, old.round),
        *(old.previous, old.owners, old.recovery, profile.encode(), old.heirs, old.due),
    ).encode()


def bring_contact(old: OldContact) -> bytes:
    """A contact as a record. What was compared was a fingerprint of other keys than count now: who
    was verified is to be compared anew, when their new key is known."""
    offered = bring_entry(old.offered) if old.offered else b""
    return pack(
        *(bring_entry(old.entry), old.since, old.how, old.moved, 0, offered, old.stopped),
        *(old.doubted, old.warning, old.blocked, old.muted, old.standing, old.declined),
        *(old.petname, b"", 0),
    )


def bring_policy(text: str) -> Policy:
    """The policy of a name directory of before, with its namespace as one of now: it says which
    directory the names are of, and nobody is reached by it. Raises DecodeError."""
    lines = text.split("\n")
    found = [number for number, line in enumerate(lines) if line.startswith(_LOG)]
    if len(found) != 1:
        raise DecodeError(
            "the account, which is of an earlier cbfs, has no policy of a name directory",
            "use the cbfs that it was used with last, or restore an export",
        )
    key, _space, url = lines[found[0]].removeprefix(_LOG).partition(" ")
    log = parse_note_key(key, LOG_KEY)
    namespace = _REFUSED.sub("-", log.name.lower()).strip("-")[:NAMESPACE_MAX].strip("-")
    renamed = NoteKey(namespace or "before", LOG_KEY, log.public)
    lines[found[0]] = f"{_LOG}{renamed.encode()} {url}"
    return parse_policy("\n".join(lines))
