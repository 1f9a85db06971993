"""The queue of what peers are to be told in notes, as records of the store: receipts, questions,
offers.

A record ``key_part(peer) 16 | kind 1 | conversation 16 | message 16 | due u64`` says that the peer
is to be told something, when (``due``, milliseconds since 1970), how often it was told, and for
what is missing who has brought that about: anybody in a conversation can name what is not there,
and takes by that from nobody else's share. There is one for each message and kind. When it is due
stands in the key, which is in memory: whatever is written to somebody carries what is due, and of
those who do not answer for long very much is queued that is not. Everything that is due goes into
one note (``NoteDraft``). A record is put in the transaction of what makes it true, and taken away
or put off when its note has been delivered: a crash in between tells it again, which changes
nothing at the peer.
"""

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from operator import itemgetter

from cbfs.messages.history import explain_absence
from cbfs.messages.model import Conversation, Message
from cbfs.messages.order import Absence
from cbfs.storage.encoding import number_of, pack, u64, unpack
from cbfs.storage.records import KEY_PART_SIZE
from cbfs.storage.store import Meta, Reader, Table, Writer
from cbfs_common.limits import (
    ASK_AFTER,
    ASKS_MAX,
    NOTE_IDS_MAX,
    OFFER_AFTER,
    OFFERS_MAX,
    PROMPT_AFTER,
    WANTED_MAX,
)
from cbfs_common.messages.body import Note, Refs

REF_SIZE = 32
"""conversation 16 | message 16"""

NOTHING = bytes(REF_SIZE)
"""In the place of a message where a record is about none."""


class NoteKind(Enum):
    """What a peer is told."""

    NAME = b"n"  # one's own keys or server have changed: every note has the proof
    OFFER = b"o"  # sent to it, and nothing was heard of it
    RECEIPT = b"r"  # has arrived
    TAKEN_BACK = b"b"  # was written here, and is not sent
    TURN = b"t"  # nothing but an envelope, as the peer is owed a turn
    WANT = b"w"  # missing


_AGAIN = {
    NoteKind.WANT: (ASK_AFTER * 1_000, ASKS_MAX),
    NoteKind.OFFER: (OFFER_AFTER * 1_000, OFFERS_MAX),
}

_ANEW = frozenset((NoteKind.NAME, NoteKind.TURN))
"""A turn may be owed on another session, and the proof of one's name be a newer one."""

AT_ONCE = 2 * PROMPT_AFTER * 1_000
_LONGEST = {
    NoteKind.WANT: ASK_AFTER * 1_000,
    NoteKind.OFFER: OFFER_AFTER * 1_000,
    NoteKind.NAME: OFFER_AFTER * 1_000,
}
"""Milliseconds until something is due for the first time, at most."""

Dues = dict[str, int]
"""Peer -> when the first of what is queued for it is due, in milliseconds since 1970."""


@dataclass(frozen=True, slots=True)
class NoteItem:
    """One thing that a peer is to be told. ``ref`` is conversation 16 | message 16; ``due`` in
    milliseconds since 1970; ``tries``: how often it was told; ``by`` has brought it about."""

    peer: str
    kind: NoteKind
    ref: bytes
    due: int
    tries: int
    by: str

    def key(self, reader: Reader) -> bytes:
        """That of its record in ``Table.NOTE_ITEMS``."""
        return _subject(reader, self.peer, self.kind, self.ref) + u64(self.due)

    def encode(self) -> bytes:
        """What that holds."""
        return pack(self.peer, self.tries, self.by)


_KIND = slice(KEY_PART_SIZE, KEY_PART_SIZE + 1)
_REF = slice(_KIND.stop, _KIND.stop + REF_SIZE)
_DUE = slice(_REF.stop, None)
"""Its bytes sort as the numbers do: of a peer with many notes no number is read."""


