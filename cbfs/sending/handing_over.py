"""Handing one envelope to the server of its recipient, and what that refuses, in words."""

from cbfs.contacts.contact import Contact
from cbfs.network.link import Link, ServerRefused, request
from cbfs_common.errors import CbfsError
from cbfs_common.wire.requests import Code, Deliver


async def hand_over(link: Link, contact: Contact, envelope: bytes) -> None:
    """Deliver one envelope. Raises CbfsError: LinkClosed, or why the server refuses it."""
    try:
        await request(link, Deliver(contact.profile.user_id, envelope))
    except ServerRefused as error:
        raise refusal_in_words(error) from error


_REFUSALS = {
    Code.UNKNOWN_USER: "their server does not know them",
    Code.MAILBOX_FULL: "their mailbox is full",
    Code.FULL: "their server has no room left",
    Code.SUSPENDED: "their server has suspended their account",
    Code.NO_PREKEY: "they have no prekey left, as they have not been online for long",
}


def refusal_in_words(error: CbfsError) -> CbfsError:
    """A refusal by the server, said of the recipient."""
    if isinstance(error, ServerRefused) and error.code in _REFUSALS:
        return CbfsError(_REFUSALS[error.code])
    return error
