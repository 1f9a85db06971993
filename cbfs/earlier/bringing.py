"""The records of a store of format 2, written into a new store as those of format 8.

All that people see comes along: messages with content, sender, time and conversation; contacts,
with what the user has decided of them; requests; settings; what programs have saved; and one's own
messages that had not left. Sessions and prekeys do not, nor what was only theirs: envelopes,
receipts that were due, files that had come in part.

People had no key of ML-KEM, and their entries lay in a directory that nobody asks any more: a
profile of theirs says so by ``NO_KEM`` of ``cbfs_common.profile``. One's own keys are those of
before, with a new one of ML-KEM beside them; the own entry says ``NO_KEM`` as well, until the name
is registered anew.

A message was named by an id that its sender chose; its hash follows from that here, the same at
everybody who had it. What else follows from messages (pages, names of files, words) is made by the
next mount, as it is after a restore.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from cbfs.earlier.old_records import (
    OldContent,
    OldConversation,
    OldMessage,
    OldRequest,
    read_account,
    read_contact,
    read_conversation,
    read_entry,
    read_heads,
    read_lifetime,
    read_message,
    read_node,
    read_relabelled,
    read_request,
)
from cbfs.earlier.profiles import bring_contact, bring_entry, bring_policy
from cbfs.earlier.requests import bring_requests
from cbfs.storage.encoding import number_of, pack, u32, u64
from cbfs.storage.records import Meta, Series, Table, Writer
from cbfs.storage.store import Store
from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.messages.body import part_capacity
from cbfs_common.person import Person, check_name
from cbfs_common.primitives import KEM_SEED_SIZE, Random, kdf

FORMAT: Final = 8
"""Of the records that are written here."""

GROUP: Final = 256
"""Records that are written in one transaction."""

GROUP_SIZE: Final = 1 << 22
"""Bytes of values of one transaction, beyond which it takes no more."""

_SEED_SIZE = 16
_HOUR = 3_600_000
_KEPT: Final = (Meta.OWN_SERVER, Meta.SETTINGS)
_WANTED: Final = (
    *(b"account", b"own", b"counter ", b"gone ", b"heads ", b"lifetime ", b"relabel ", b"wrote "),
    *_KEPT,
)
"""How the keys of the records begin that are needed of the table meta; of all others, of which
there may be as many as messages, nothing is kept in memory."""

T = TypeVar("T")

Record = tuple[bytes, bytes, bytes]


def bring_over(
    store: Store, records: Iterable[Record], random: Random, upgrade: Callable[[Writer], None]
) -> None:
    """Write the records of a store of format 2, in the order of ``old_store.TABLES``, into
    ``store``, in which there is nothing. In the last transaction ``upgrade`` brings format 8 to the
    newest; without that transaction ``store`` is no account. Raises CbfsError."""
    work = _Bringing(store, random)
    for group in _groups(records):
        work.take(group)
    work.finish(upgrade)


def _groups(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Records of one table each, as many as go into one transaction."""
    group: list[Record] = []
    size = 0
    for record in records:
        full = len(group) == GROUP or size > GROUP_SIZE
        if group and (full or record[0] != group[0][0]):
            yield group
            group, size = [], 0
        group.append(record)
        size += len(record[2])
    if group:
        yield group


