"""What a contact's keys of before are still good for: nothing, but to read for FORMER_KEYS_GRACE
what was on its way when they were replaced. After a theft not even that.

Who replaces stolen keys begins a new life with everybody. So the first that is heard under the new
keys says whether those of before are in other hands.
"""

from collections.abc import Callable

from cbfs.contacts.contacts import ContactBatch, Contacts
from cbfs.contacts.sessions import Batch, Sessions
from cbfs_common.limits import FORMER_KEYS_GRACE
from cbfs_common.session.session import Session


def is_given_up(
    contacts: Contacts | ContactBatch,
    sessions: Sessions | Batch,
    name: str,
    session: Session,
    now: int,
) -> bool:
    """Whether nothing of a session with this contact counts any more at ``now`` (milliseconds):
    it is of keys that the contact has given up."""
    contact = contacts.get(name)
    if contact is None or contacts.of_identity(session.peer.identity) is contact:
        return False
    if now >= contact.rekeyed + FORMER_KEYS_GRACE * 1_000:
        return True
    identity = contacts.identity(name, contact.profile)
    return sessions.has_other_life(name, identity, session.peer_life)


def given_up(contacts: Contacts, sessions: Sessions, now: int) -> Callable[[str, Session], bool]:
    """``is_given_up`` of any contact's session at ``now`` (milliseconds)."""
    return lambda name, session: is_given_up(contacts, sessions, name, session, now)
