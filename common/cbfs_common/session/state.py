"""What a session consists of, and its form in the store. PROTOCOL.rst, Session."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cbfs_common.errors import DecodeError
from cbfs_common.limits import SKIPPED_KEPT_MAX, SKIPPED_LIFETIME
from cbfs_common.primitives import KEM_PUBLIC_SIZE, KEY_SIZE, KemKey
from cbfs_common.session.envelope import (
    FIRST,
    FIRST_TERMS_SIZE,
    LATER,
    LATER_TERMS_SIZE,
    NUMBER_SIZE,
    Layout,
    Seal,
)
from cbfs_common.session.ratchet import (
    START_KEYS_SIZE,
    TURN_KEYS_SIZE,
    TurnKeys,
    decode_turn_keys,
    turn_public,
)

_VERSION = 1
_TIME_SIZE = 8
_LAYOUTS = {0: LATER, 1: FIRST}
_TERMS_SIZES = {0: LATER_TERMS_SIZE, 1: FIRST_TERMS_SIZE}


@dataclass(frozen=True, slots=True, repr=False)
class Party:
    """Oneself: ``Profile.identity`` (32), the long-term auth key pair (X25519, 32 each) and the
    static ML-KEM-768 key pair."""

    identity: bytes
    auth_secret: bytes
    auth_public: bytes
    kem: KemKey = field(compare=False)


@dataclass(frozen=True, slots=True)
class Peer:
    """The other side of a session: its ``Profile.identity``, its long-term auth public key and
    ``kem``, the ``kem_id`` of its static ML-KEM key; 32 bytes each."""

    identity: bytes
    auth_public: bytes
    kem: bytes


@dataclass(frozen=True, slots=True, repr=False)
class Core:
    """What changes at most once a turn: the start hash, one's own identity, the peer, the number of
    the newest turn of either side, its root key, and the header key of the turn that answers it."""

    start: bytes
    identity: bytes
    peer: Peer
    turn: int
    root: bytes
    next_header: bytes


@dataclass(frozen=True, slots=True, repr=False)
class Sending:
    """One's own last turn. ``number`` is the next n. ``keys`` wait for the peer's next turn and
    are None once it has come: then the next message turns first. ``recipient_kem`` is the peer's
    static ML-KEM public key (1184) in turn 0, and empty later."""

    seal: Seal
    chain_key: bytes
    number: int
    keys: TurnKeys | None
    recipient_kem: bytes = b""


Skipped = Mapping[int, tuple[bytes, int]]
"""n -> (message key 32, when it was skipped in seconds since 1970). Never changed in place."""


@dataclass(frozen=True, slots=True, repr=False)
class Receiving:
    """The peer's last turn. ``number`` is the next n that is expected; ``skipped`` has the keys
    of those before it that have not come."""

    seal: Seal
    chain_key: bytes
    number: int
    skipped: Skipped


@dataclass(frozen=True, slots=True, repr=False)
class Retired:
    """An earlier turn of the peer, of ``end`` messages, as far as late ones need it.
    ``digest`` stands for its terms."""

    layout: Layout
    header_key: bytes
    mac_key: bytes
    digest: bytes
    end: int
    skipped: Skipped


def add_skipped(skipped: Skipped, more: Skipped) -> Skipped:
    """Both; the newer ones come last."""
    return {**skipped, **more} if more else skipped


def without(skipped: Skipped, number: int) -> Skipped:
    """All but one."""
    return {n: entry for n, entry in skipped.items() if n != number}


def limit_skipped(
    receiving: Receiving | None, retired: tuple[Retired, ...]
) -> tuple[Receiving | None, tuple[Retired, ...]]:
    """Keep the newest SKIPPED_KEPT_MAX skipped keys. A retired chain goes with its last key; the
    newest one stays, so that copies of its envelopes are known for copies."""
    excess = sum(len(chain.skipped) for chain in retired) - SKIPPED_KEPT_MAX
    excess += len(receiving.skipped) if receiving else 0
    kept = []
    for chain in retired:
        skipped = _without_first(chain.skipped, excess)
        excess -= len(chain.skipped) - len(skipped)
        kept.append(chain if skipped is chain.skipped else replace(chain, skipped=skipped))
    if receiving is not None and excess > 0:
        receiving = replace(receiving, skipped=_without_first(receiving.skipped, excess))
    return receiving, (*(chain for chain in kept[:-1] if chain.skipped), *kept[-1:])


def expire_skipped(
    receiving: Receiving | None, retired: tuple[Retired, ...], now: int
) -> tuple[Receiving | None, tuple[Retired, ...]]:
    """Forget the skipped keys older than SKIPPED_LIFETIME at ``now`` (seconds)."""
    oldest = now - SKIPPED_LIFETIME
    if receiving is not None and receiving.skipped:
        receiving = replace(receiving, skipped=_since(receiving.skipped, oldest))
    retired = tuple(
        replace(chain, skipped=_since(chain.skipped, oldest)) if chain.skipped else chain
        for chain in retired
    )
    return limit_skipped(receiving, retired)


def bring_skipped_back(
    receiving: Receiving | None, retired: tuple[Retired, ...], now: int
) -> tuple[Receiving | None, tuple[Retired, ...]]:
    """After a clock was set back: skipped keys dated later than ``now`` (seconds since 1970) are
    dated ``now``, so that they grow old again."""
    if receiving is not None:
        receiving = replace(receiving, skipped=_until(receiving.skipped, now))
    return receiving, tuple(replace(chain, skipped=_until(chain.skipped, now)) for chain in retired)


def _until(skipped: Skipped, now: int) -> Skipped:
    return {n: (key, min(since, now)) for n, (key, since) in skipped.items()}


def _without_first(skipped: Skipped, count: int) -> Skipped:
    return dict(list(skipped.items())[count:]) if count > 0 else skipped


def _since(skipped: Skipped, oldest: int) -> Skipped:
    return {n: entry for n, entry in skipped.items() if entry[1] >= oldest}


@dataclass(frozen=True, slots=True, repr=False)
class State:
    """All of a session."""

    core: Core
    sending: Sending | None
    receiving: Receiving | None
    retired: tuple[Retired, ...]

    @property
    def next_receiving(self) -> bytes | None:
        """The header key of the peer's next turn; None when it is one's own that comes next."""
        waiting = self.sending is not None and self.sending.keys is not None
        return self.core.next_header if waiting else None

    def encode(self) -> bytes:
        """Fixed fields and counted lists, big-endian. PROTOCOL.rst does not fix this form: it
        never leaves the account. Holds secrets."""
        core = self.core
        out = [
            bytes((_VERSION, self.sending is not None, self.receiving is not None)),
            core.start,
            core.identity,
            core.peer.identity,
            core.peer.auth_public,
            core.peer.kem,
            core.root,
            core.next_header,
            _u32(core.turn),
        ]
        if self.sending is not None:
            keys = self.sending.keys
            _put_chain(out, self.sending)
            out += (bytes([keys is not None]), keys.encode() if keys else b"")
            out.append(self.sending.recipient_kem)
        if self.receiving is not None:
            _put_chain(out, self.receiving)
            _put_skipped(out, self.receiving.skipped)
        out.append(_u32(len(self.retired)))
        for chain in self.retired:
            out += (bytes([chain.layout is FIRST]), chain.header_key, chain.mac_key, chain.digest)
            out.append(_u32(chain.end))
            _put_skipped(out, chain.skipped)
        return b"".join(out)


def _u32(number: int) -> bytes:
    return number.to_bytes(NUMBER_SIZE, "big")


def _put_chain(out: list[bytes], chain: Sending | Receiving) -> None:
    seal = chain.seal
    out += (bytes([seal.layout is FIRST]), seal.header_key, seal.mac_key, seal.terms)
    out += (seal.digest, chain.chain_key, chain.number.to_bytes(_TIME_SIZE, "big"))


def _put_skipped(out: list[bytes], skipped: Skipped) -> None:
    out.append(_u32(len(skipped)))
    for number, (key, since) in skipped.items():
        out += (_u32(number), since.to_bytes(_TIME_SIZE, "big"), key)


def decode_state(data: bytes) -> State:
    """Undo ``State.encode``. Raises DecodeError."""
    reader = _Reader(data)
    if reader.number(1) != _VERSION:
        raise DecodeError("not a session")
    has_sending, has_receiving = reader.flag(), reader.flag()
    start, identity, peer, auth, kem, root, next_header = (reader.take(KEY_SIZE) for _ in range(7))
    turn = reader.number(NUMBER_SIZE)
    core = Core(start, identity, Peer(peer, auth, kem), turn, root, next_header)
    sending = reader.sending() if has_sending else None
    receiving = reader.receiving() if has_receiving else None
    retired = tuple(reader.retired() for _ in range(reader.number(NUMBER_SIZE)))
    if reader.offset != len(data):
        raise DecodeError("not a session")
    return State(core, sending, receiving, retired)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0

    def take(self, size: int) -> bytes:
        end = self.offset + size
        if end > len(self.data):
            raise DecodeError("not a session")
        taken = self.data[self.offset : end]
        self.offset = end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def flag(self) -> int:
        value = self.number(1)
        if value > 1:
            raise DecodeError("not a session")
        return value

    def chain(self) -> tuple[Seal, bytes, int]:
        first = self.flag()
        header_key, mac_key = self.take(KEY_SIZE), self.take(KEY_SIZE)
        terms = self.take(_TERMS_SIZES[first])
        seal = Seal(_LAYOUTS[first], header_key, mac_key, terms, self.take(KEY_SIZE))
        return seal, self.take(KEY_SIZE), self.number(_TIME_SIZE)

    def sending(self) -> Sending:
        seal, chain_key, number = self.chain()
        first = seal.layout is FIRST
        keys: TurnKeys | None = None
        if self.flag():
            secrets = self.take(START_KEYS_SIZE if first else TURN_KEYS_SIZE)
            keys = decode_turn_keys(secrets, turn_public(seal.layout, seal.terms))
        kem = self.take(KEM_PUBLIC_SIZE) if first else b""
        return Sending(seal, chain_key, number, keys, kem)

    def receiving(self) -> Receiving:
        return Receiving(*self.chain(), self.skipped())

    def retired(self) -> Retired:
        layout = _LAYOUTS[self.flag()]
        header_key, mac_key, digest = (self.take(KEY_SIZE) for _ in range(3))
        return Retired(
            layout, header_key, mac_key, digest, self.number(NUMBER_SIZE), self.skipped()
        )

    def skipped(self) -> Skipped:
        skipped = {}
        for _ in range(self.number(NUMBER_SIZE)):
            number, since = self.number(NUMBER_SIZE), self.number(_TIME_SIZE)
            skipped[number] = (self.take(KEY_SIZE), since)
        return skipped
