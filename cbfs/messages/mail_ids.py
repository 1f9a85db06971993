"""What messages and people are called in mail: Message-IDs and addresses, to text and back. Pure.

    <MESSAGE.CONVERSATION@cbfs.invalid>     both ids in lower-case hexadecimal
    bob@cbfs.invalid                        somebody of one's own name directory
    bob@example.org.cbfs.invalid            somebody who is shown as bob@example.org

No host is called so, nor ever will be (RFC 6761): what a mail program would send there by itself
goes nowhere.
"""

import re
from typing import NamedTuple

from cbfs_common.errors import DecodeError
from cbfs_common.messages.body import MESSAGE_ID_SIZE

DOMAIN = "cbfs" + ".invalid"
"""What all Message-IDs and addresses end with; no module of ours."""

LETTER_TEXT = "message"
"""What the text of a mail with attachments is called in the folder that it becomes."""

CONVERSATION_ID_SIZE = 16

_HEX = f"([0-9a-f]{{{2 * MESSAGE_ID_SIZE}}})", f"([0-9a-f]{{{2 * CONVERSATION_ID_SIZE}}})"
_MAIL_ID = re.compile(rf"<{_HEX[0]}\.{_HEX[1]}@{re.escape(DOMAIN)}>\Z")
_ADDRESS = re.compile(rf"([^@\s]+)@(?:([^@\s]+)\.)?{re.escape(DOMAIN)}\Z", re.ASCII | re.IGNORECASE)


class MailId(NamedTuple):
    """A message, by its id (16), and its conversation, by its id (16)."""

    message: bytes
    conversation: bytes

    def encode(self) -> str:
        """As the Message-ID of a mail, with its angle brackets."""
        return f"<{self.message.hex()}.{self.conversation.hex()}@{DOMAIN}>"


def parse_mail_id(text: str) -> MailId:
    """The message of a Message-ID, which stands alone in ``text``, with its angle brackets. Raises
    DecodeError for what ``MailId.encode`` does not give."""
    match = _MAIL_ID.match(text)
    if match is None:
        raise DecodeError("not the Message-ID of a message of cbfs")
    return MailId(bytes.fromhex(match[1]), bytes.fromhex(match[2]))


def mail_address(shown: str) -> str:
    """The address of somebody who is shown as ``bob``, or as ``bob@example.org`` of another name
    directory."""
    name, at, place = shown.partition("@")
    return f"{name}@{place}.{DOMAIN}" if at else f"{name}@{DOMAIN}"


def parse_mail_address(text: str) -> str:
    """What somebody is shown as who has this address, without a display name. It may be nobody's.
    Raises DecodeError for an address of another domain."""
    match = _ADDRESS.match(text)
    if match is None:
        raise DecodeError(f"not an address at {DOMAIN}", f"write to NAME@{DOMAIN}")
    name, place = match.groups()
    return f"{name}@{place}" if place else name
