"""A line by which somebody is invited, or by which two who have accounts become contacts, and what
lies at the server for it. PROTOCOL.rst, Lines.

The line has the address of a message server and a secret. From the secret follow the key of an
account there, its ``drop``, and the keys of two envelopes in that account's mailbox: the record,
which tells who uses the line all that they need, and the answer, which tells who has made it that
they have come. The server sees an account like any other.

The secret is a hash of the record, in which there is a random salt: so it cannot be guessed, and
nobody who has the line can put another record in the place of the one for which it was made.

Whoever uses the line puts a mark of their own at the drop, which the server does only for the first
who does so.
"""

import base64
import binascii
from dataclasses import dataclass

import msgpack

from cbfs_common.errors import CryptoError, DecodeError
from cbfs_common.limits import (
    ENVELOPE_SIZE,
    INVITE_LINE_MAX,
    INVITE_SIZE,
    LINE_SALT_SIZE,
    LINE_SECRET_SIZE,
    MARK_SIZE,
    NAME_MAX,
    POLICY_MAX,
)
from cbfs_common.names.policy import parse_policy
from cbfs_common.names.registration import parse_token
from cbfs_common.newcomers import parse_server_invite
from cbfs_common.onion import is_onion_host, onion_host
from cbfs_common.person import check_name
from cbfs_common.primitives import (
    KEY_SIZE,
    NONCE_SIZE,
    TAG_SIZE,
    dh_public,
    equal,
    kdf,
    open_sealed,
    seal,
)
from cbfs_common.profile import Address
from cbfs_common.strict_msgpack import unpack

PREFIX = "cbfs-line:"
"""How a line begins; the rest is base32 without padding."""

VERSION = 1
_ONION = 0
"""Stands in the place of the length of a host name, where the 32 bytes of an onion address
follow."""

_ONION_LABEL = 56
_CHECK_SIZE = 4
_PORT_SIZE = 2
_LENGTH_SIZE = 2
_ROOM = ENVELOPE_SIZE - NONCE_SIZE - TAG_SIZE - _LENGTH_SIZE
_MISTYPED = "this line is mistyped, or not whole"
_COPY = "copy it again, from cbfs-line: to its end"
_FOREIGN = "what lies at the server for this line cannot be read"
_RECORD_FIELDS = 11
_ANSWER_FIELDS = 4


@dataclass(frozen=True, slots=True, repr=False)
class InviteLine:
    """``address`` of a message server, and the ``secret`` (LINE_SECRET_SIZE), which is that of a
    record: ``line_to``."""

    address: Address
    secret: bytes

    def text(self) -> str:
        """The line, of at most INVITE_LINE_MAX characters. Raises DecodeError where the server's
        name is too long for that."""
        body = bytes([VERSION]) + self.secret + self.address.key + _packed_place(self.address)
        data = body + _check(body)
        text = PREFIX + base64.b32encode(data).decode().rstrip("=").lower()
        if len(text) > INVITE_LINE_MAX:
            raise DecodeError(
                "the name of this server is too long for a line", "give the server a shorter one"
            )
        return text

    @property
    def key(self) -> bytes:
        """The X25519 secret (32) of the drop's account."""
        return self._derived(b"cbfs1 line drop", KEY_SIZE)

    @property
    def drop(self) -> bytes:
        """The drop's user id (32)."""
        return dh_public(self.key)

    def mark(self, user: bytes) -> bytes:
        """The mark (MARK_SIZE) that is put at the drop for the newcomer ``user`` (32)."""
        return kdf(self.secret, b"cbfs1 line mark", user, MARK_SIZE)

    def _derived(self, label: bytes, size: int) -> bytes:
        return kdf(self.secret, label, self.address.key, size)

    def sealed(self, value: "InviteRecord | LineArrival") -> bytes:
        """The envelope (ENVELOPE_SIZE) that the drop has of a record or an answer, the same each
        time. A server can bring two people to answer by one line, each of whom it shows that nobody
        has used it: so the nonce follows from what is sealed (as in RFC 5297). Raises DecodeError
        for a record that is too long."""
        plain = value.encode()
        if len(plain) > _ROOM:
            raise DecodeError(
                "the policy of this name directory is too long for a line",
                "give them the policy file: cbfs init NAME --names POLICYFILE; or, who has an"
                " account: cp POLICYFILE directories/",
            )
        padded = len(plain).to_bytes(_LENGTH_SIZE, "big") + plain.ljust(_ROOM, b"\0")
        label = _LABELS[type(value)]
        nonce = self._nonce(label, padded)
        return nonce + seal(self._derived(label, KEY_SIZE), nonce, padded)

    def open_record(self, envelope: bytes) -> "InviteRecord | None":
        """The record in an envelope; None when it is another one. Raises DecodeError, also for a
        record that the line was not made for."""
        plain = self._opened(envelope, _LABELS[InviteRecord])
        if plain is not None and not equal(_secret_of(plain), self.secret):
            raise DecodeError(
                "what lies at the server for this line is not what it was made for",
                "somebody else has read the line: ask for another, by another way",
            )
        return None if plain is None else decode_record(plain)

    def open_arrival(self, envelope: bytes) -> "LineArrival | None":
        """The answer in an envelope; None when it is another one. Raises DecodeError."""
        plain = self._opened(envelope, _LABELS[LineArrival])
        return None if plain is None else decode_arrival(plain)

    def _opened(self, envelope: bytes, label: bytes) -> bytes | None:
        nonce, sealed = envelope[:NONCE_SIZE], envelope[NONCE_SIZE:]
        try:
            padded = open_sealed(self._derived(label, KEY_SIZE), nonce, sealed)
        except CryptoError:
            return None
        if not equal(nonce, self._nonce(label, padded)):
            raise DecodeError(_FOREIGN)
        size = int.from_bytes(padded[:_LENGTH_SIZE], "big")
        plain, rest = padded[_LENGTH_SIZE:][:size], padded[_LENGTH_SIZE:][size:]
        if len(padded) != _LENGTH_SIZE + _ROOM or len(plain) != size or any(rest):
            raise DecodeError(_FOREIGN)
        return plain

    def _nonce(self, label: bytes, padded: bytes) -> bytes:
        return kdf(self.secret, b"cbfs1 line once", label + padded, NONCE_SIZE)