def _subject(reader: Reader, peer: str, kind: NoteKind, ref: bytes) -> bytes:
    """What the key of a record begins with: all but when it is due."""
    return reader.key_part(peer.encode()) + kind.value + ref


def _due(key: bytes) -> int:
    return number_of(key[_DUE])


def _find(reader: Reader, peer: str, kind: NoteKind, ref: bytes) -> bytes | None:
    """The key of what is queued for ``peer`` of this kind about this."""
    return next(reader.keys(Table.NOTE_ITEMS, _subject(reader, peer, kind, ref)), None)


def _put(writer: Writer, item: NoteItem, old: bytes | None = None) -> None:
    """Write an item in the place of the one under the key ``old``."""
    key = item.key(writer)
    if old is not None and old != key:
        writer.delete(Table.NOTE_ITEMS, old)
    writer.put(Table.NOTE_ITEMS, key, item.encode())


def enqueue(
    writer: Writer, dues: Dues, peer: str, kind: NoteKind, ref: bytes, due: int, by: str = ""
) -> None:
    """Tell ``peer`` from ``due`` on. What is queued already stays as it is, but for an offer,
    which begins anew, and for what says another thing now, which is another item, by what it is
    ``by``: a note that is leaving settles that of before. Past WANTED_MAX nothing more is wanted
    from anybody because of what one peer says: ``by``."""
    old = _find(writer, peer, kind, ref)
    if old is not None:
        if kind in _ANEW:
            due, by = min(due, _due(old)), f"{writer.random_number():016x}"
        elif kind is not NoteKind.OFFER:
            return
    if kind is NoteKind.WANT and not _count(writer, by, 1):
        return
    _put(writer, NoteItem(peer, kind, ref, due, 0, by), old)
    dues[peer] = min(due, dues.get(peer, due))


def _count(writer: Writer, by: str, more: int) -> bool:
    """False, and nothing is counted, when it would be too many."""
    key = Meta.BROUGHT + writer.key_part(by.encode())
    count = number_of(writer.get(Table.META, key)) + more
    if count > WANTED_MAX:
        return False
    if count > 0:
        writer.put(Table.META, key, u64(count))
    else:
        writer.delete(Table.META, key)
    return True


def count_anew(writer: Writer) -> None:
    """Count again what is wanted because of whom, as some records may have been lost."""
    writer.delete_prefix(Table.META, Meta.BROUGHT)
    for key, data in list(writer.items(Table.NOTE_ITEMS)):
        item = _decode(key, data)
        if item.kind is NoteKind.WANT and not _count(writer, item.by, 1):
            writer.delete(Table.NOTE_ITEMS, key)


def _drop(writer: Writer, key: bytes) -> bool:
    item = _at(writer, key)
    if item is None:
        return False
    if item.kind is NoteKind.WANT:
        _count(writer, item.by, -1)
    return writer.delete(Table.NOTE_ITEMS, key)


def hasten(writer: Writer, dues: Dues, peer: str, due: int) -> None:
    """What was offered to ``peer`` in vain is offered again at ``due``: there is a session now that
    the peer is known to have. However often it was offered before, there are tries left."""
    for item in list(items_for(writer, peer, NoteKind.OFFER)):
        if item.tries and item.due > due:
            _put(writer, replace(item, due=due, tries=min(item.tries, 2)), item.key(writer))
            dues[peer] = min(due, dues.get(peer, due))


def announce(writer: Writer, peers: Iterable[str], due: int) -> None:
    """Tell these peers of a new proof of one's own name, from ``due`` on."""
    for peer in peers:
        enqueue(writer, {}, peer, NoteKind.NAME, NOTHING, due)


def dequeue(writer: Writer, peer: str, kind: NoteKind, ref: bytes) -> bool:
    """Take an item out of the queue. True when it was there."""
    key = _find(writer, peer, kind, ref)
    return key is not None and _drop(writer, key)


