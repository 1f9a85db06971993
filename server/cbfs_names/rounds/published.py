"""Rounds that a quorum has published: handed on by whoever has them, and taken over from there."""

from cbfs_common.errors import TransportError
from cbfs_common.names.config import Config, config_of
from cbfs_common.names.equivocation import signed_by
from cbfs_common.names.note import SignedNote, parse_checkpoint, parse_note
from cbfs_common.names.trees import includes
from cbfs_names.limits import BLOCK_PAGES_MAX
from cbfs_names.state.block import Block, decode_block
from cbfs_names.state.replay import config_now
from cbfs_names.state.round_log import RoundLog
from cbfs_names.state.store import Snapshot, StateStore
from cbfs_names.wire.peer_link import PeerLink
from cbfs_names.wire.peer_messages import BLOCK_PAGE, BlockPage, GetBlock, Offer


def published(view: Snapshot, given: Config, encoded: bytes) -> SignedNote:
    """A head that the log and a quorum have signed, of the configuration in force in its round.
    Which that is after the rounds in ``view``, is not known there: then a quorum of the one in
    force there is taken, or of the one that the operator has ``given``. Raises TransportError,
    DecodeError."""
    note = parse_note(encoded)
    size = parse_checkpoint(note.text.decode("ascii")).size
    if size <= view.size():
        configs = [config_of(view.config_text(max(size - 1, 0)))]
    else:
        configs = [config_now(view), given]
    if not any(_signed(config, note) for config in configs):
        raise TransportError("a peer shows a head that no quorum has signed")
    return note


def _signed(config: Config, note: SignedNote) -> bool:
    signers = [name for name, key in config.witnesses if signed_by(key, note)]
    return signed_by(config.log, note) and config.satisfied(signers)


def offered(view: Snapshot, note: bytes, asked: int) -> Offer | None:
    """Round ``asked`` with the proof that it is in the published head ``note``; None when it is
    not."""
    size = parse_checkpoint(parse_note(note).text.decode("ascii")).size if note else 0
    if asked >= size:
        return None
    leaf = view.block(asked).round.digest()
    return Offer(note, leaf, True, RoundLog(size, view.log_hash).inclusion(asked), b"")


def page_of(data: bytes, page: int) -> BlockPage:
    """A page of an encoded block; empty: there is none."""
    pages = -(-len(data) // BLOCK_PAGE)
    return BlockPage(pages, data[page * BLOCK_PAGE : (page + 1) * BLOCK_PAGE])


async def fetch(link: PeerLink, round_: int, leaf: bytes) -> Block:
    """The block of a round with this leaf hash (32). Raises TransportError, DecodeError."""
    data, pages, page = b"", 1, 0
    while page < pages:
        found = await link.call(GetBlock(round_, page))
        if not isinstance(found, BlockPage) or found.pages > BLOCK_PAGES_MAX:
            raise TransportError("a peer answers something else")
        data, pages, page = data + found.data, found.pages, page + 1
    block = decode_block(data)
    if block.round.digest() != leaf or block.round.number != round_:
        raise TransportError("a peer sends another round than it offers")
    return block


async def fetch_published(
    link: PeerLink, store: StateStore, given: Config, offer: Offer, size: int
) -> Block:
    """The block of round ``size`` that is offered as published. Raises TransportError,
    DecodeError."""
    with store.read() as view:
        note = published(view, given, offer.head)
    there = parse_checkpoint(note.text.decode("ascii"))
    if not includes(size, there.size, offer.leaf, offer.proof, there.root):
        raise TransportError("a peer offers a round that is not in its head")
    return await fetch(link, size, offer.leaf)
