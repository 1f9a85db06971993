"""What ``cbfs sendmail`` has let wait becomes drafts in the outbox, when a mount begins.

Each message is one transaction: with the records of its drafts goes a note that it was taken. The
file goes after that, and then the note. So a crash leaves the file alone, which the next mount
takes; or file and note, of which it drops the file; or neither. The mount brings the drafts back
with all others, and sends them as any other.

The key that messages are sealed to is in the store, twice while it is replaced: it is replaced
whenever all that waits was taken, and forgotten when nobody seals to it any more.
"""

import errno
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import tomli_w
import trio

from cbfs.account.spool import (
    WAITING_BYTES_MAX,
    Spool,
    SpoolKey,
    decode_keys,
    encode_keys,
    make_key,
)
from cbfs.commands.sendmail.letter import (
    Letter,
    copies_size,
    decode_letter,
    groups_of,
    within,
)
from cbfs.commands.sendmail.places import conversation_name, message_name
from cbfs.messages.file_names import free_name
from cbfs.messages.model import Content, Conversation
from cbfs.storage.encoding import u32, u64
from cbfs.storage.faults import log_fault
from cbfs.storage.store import Meta, StoreError, Table, Writer
from cbfs.tree.nodes import File, Folder, encode_record, record_maker
from cbfs.tree.rules import METADATA, Area
from cbfs.tree.tree import Tree
from cbfs.tree.write_buffer import BLOCK
from cbfs_common.errors import CbfsError, CryptoError, DecodeError
from cbfs_common.primitives import Random, kdf

SEED_SIZE = 16

KEYS_MAX = 4
"""Keys that are kept at most, while none of them can be published."""

_STRANGE = frozenset((errno.EFBIG, errno.EINVAL, errno.ELOOP))
"""What the spool says of files that nobody has put there to be sent."""

_log = logging.getLogger("cbfs")


async def held_spool(account: Path) -> Spool | None:
    """The spool of an account, to which nobody adds until it is released, which is to be when there
    is a mount. None where it cannot be had, which is logged: what is in it waits on."""
    spool = Spool(account)
    try:
        spool.prepare()
        if await trio.to_thread.run_sync(partial(spool.acquire, alone=True)):
            return spool
        _log.error("the spool is in use: what waits in it is taken at the next mount")
    except OSError as error:
        _log.error("the spool cannot be used: %s", error.strerror)
    return None


async def take_in(tree: Tree, spool: Spool, random: Random) -> None:
    """Make drafts of what waits, before the tree is filled. What the disk does not give or take is
    logged, and waits on: it is no reason not to mount."""
    try:
        await _take_in(tree, spool, random)
    except OSError as error:
        _log.error("what waits in the spool cannot be read: %s", error.strerror)
    except StoreError as error:
        _log.error("what waits in the spool is not taken: %s", error.in_full)


async def _take_in(tree: Tree, spool: Spool, random: Random) -> None:
    store = tree.backend.store
    with store.read() as reader:
        keys = decode_keys(reader.get(Table.META, Meta.SPOOL_KEY) or b"")
        noted = {key[len(Meta.SPOOLED) :] for key, _ in reader.items(Table.META, Meta.SPOOLED)}
    waiting, drafts = spool.waiting(), Drafts(tree)
    gone = [identity for identity in waiting if identity in noted]
    left, room = False, WAITING_BYTES_MAX
    for identity in waiting:
        if identity in noted:
            continue
        try:
            letter = _opened(spool, keys, identity)
            if copies_size(letter) > room:
                left = True
                _log.error("more waits than is taken at once: the next mount takes it")
                break
            room -= copies_size(letter)
            with drafts.of(letter, identity) as change:
                await store.commit(change)
            gone.append(identity)
        except Exception as error:
            left = not _is_set_aside(spool, identity, error) or left
    # what could not be taken now needs the key that it was sealed to at the next mount
    if not keys or ((waiting or noted) and not left and len(keys) < KEYS_MAX):
        keys = (make_key(random), *keys)
        await store.commit(_keeping(keys))
    if spool.public() != keys[0].public:
        spool.publish(keys[0].public)
    spool.drop([*gone, *noted])
    if keys[1:] or noted or waiting:
        await store.commit(_keeping(keys if left else keys[:1], forget=True))


def _is_set_aside(spool: Spool, identity: bytes, error: Exception) -> bool:
    """Set a message aside that is none, whoever has put it there: who may write to the spool has
    the key that it is sealed to. What failed for another reason stays, for the next mount."""
    strange = isinstance(error, OSError) and error.errno in _STRANGE
    if not isinstance(error, (CryptoError, DecodeError)) and not strange:
        if not isinstance(error, (CbfsError, OSError)):
            log_fault(error)
        why = error.in_full if isinstance(error, CbfsError) else type(error).__name__
        _log.error("a message in the spool cannot be taken, and waits on: %s", why)
        return False
    _log.error("a message in the spool cannot be read: %s", identity.hex())
    try:
        spool.set_aside(identity)
    except OSError as failed:
        _log.error("it cannot be set aside: %s", failed.strerror)
        return False
    return True


def _keeping(keys: tuple[SpoolKey, ...], *, forget: bool = False) -> Callable[[Writer], None]:
    def change(writer: Writer) -> None:
        writer.put(Table.META, Meta.SPOOL_KEY, encode_keys(keys))
        if forget:
            writer.delete_prefix(Table.META, Meta.SPOOLED)

    return change