def _keys_for(reader: Reader, peer: str, kind: NoteKind | None = None) -> Iterator[bytes]:
    """Of all that is queued for one peer, of one kind or of all."""
    prefix = reader.key_part(peer.encode()) + (kind.value if kind else b"")
    return reader.keys(Table.NOTE_ITEMS, prefix)


def items_for(reader: Reader, peer: str, kind: NoteKind | None = None) -> Iterator[NoteItem]:
    """All that is queued for one peer, of one kind or of all."""
    for key in _keys_for(reader, peer, kind):
        item = _at(reader, key)
        if item is not None:
            yield item


def _at(reader: Reader, key: bytes) -> NoteItem | None:
    data = reader.get(Table.NOTE_ITEMS, key)
    return None if data is None else _decode(key, data)


def _decode(key: bytes, data: bytes) -> NoteItem:
    peer, tries, by = unpack(data, str, int, str)
    return NoteItem(peer, NoteKind(key[_KIND]), key[_REF], _due(key), tries, by)


def bring_back(writer: Writer, now: int) -> Dues:
    """Items that a wrong clock has put far ahead are due no later than if they had come about at
    ``now``. Gives when something is due to whom."""
    for key, data in list(writer.items(Table.NOTE_ITEMS)):
        item = _decode(key, data)
        latest = now + _LONGEST.get(item.kind, AT_ONCE) * 2**item.tries
        if item.due > latest:
            _put(writer, replace(item, due=latest), key)
    return load_dues(writer)


def load_dues(reader: Reader) -> Dues:
    """When something is due to whom."""
    first: dict[bytes, bytes] = {}
    for key in reader.keys(Table.NOTE_ITEMS):
        peer = key[:KEY_PART_SIZE]
        first[peer] = min(key, first.get(peer, key), key=_due)
    items = filter(None, (_at(reader, key) for key in first.values()))
    return {item.peer: item.due for item in items}


def is_due(reader: Reader, peer: str, now: int) -> bool:
    """Whether there is anything that a prompt client tells now."""
    return any(_due(key) <= now for key in _keys_for(reader, peer))


def _ready(reader: Reader, peer: str, now: int) -> list[NoteItem]:
    """What can be told to ``peer`` now, at most NOTE_IDS_MAX. Receipts go with whatever goes."""
    receipt, by = NoteKind.RECEIPT.value[0], u64(now)
    ready = [k for k in _keys_for(reader, peer) if k[KEY_PART_SIZE] == receipt or k[_DUE] <= by]
    ready.sort(key=itemgetter(_DUE))
    found = (_at(reader, key) for key in ready[:NOTE_IDS_MAX])
    return [item for item in found if item is not None]


def for_part(reader: Reader, peer: str, now: int, *, turns: bool) -> list[NoteItem]:
    """What can be told to ``peer`` in the note of a message, the first to be told first.
    ``turns``: the message makes the turn that is owed."""
    ready = _ready(reader, peer, now)
    return [item for item in ready if turns or item.kind is not NoteKind.TURN]


def refs_of(items: Iterable[NoteItem]) -> Refs:
    """As a body has them."""
    lists: dict[NoteKind, list[bytes]] = {kind: [] for kind in NoteKind}
    for item in items:
        lists[item.kind].append(item.ref)
    order = (NoteKind.RECEIPT, NoteKind.WANT, NoteKind.OFFER, NoteKind.TAKEN_BACK)
    return Refs(*(tuple(lists[kind]) for kind in order))


@dataclass(frozen=True, slots=True)
class NoteDraft:
    """A note to be sealed, which may be empty. ``items`` are settled by it."""

    items: list[NoteItem]

    @property
    def owes(self) -> bool:
        """Whether turns are due, on whatever session they are owed."""
        return any(item.kind is NoteKind.TURN for item in self.items)

    def note(self, bundle: bytes) -> Note:
        """The note as a body. ``bundle``: one's name proof, or empty."""
        return Note(refs_of(self.items), bundle)