def is_line(text: str) -> bool:
    """Whether a text is meant as a line, be it right or mistyped."""
    return text.strip().lower().startswith(PREFIX)


def parse_line(text: str) -> InviteLine:
    """Undo ``InviteLine.text``; upper case is taken as well. Raises DecodeError, whose text has
    nothing of the line."""
    plain = text.strip().lower()
    if not plain.startswith(PREFIX):
        raise DecodeError("this is no line that invites", f"such a line begins with {PREFIX}")
    body = plain.removeprefix(PREFIX)
    try:
        data = base64.b32decode(body.upper() + "=" * (-len(body) % 8))
    except (binascii.Error, ValueError) as error:
        raise DecodeError(_MISTYPED, _COPY) from error
    inner = data[:-_CHECK_SIZE]
    if len(plain) > INVITE_LINE_MAX or not inner or not equal(data[-_CHECK_SIZE:], _check(inner)):
        raise DecodeError(_MISTYPED, _COPY)
    if inner[0] != VERSION:
        raise DecodeError("this line is of a later version of cbfs", "is there a newer one?")
    secret, rest = inner[1 : 1 + LINE_SECRET_SIZE], inner[1 + LINE_SECRET_SIZE :]
    line = InviteLine(_address(rest), secret)
    if line.text() != plain:
        raise DecodeError(_MISTYPED, _COPY)
    return line


def _check(body: bytes) -> bytes:
    return kdf(b"", b"cbfs1 line check", body, _CHECK_SIZE)


def _packed_place(address: Address) -> bytes:
    """port u16 | 0 | the onion's key 32; or port u16 | length u8 | host."""
    port, label = address.port.to_bytes(_PORT_SIZE, "big"), address.host.removesuffix(".onion")
    if len(label) == _ONION_LABEL and is_onion_host(address.host):
        return port + bytes([_ONION]) + base64.b32decode(label.upper())[:KEY_SIZE]
    host = address.host.encode("ascii")
    if len(host) > INVITE_LINE_MAX:
        raise DecodeError(
            "the name of this server is too long for a line", "give the server a shorter one"
        )
    return port + bytes([len(host)]) + host


def _address(data: bytes) -> Address:
    key, place = data[:KEY_SIZE], data[KEY_SIZE:]
    port, length, host = place[:_PORT_SIZE], place[_PORT_SIZE : _PORT_SIZE + 1], place[3:]
    if not host or len(host) != (length[0] or KEY_SIZE):
        raise DecodeError(_MISTYPED, _COPY)
    try:
        name = onion_host(host) if length[0] == _ONION else host.decode("ascii")
    except UnicodeDecodeError as error:
        raise DecodeError(_MISTYPED, _COPY) from error
    return Address(key, name, int.from_bytes(port, "big"))