def _opened(spool: Spool, keys: Sequence[SpoolKey], identity: bytes) -> Letter:
    """What waits under this id. Raises OSError, CryptoError, DecodeError."""
    data = spool.read(identity)
    for key in keys:
        with suppress(CryptoError):
            return decode_letter(key.open(identity, data))
    raise CryptoError("cannot be opened")


Made = tuple[Folder | File, bytes]
"""A node of the tree, and what is in it."""


class Drafts:
    """The drafts that letters become in the outbox of ``tree``, as records."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._begun: dict[tuple[frozenset[str], str], Folder] = {}
        self._threads: dict[tuple[frozenset[str], bytes], str] = {}
        self._names = set(tree.outbox.entries)

    @contextmanager
    def of(self, letter: Letter, identity: bytes) -> Iterator[Callable[[Writer], None]]:
        """The change that stores those of a letter, with the note that it was taken. Its id
        (``identity``) makes them the same whenever it is taken: a backup of the account that has it
        still sends no other messages. When it is not stored, it leaves nothing to later ones."""
        count = len(self._begun)
        try:
            yield self._of(letter, identity)
        except BaseException:
            while len(self._begun) > count:  # folders that nobody stores
                _about, folder = self._begun.popitem()
                self._names -= {name for _above, name in folder.names}
            raise

    def _of(self, letter: Letter, identity: bytes) -> Callable[[Writer], None]:
        made: list[Made] = []
        for group in groups_of(letter, self._owner):
            made += self._made(letter, group, identity)
        for count, (node, _data) in enumerate(made):
            node.seed = kdf(identity, b"cbfs1 spooled", u32(count), SEED_SIZE)
        records = [(node.inode, _recorder(node), data) for node, data in made]

        def change(writer: Writer) -> None:
            for inode, record, data in records:
                content = _put_content(writer, data) if data else None
                writer.put(Table.NODES, u64(inode), record(content))
            writer.put(Table.META, Meta.SPOOLED + identity, b"")

        return change

    def _owner(self, label: str) -> str:
        """The true name of whom a label means. What is no name stays: an error file says so."""
        try:
            return self._tree.backend.people.called(label)
        except DecodeError:
            return label

    def _made(self, letter: Letter, group: tuple[str, ...], identity: bytes) -> Iterator[Made]:
        me = self._tree.backend.name
        others = [name for name in group if name != me] or [me]
        people = frozenset(map(self._owner, others))
        subject = self._threads.get((people, letter.root), letter.subject)
        conversation = self._conversation(letter, subject, others)
        if conversation is not None:
            place, subject = self._tree.folders(conversation.id)[1], conversation.subject
        elif (people, subject) in self._begun:
            place = self._begun[people, subject]
        else:
            subject = letter.subject
            name = conversation_name(others, letter.subject)
            name = free_name(name, self._names.__contains__)
            self._names.add(name)
            place = self._begun[people, subject] = self._folder(self._tree.outbox, name)
            table = {"participants": others, "subject": subject}
            yield place, b""
            yield self._file(place, METADATA), tomli_w.dumps(table).encode()
        if letter.root:
            self._threads[people, letter.root] = subject
        letter = within(letter, subject)
        if not letter.folder:
            yield self._file(place, f"mail-{identity.hex()}"), letter.files[0][1]
            return
        # when the drafts are brought back, what has the name of another gets one that is free
        folder = self._folder(place, message_name(letter.folder))
        yield folder, b""
        for name, content in letter.files:
            yield self._file(folder, name), content

    def _folder(self, above: Folder, name: str) -> Folder:
        made = Folder(self._tree.new_inode(), Area.KEPT, time.time_ns())
        made.recorded = True
        made.names.add((above, name))
        return made

    def _file(self, above: Folder, name: str) -> File:
        made = File(self._tree.new_inode(), 0o600, time.time_ns(), None)
        made.names.add((above, name))
        return made

    def _conversation(
        self, letter: Letter, subject: str, others: Sequence[str]
    ) -> Conversation | None:
        """The one in which the letter goes on: that which it answers, or the newest of the same
        people about this subject. What is for other people never goes there."""
        backend = self._tree.backend
        try:
            people = {backend.people.called(name) for name in others} | {backend.name}
        except DecodeError:
            return None  # an error file says so
        known = {each.id: each for each in backend.conversations()}
        for answered in letter.answers:
            found = known.get(answered.conversation)
            if found is not None:
                if _fits(found, people):
                    return found
                subject = found.subject
                break
        fitting = [each for each in known.values() if each.subject == subject]
        return next((each for each in reversed(fitting) if _fits(each, people)), None)


def _recorder(node: Folder | File) -> Callable[[Content | None], bytes]:
    """Makes the record of a node, for its content, if it has one."""
    if isinstance(node, File):
        return record_maker(node)
    record = encode_record(node)
    return lambda _content: record


def _put_content(writer: Writer, data: bytes) -> Content:
    content = Content(writer.random_number(), len(data), BLOCK)
    for index, start in enumerate(range(0, len(data), BLOCK)):
        key = u64(content.id) + u32(index)
        writer.put(Table.CONTENT, key, data[start : start + BLOCK])
    return content


def _fits(conversation: Conversation, people: set[str]) -> bool:
    return set(conversation.present) == people and bool(conversation.outbox_inode)