def draft(reader: Reader, peer: str, now: int) -> NoteDraft:
    """All that can be told to ``peer`` at ``now`` (milliseconds)."""
    return NoteDraft(_ready(reader, peer, now))


def settle(writer: Writer, told: Iterable[NoteItem], now: int) -> list[Message]:
    """These have been told. What was taken away or put anew meanwhile is left alone. Gives the
    messages whose parents were wanted for the last time from who is said to have written them."""
    changed: list[Message] = []
    for item in told:
        key = item.key(writer)
        if _at(writer, key) != item:
            continue
        wait, most = _AGAIN.get(item.kind, (0, 0))
        if item.tries + 1 >= most:
            _drop(writer, key)
            if item.kind is NoteKind.WANT:
                place, id_ = item.ref[:16], item.ref[16:]
                changed += explain_absence(writer, place, item.peer, id_, Absence.IN_VAIN)
        else:
            due = now + wait * 2**item.tries
            _put(writer, replace(item, due=due, tries=item.tries + 1), key)
    return changed


def next_due(reader: Reader, peer: str) -> int | None:
    """When something is due to ``peer``, or None when nothing is queued."""
    return min(map(_due, _keys_for(reader, peer)), default=None)


def only_missed(reader: Reader, peer: str) -> bool:
    """Whether something is wanted from this one, and nothing else queued for them."""
    first = next(reader.keys(Table.NOTE_ITEMS, reader.key_part(peer.encode())), None)
    # the kinds are in the order of their letters, and this is the last
    return first is not None and first[_KIND] == NoteKind.WANT.value


@dataclass(frozen=True, slots=True)
class Missing:
    """So many messages of one conversation, and when they are asked for last."""

    count: int
    until: int


def missing(
    reader: Reader, blocked: Iterable[str] = (), but: Container[bytes] = ()
) -> dict[bytes, Missing]:
    """What is missing, by conversation, without messages that are in ``but``. Whom the user has
    ``blocked`` nobody asks."""
    silent = {reader.key_part(peer.encode()) for peer in blocked}
    wanted: dict[bytes, int] = {}
    for key in reader.keys(Table.NOTE_ITEMS):
        ref = key[_REF]
        passed_over = key[:KEY_PART_SIZE] in silent or ref in but
        if key[_KIND] == NoteKind.WANT.value and not passed_over:
            item = _decode(key, reader.get(Table.NOTE_ITEMS, key) or b"")
            last = item.due + ASK_AFTER * 1_000 * (2 ** (ASKS_MAX - 1) - 2**item.tries)
            wanted[ref] = max(last, wanted.get(ref, 0))
    found: dict[bytes, Missing] = {}
    for ref, last in wanted.items():
        before = found.get(ref[:16], Missing(0, 0))
        found[ref[:16]] = Missing(before.count + 1, max(last, before.until))
    return found


def unreceived(reader: Reader, peers: Iterable[str]) -> dict[str, int]:
    """How many messages to each are at the server, and without a receipt."""
    counts: dict[str, int] = {}
    for peer in peers:
        prefix = reader.key_part(peer.encode()) + NoteKind.OFFER.value
        count = sum(1 for _key in reader.keys(Table.NOTE_ITEMS, prefix))
        if count:
            counts[peer] = count
    return counts


def arrived(writer: Writer, people: Iterable[str], ref: bytes) -> bool:
    """A message is here: nobody of the ``people`` of its conversation is asked for it any more.
    True when somebody was to be."""
    return sum(dequeue(writer, peer, NoteKind.WANT, ref) for peer in people) > 0


def dequeue_wants(writer: Writer, conversation: Conversation) -> None:
    """Nobody is asked for what is missing in a conversation."""
    for peer in conversation.participants:
        for item in list(items_for(writer, peer, NoteKind.WANT)):
            if item.ref[:16] == conversation.id:
                _drop(writer, item.key(writer))