class _Bringing:
    """``meta`` has what is needed of that table. Of messages, those of one conversation are in
    memory. What a change does to anything but its writer it may do twice."""

    def __init__(self, store: Store, random: Random) -> None:
        self._store = store
        self._random = random
        self._meta: dict[bytes, bytes] = {}
        self._conversations: dict[bytes, OldConversation] = {}
        self._messages: list[OldMessage] = []
        self._requests: list[OldRequest] = []
        self._ends: dict[bytes, int] = {}
        self._contents: set[int] = set()
        self._used: set[int] = set()

    def take(self, group: list[Record]) -> None:
        """Some records of one table."""
        table, rows = group[0][0], [(key, value) for _table, key, value in group]
        if table == b"meta":
            self._meta |= {key: value for key, value in rows if key.startswith(_WANTED)}
            if b"account next" in self._meta:
                raise CbfsError(
                    "a change of the account's keys or server is not finished, and an earlier cbfs"
                    " has begun it",
                    "finish it with that one first: repeat the command that was cut off",
                )
        elif table == b"requests":
            self._requests += [read_request(value) for _key, value in rows]
        elif table == b"messages":
            for key, value in rows:
                self._take_message(read_message(key, value))
        else:
            if table == b"content":
                self._contents |= {number_of(key[:8]) for key, _value in rows}
            self._store.write(lambda writer: self._put(writer, table, rows))

    def finish(self, upgrade: Callable[[Writer], None]) -> None:
        """Write what is left, and the account itself."""
        self._put_messages()
        account = read_account(self._needed(b"account"))
        policy = bring_policy(account.policy)
        requests = bring_requests(self._requests, policy.directory)
        kem = self._random.token(KEM_SEED_SIZE)
        for unused in _some(sorted(self._contents - self._used)):
            self._store.write(lambda writer, these=unused: _drop(writer, these))  # type: ignore[misc]

        def change(writer: Writer) -> None:
            for number, each in enumerate(requests, 1):
                key = writer.key_part(each.sender.encode()) + u64(number)
                writer.put(Table.REQUESTS, key, each.record)
                if each.ends:
                    self._ends[_end_key(writer, each.ends, b"r" + key)] = each.ends
            writer.put(Table.META, Meta.COUNTER + Series.REQUEST, u64(len(requests)))
            self._put_meta(writer)
            self._put_ends(writer)
            own = bring_entry(read_entry(self._needed(b"own")))
            writer.put(Table.META, Meta.OWN, own)
            keys = account.transport, account.signing, account.auth, kem, account.owner
            record = pack(account.name, *keys, account.server, policy.encode(), [], b"")
            writer.put(Table.META, Meta.ACCOUNT, record)
            upgrade(writer)

        self._store.write(change)

    def _needed(self, key: bytes) -> bytes:
        found = self._meta.get(key)
        if found is None:
            raise CbfsError(
                "the account is not finished, and an earlier cbfs has begun it",
                "finish it with that one, or make a new one: cbfs init NAME --account DIRECTORY",
            )
        return found

    def _put(self, writer: Writer, table: bytes, rows: list[tuple[bytes, bytes]]) -> None:
        for key, value in rows:
            match table:
                case b"content":
                    writer.put(Table.CONTENT, key, value)
                case b"peers":
                    _put_contact(writer, value)
                case b"conversations":
                    self._put_conversation(writer, read_conversation(key, value))
                case b"index":  # the same in format 8
                    writer.put(Table.INDEX, key, value)
                case _:
                    self._put_node(writer, key, value)

    def _put_conversation(self, writer: Writer, one: OldConversation) -> None:
        self._conversations[one.id] = one
        people = [check_name(name) for name in one.participants]
        inodes = one.inode, one.outbox_inode
        record = pack(people, one.subject, one.started, one.folder, *inodes, b"", b"", [])
        writer.put(Table.CONVERSATIONS, one.id, record)
        writer.put(Table.META, Meta.FOLDER + writer.key_part(one.folder.encode()), one.id)

    def _put_node(self, writer: Writer, key: bytes, value: bytes) -> None:
        node, numbers = read_node(value), list[int]()
        if node.content is not None:
            self._used.add(node.content.id)
            numbers = _numbers(node.content)
        seed = self._random.token(_SEED_SIZE)
        marks = {"file": [0, False, seed], "directory": [seed]}.get(node.kind, [])
        names = [list(name) for name in node.names]
        # of a file that is held until its date to come it tells that this is not when it changed
        times = node.mtime_ns, min(node.mtime_ns, time.time_ns())
        record = pack(node.kind, names, node.mode, *times, numbers, node.target, marks)
        writer.put(Table.NODES, key, record)

    # Messages

    def _take_message(self, message: OldMessage) -> None:
        if self._messages and self._messages[0].conversation != message.conversation:
            self._put_messages()
        self._messages.append(message)

    def _put_messages(self) -> None:
        """Write those of one conversation."""
        messages, self._messages = self._messages, []
        if not messages:
            return
        conversation = self._conversations.get(messages[0].conversation)
        if conversation is None:
            raise DecodeError(
                "a message of the account, which is of an earlier cbfs, is in no conversation",
                "use the cbfs that it was used with last, or restore an export",
            )
        authors = {message.id: message.sender for message in messages}
        for some in _some(messages):
            self._store.write(lambda writer, some=some: self._put_some(writer, some, authors))  # type: ignore[misc]
        self._store.write(lambda writer: self._put_state(writer, conversation, messages, authors))

    def _put_some(
        self, writer: Writer, messages: list[OldMessage], authors: dict[bytes, str]
    ) -> None:
        for one in messages:
            hash_ = _hash(one.conversation, one.sender, one.id)
            key = one.conversation + u64(one.serial)
            parents = _refs(one.conversation, one.parents, authors)
            origin = [one.id, one.date, _digest(writer, one.content)] if one.recipients else []
            record = pack(
                *(hash_, one.sender, one.date, one.received, one.name, one.inode),
                *(_numbers(one.content), [list(who) for who in one.recipients], parents),
                *(one.file_name, 0, one.folder, one.label, [*one.lifetime, one.ends], one.date),
                *([], origin, False, [], []),
            )
            writer.put(Table.MESSAGES, key, record)
            known = pack(one.serial, one.date, hash_, one.sender, [])
            writer.put(Table.MESSAGE_IDS, one.conversation + hash_[:16], known)
            self._used.add(one.content.id)
            if one.ends:
                self._ends[_end_key(writer, one.ends, key)] = one.ends
            self._queue(writer, one, hash_, parents)

    def _queue(
        self, writer: Writer, one: OldMessage, hash_: bytes, parents: list[list[object]]
    ) -> None:
        """The deliveries of a message that has not left."""
        waiting = [who for who, state in one.recipients if state == "queued"]
        if not waiting:
            return
        conversation = self._conversations[one.conversation]
        people = tuple(Person(bytes(16), name) for name in conversation.participants)
        size = part_capacity(people, conversation.subject, one.file_name)
        for who in waiting:
            key = writer.key_part(who.encode()) + u64(writer.next_number(Series.QUEUE))
            count = math.ceil(one.content.size / size)
            job = pack(
                *(who, one.conversation, one.serial, hash_[:16], one.id, one.date, parents),
                *(one.file_name, _numbers(one.content), _digest(writer, one.content)),
                *(size, count, 0, one.folder, *one.lifetime, False, b"", False, b""),
            )
            writer.put(Table.QUEUE, key, job)
            which = writer.key_part(who.encode(), one.conversation, hash_[:16])
            writer.put(Table.META, Meta.JOB + which, key)
        writer.put(Table.HELD, u64(one.content.id), u32(len(waiting)))

    def _put_state(
        self,
        writer: Writer,
        conversation: OldConversation,
        messages: list[OldMessage],
        authors: dict[bytes, str],
    ) -> None:
        """What is known of a conversation by its messages."""
        id_ = conversation.id
        heads = read_heads(self._meta.get(b"heads " + id_, b""))
        writer.put(Table.META, Meta.HEADS + id_, pack(_refs(id_, heads, authors)))
        own = [message for message in messages if message.recipients]
        if own:
            last = own[-1]
            writer.put(Table.META, Meta.LAST_OWN + id_, _hash(id_, last.sender, last.id))
        ending = sum(message.ends > 0 for message in messages)
        if ending:
            writer.put(Table.META, Meta.ENDING + id_, u64(ending))

    # What there is few of

    def _put_meta(self, writer: Writer) -> None:
        for key, value in self._meta.items():
            kind, _space, rest = key.partition(b" ")
            match kind + _space:
                case b"gone " if rest[:16] in self._conversations:
                    writer.put(Table.GONE, rest, b"")
                case b"lifetime ":
                    found = read_lifetime(value)
                    record = pack(found.seconds, found.change, found.source, found.since)
                    writer.put(Table.META, Meta.LIFETIME + rest, record)
                case b"relabel ":
                    name = read_relabelled(value)
                    record = pack(name, b"", 0)
                    writer.put(Table.META, Meta.RELABEL + writer.key_part(name.encode()), record)
                case b"wrote " if rest in self._conversations:
                    began = self._conversations[rest].started
                    writer.put(Table.META, Meta.WROTE + rest, u64(began))
                case b"counter " if rest in (Series.INODE, Series.MESSAGE):
                    writer.put(Table.META, Meta.COUNTER + rest, value)
                case _ if key in _KEPT:
                    writer.put(Table.META, key, value)

    def _put_ends(self, writer: Writer) -> None:
        for key, when in self._ends.items():
            writer.put(Table.ENDS, key, pack(when))
        hours = sorted({when // _HOUR for when in self._ends.values()})
        if hours:
            writer.put(Table.META, Meta.ENDS, b"".join(map(u32, hours)))


def _put_contact(writer: Writer, value: bytes) -> None:
    contact = read_contact(value)
    name = contact.entry.name
    writer.put(Table.PEERS, writer.key_part(name.encode()), bring_contact(contact))
    if contact.petname:
        for who, shown in (name, contact.petname), (contact.petname, f"@{contact.petname}"):
            writer.put(Table.META, Meta.LABEL + writer.key_part(who.encode()), shown.encode())


def _hash(conversation: bytes, sender: str, id_: bytes) -> bytes:
    """By what a message of before is named now (32)."""
    return kdf(b"", b"cbfs1 was called", conversation + id_ + sender.encode(), 32)


def _refs(
    conversation: bytes, ids: Iterable[bytes], authors: dict[bytes, str]
) -> list[list[object]]:
    """Messages of a conversation as others name them; without those that are not here, of which
    nobody knows who has written them."""
    return [[authors[id_], _hash(conversation, authors[id_], id_)] for id_ in ids if id_ in authors]


def _digest(writer: Writer, content: OldContent) -> bytes:
    """BLAKE2b of a content (32); what was never written of it is zeros."""
    digest = hashlib.blake2b(digest_size=32)
    for index in range(-(-content.size // content.chunk)):
        size = min(content.chunk, content.size - index * content.chunk)
        data = writer.get(Table.CONTENT, u64(content.id) + u32(index)) or b""
        digest.update(data[:size].ljust(size, b"\0"))
    return digest.digest()


def _numbers(content: OldContent) -> list[int]:
    return [content.id, content.size, content.chunk]


def _end_key(writer: Writer, when: int, what: bytes) -> bytes:
    return writer.key_part(b"ends", u64(when // _HOUR)) + what


def _drop(writer: Writer, contents: list[int]) -> None:
    """Contents to which nothing refers."""
    for content in contents:
        writer.delete_prefix(Table.CONTENT, u64(content))


def _some(items: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(items), GROUP):
        yield items[start : start + GROUP]
