"""What shows a client that an entry stands in the directory: evidence, and the bundle of it that
travels inside messages. PROTOCOL.rst, Names: evidence, bundle."""

from collections.abc import Iterable
from dataclasses import dataclass

from cbfs_common.errors import DecodeError, LimitError
from cbfs_common.limits import BUNDLE_MAX, HEAD_MAX
from cbfs_common.names.changes import HistoryLink, read_link
from cbfs_common.names.entry import ENTRY_MAX, ROUND_SIZE_MAX
from cbfs_common.names.layout import Fields, long, short
from cbfs_common.names.trees import MAP_PROOF_MAX, PROOF_MAX
from cbfs_common.person import DIRECTORY_SIZE

_BUNDLE_VERSION = 1
LINKS_MAX = 64
"""Links in one reply or bundle."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Nothing in it is believed before it is checked.

    ``note``: signed head. ``round``: the log's last leaf. ``log_proof``: that it is the last.
    ``map_proof`` and ``entry``: what the map has at the name's index; ``entry`` is empty when
    there is none.
    """

    note: bytes
    round: bytes
    log_proof: tuple[bytes, ...]
    map_proof: bytes
    entry: bytes

    def encode(self) -> bytes:
        """note u16+ | round u8+ | count u8, hashes | map proof u16+ | entry u16+."""
        return (
            long(self.note)
            + short(self.round)
            + encode_proof(self.log_proof)
            + long(self.map_proof)
            + long(self.entry)
        )


def encode_proof(proof: tuple[bytes, ...]) -> bytes:
    """count u8 | hashes (32 each)."""
    return bytes([len(proof)]) + b"".join(proof)


def read_proof(fields: Fields) -> tuple[bytes, ...]:
    """The next log proof of a layout. Raises DecodeError."""
    count = fields.number(1)
    if count > PROOF_MAX:
        raise fields.error()
    return fields.hashes(count)


def read_evidence(fields: Fields) -> Evidence:
    """The next Evidence of a layout. Raises DecodeError."""
    note, round_ = fields.long(), fields.short()
    log_proof = read_proof(fields)
    map_proof, entry = fields.long(), fields.long()
    if (
        len(note) > HEAD_MAX
        or len(round_) > ROUND_SIZE_MAX
        or len(map_proof) > MAP_PROOF_MAX
        or len(entry) > ENTRY_MAX
    ):
        raise fields.error()
    return Evidence(note, round_, log_proof, map_proof, entry)


def encode_links(links: tuple[HistoryLink, ...]) -> bytes:
    """count u8 | links."""
    return bytes([len(links)]) + b"".join(link.encode() for link in links)


def read_links(fields: Fields) -> tuple[HistoryLink, ...]:
    """The next links of a layout. Raises DecodeError."""
    count = fields.number(1)
    if count > LINKS_MAX:
        raise fields.error()
    return tuple(read_link(fields) for _ in range(count))


def newest_links(links: Iterable[HistoryLink], room: int) -> tuple[HistoryLink, ...]:
    """Of ``links``, newest first, as many as encode into ``room`` bytes; oldest first."""
    kept: list[HistoryLink] = []
    left = room - 1
    for link in links:
        left -= len(link.encode())
        if left < 0 or len(kept) == LINKS_MAX:
            break
        kept.append(link)
    return tuple(reversed(kept))


def encode_bundle(directory: bytes, evidence: Evidence, links: tuple[HistoryLink, ...]) -> bytes:
    """The bundle of a name of a directory (16), with as many of the newest of ``links`` (oldest
    first) as fit. Raises LimitError when the evidence alone is larger than BUNDLE_MAX."""
    head = bytes([_BUNDLE_VERSION]) + directory + evidence.encode()
    if len(head) + 1 > BUNDLE_MAX:
        raise LimitError("the proof of a name does not fit a message", "use a shorter profile")
    return head + encode_links(newest_links(reversed(links), BUNDLE_MAX - len(head)))


def decode_bundle(data: bytes) -> tuple[bytes, Evidence, tuple[HistoryLink, ...]]:
    """Undo ``encode_bundle``. Raises DecodeError."""
    if len(data) > BUNDLE_MAX:
        raise DecodeError("not a name's bundle")
    fields = Fields(data, "a name's bundle")
    if fields.number(1) != _BUNDLE_VERSION:
        raise fields.error()
    directory = fields.take(DIRECTORY_SIZE)
    evidence, links = read_evidence(fields), read_links(fields)
    fields.end()
    if not evidence.entry:
        raise fields.error()
    return directory, evidence, links