@dataclass(frozen=True, slots=True, repr=False)
class InviteRecord:
    """What who uses a line needs. ``salt``: LINE_SALT_SIZE random bytes, of this line alone.
    ``expires``: until when the line is good (seconds since 1970).
    ``policy``: the text of the name directory's policy. ``token`` and ``invite``: the texts of the
    invites to the directory and to the server, empty where none is needed. ``name``: the only one
    that the newcomer may take, or empty. ``inviter`` and ``identity`` (32): who invites, by the
    name that this directory has, or both empty. ``contact``: it is for somebody who has an account,
    and is invited to nothing but to be a contact of the ``inviter``. ``grant``: by what the
    newcomer may invite others at the server (INVITE_SIZE), or empty."""

    salt: bytes
    expires: int
    policy: str
    token: str = ""
    invite: str = ""
    name: str = ""
    inviter: str = ""
    identity: bytes = b""
    contact: bool = False
    grant: bytes = b""

    def encode(self) -> bytes:
        """An array of the version and the fields."""
        packed: bytes = msgpack.packb(
            (
                *(VERSION, self.salt, self.expires, self.policy, self.token, self.invite),
                *(self.name, self.inviter, self.identity, int(self.contact), self.grant),
            )
        )
        return packed


@dataclass(frozen=True, slots=True)
class LineArrival:
    """Who has come: the ``name`` that the directory has, and the ``identity`` (32). ``policy``: the
    text of the policy of that directory; empty where it is that of who has invited."""

    name: str
    identity: bytes
    policy: str = ""

    def encode(self) -> bytes:
        """An array of the version and the fields."""
        packed: bytes = msgpack.packb((VERSION, self.name, self.identity, self.policy))
        return packed


_LABELS: dict[type, bytes] = {InviteRecord: b"cbfs1 line open", LineArrival: b"cbfs1 line come"}


def line_to(address: Address, record: InviteRecord) -> InviteLine:
    """The line for a record that is to lie at the server with this address."""
    return InviteLine(address, _secret_of(record.encode()))


def _secret_of(record: bytes) -> bytes:
    return kdf(b"", b"cbfs1 line hash", record, LINE_SECRET_SIZE)


def decode_record(data: bytes) -> InviteRecord:
    """Undo ``InviteRecord.encode``. Raises DecodeError."""
    match _fields(data, _RECORD_FIELDS):
        case [
            bytes(salt),
            int(expires),
            str(policy),
            str(token),
            str(invite),
            str(name),
            str(inviter),
            bytes(identity),
            (0 | 1) as contact,
            bytes(grant),
        ] if (
            len(salt) == LINE_SALT_SIZE
            and expires >= 0
            and len(policy) <= POLICY_MAX
            and len(identity) == _size_of(inviter)
            and len(grant) in {0, INVITE_SIZE}
            and not (contact and (token or invite or name or grant or not inviter))
        ):
            parse_policy(policy)
            if token:
                parse_token(token)
            if invite:
                parse_server_invite(invite)
            names = _name(name), _name(inviter)
            return InviteRecord(
                *(salt, expires, policy, token, invite, *names, identity), contact == 1, grant
            )
    raise DecodeError(_FOREIGN)


def decode_arrival(data: bytes) -> LineArrival:
    """Undo ``LineArrival.encode``. Raises DecodeError."""
    match _fields(data, _ANSWER_FIELDS):
        case [str(name), bytes(identity), str(policy)] if (
            name and len(identity) == KEY_SIZE and len(policy) <= POLICY_MAX
        ):
            if policy:
                parse_policy(policy)
            return LineArrival(_name(name), identity, policy)
    raise DecodeError(_FOREIGN)


def _fields(data: bytes, count: int) -> list[object]:
    """The fields behind the version. Raises DecodeError."""
    value = unpack(data, _FOREIGN, count)
    if type(value) is not list or not value or type(value[0]) is not int:
        raise DecodeError(_FOREIGN)
    if value[0] != VERSION:
        raise DecodeError(
            "what lies at the server for this line is of a later version of cbfs",
            "is there a newer one?",
        )
    if len(value) != count or any(type(each) is bool for each in value):
        raise DecodeError(_FOREIGN)
    return value[1:]


def _size_of(inviter: str) -> int:
    return KEY_SIZE if inviter else 0


def _name(text: str) -> str:
    if len(text) > NAME_MAX:
        raise DecodeError(_FOREIGN)
    return check_name(text) if text else ""
