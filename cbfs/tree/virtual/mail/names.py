"""What messages are called in mail/: ``1795445162.M12.cbfs`` in new/, and with what mail programs
have noted ``1795445162.M12.cbfs:2,FS`` in cur/. Pure.

The time (seconds since 1970) is when the message came, the number behind M its number in the
account: the same in each mount. mbsync puts ``,U=7`` in between, the number that it gave the
message. The letters are those of https://cr.yp.to/proto/maildir.html, in order: S for what is read,
T for what is to be deleted; programs have others of their own. mutt has letters in new/, too.
"""

import re
from dataclasses import dataclass

from cbfs.messages.marks.mail_notes import NOTHING, UID_MAX, Noted
from cbfs.messages.search_index import SEGMENT

READ, DELETED = "S", "T"

_SECONDS_MAX = 999_999_999_999
_SERIAL_BITS = 32 + (SEGMENT - 1).bit_length()
"""Of a segment, by whose number records are found, and of the place in it."""

_NAME = re.compile(
    r"(0|[1-9][0-9]{0,11})\.M([1-9][0-9]{0,18})\.cbfs(?:,U=([1-9][0-9]{0,9}))?(?::2,([A-Za-z]*))?\Z",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class MailName:
    """What the name of a file in new/ (``is_new``) or cur/ says. ``seconds`` since 1970; ``uid`` is
    0 where mbsync has given no number."""

    seconds: int
    serial: int
    uid: int
    flags: str
    is_new: bool

    def has(self, flag: str) -> bool:
        """Whether it has this flag."""
        return flag in self.flags

    @property
    def noted(self) -> Noted:
        """What is kept of it, besides whether the message is read."""
        flags = "".join(each for each in self.flags if each not in READ + DELETED)
        return Noted(flags, self.uid, taken=not (self.is_new or self.has(READ)))

    def encode(self) -> str:
        """The name."""
        uid = f",U={self.uid}" if self.uid else ""
        flags = "" if self.is_new and not self.flags else f":2,{self.flags}"
        return f"{self.seconds}.M{self.serial}.cbfs{uid}{flags}"


def read_mail_name(text: str, *, is_new: bool) -> MailName | None:
    """What a name in new/, or in cur/, says; None for one that no file there can have."""
    match = _NAME.match(text)
    if match is None:
        return None
    seconds, serial, uid, flags = match.groups()
    found = MailName(int(seconds), int(serial), int(uid or 0), flags or "", is_new)
    if found.uid > UID_MAX or found.serial >> _SERIAL_BITS or (is_new and found.has(READ)):
        return None
    ordered = "".join(sorted(set(found.flags)))
    return found if ordered == found.flags and found.encode() == text else None


def name_in_mail(received: int, serial: int, noted: Noted, *, unread: bool) -> MailName:
    """What a message is called that came at ``received`` (milliseconds since 1970)."""
    seconds = min(max(0, received // 1_000), _SECONDS_MAX)
    flags = noted.flags if unread else "".join(sorted(noted.flags + READ))
    return MailName(seconds, serial, noted.uid, flags, unread and not noted.taken)


def text_in_mail(received: int, serial: int, noted: Noted, *, unread: bool) -> str:
    """As ``name_in_mail``, encoded: there may be a million of them."""
    if noted is NOTHING and 0 <= received < _SECONDS_MAX * 1_000:
        return f"{received // 1_000}.M{serial}.cbfs{'' if unread else ':2,S'}"
    return name_in_mail(received, serial, noted, unread=unread).encode()
