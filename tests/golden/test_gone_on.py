"""Conversations of before there were keys of ML-KEM, whose ids follow from names alone, go on in a
name directory of now: also to somebody who does not have them."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgpack
import pytest

from cbfs.account.account import SYSTEM_RANDOM, load_account, opened_store
from cbfs.account.formats import upgrade
from cbfs.account.passphrase import Guard
from cbfs.commands.home.taking_up import take_up
from cbfs.earlier import bringing
from cbfs.earlier.bringing import bring_over
from cbfs.messages import history
from cbfs.messages.conversations import is_left, load_conversations
from cbfs.messages.model import Conversation
from cbfs.messages.queues.delivery_queue import pending
from cbfs.receiving.compositions import Compositions, newest, unsaid
from cbfs.receiving.message_requests import release
from cbfs.receiving.reassembly import Arrivals, Reception
from cbfs.storage.encoding import pack, u32, u64
from cbfs.storage.store import Store, Writer
from cbfs_common.errors import CbfsError
from cbfs_common.messages.conversation import fits
from cbfs_common.names.note import LOG_KEY, NoteKey
from cbfs_common.names.policy import parse_policy
from cbfs_common.person import Directories, directory_id
from cbfs_common.primitives import dh_public, kdf, sign_public
from tests.golden.test_golden import mounted
from tests.golden.test_many_brought import LOG, NOW, POLICY, SERVER, Record, contact, entry
from tests.golden.test_taken_up import go_on
from tests.support.world import World, make_easy, wait_for, world

SAID = b"at noon?\n"


def talk_id(people: tuple[str, ...], subject: str) -> bytes:
    """Of their first conversation about this, as it was then."""
    names = b"".join(bytes([len(name)]) + name.encode() for name in people)
    said = bytes([len(people)]) + names + bytes(2) + subject.encode()
    found = kdf(b"", b"cbfs1 talk id", said, 16)
    return bytes([found[0] | 0x80]) + found[1:]


def salt(talk: bytes) -> bytes:
    """The id of the one message of a conversation."""
    return hashlib.blake2b(talk, digest_size=16).digest()


def secrets(name: str) -> list[bytes]:
    """For the transport, to sign, to be known by, and to own the name."""
    return [hashlib.blake2b(name.encode() + b" %d" % n, digest_size=32).digest() for n in range(4)]


@dataclass
class Before:
    """What somebody had then: in each conversation one message, of ``sender``."""

    name: str
    tables: dict[bytes, list[Record]] = field(default_factory=dict)
    serial: int = 0

    def _add(self, table: bytes, key: bytes, value: bytes) -> None:
        self.tables.setdefault(table, []).append((table, key, value))

    def talk(
        self, people: tuple[str, ...], subject: str, sender: str, states: dict[str, str]
    ) -> None:
        """A conversation; ``states``: how far the message was for each recipient."""
        self.serial += 1
        number, id_ = self.serial, talk_id(people, subject)
        others = [name for name in people if name != sender]
        folder = "-".join(("2026-11-30", sender, *others)) + f" {subject}"
        value = pack(list(people), subject, NOW, folder, number, 100 + number)
        self._add(b"conversations", id_, value)
        name = f"2026-11-30T10.00.00.000Z-{sender}"
        to = [[who, state] for who, state in states.items()]
        content = [number, len(SAID), 65_536]
        self._add(b"content", u64(number) + u32(0), SAID)
        rest: tuple[object, ...] = (to, [], "", 0, False, sender, [0, 0, 0])
        place = (NOW, NOW, name, 200 + number, content)
        self._add(b"messages", id_ + u64(number), pack(salt(id_), sender, *place, *rest))

    def request(self, sender: str, people: tuple[str, ...], subject: str) -> None:
        id_, digest = talk_id(people, subject), hashlib.blake2b(SAID, digest_size=32).digest()
        plain = [subject, NOW, "", 0, 1, len(SAID), digest, SAID, b"", 0, 0]
        body: bytes = msgpack.packb([1, 1, salt(id_), id_, [], list(people), *plain])
        self._add(b"requests", hashlib.blake2b(id_).digest()[:24], pack(sender, NOW, body))

    def knows(self, name: str, standing: str = "known") -> None:
        """Somebody by the keys that they have."""
        _transport, signing, auth, owner = secrets(name)
        said = entry(name, sign_public(signing), dh_public(auth), sign_public(owner))
        self._add(b"peers", name.encode(), contact(name, "", standing, said))

    def records(self, meta: dict[bytes, bytes] | None = None) -> Iterator[Record]:
        account = pack(self.name, *secrets(self.name), SERVER.url(), POLICY, [])
        found = {b"account": account, b"own": entry(self.name)} | (meta or {})
        found |= {b"counter inode": u64(999), b"counter message": u64(self.serial)}
        yield from self.tables.get(b"content", [])
        yield from ((b"meta", *each) for each in sorted(found.items()))
        for table in b"peers", b"conversations", b"messages", b"requests":
            yield from sorted(self.tables.get(table, []))

    def bring(self, store: Store) -> None:
        bring_over(
            store, self.records(), SYSTEM_RANDOM, lambda writer: upgrade(writer, bringing.FORMAT)
        )

    def account(self, place: Path) -> Path:
        """Their account directory, brought over."""
        account = place / f"{self.name}-account"
        with opened_store(account, SYSTEM_RANDOM, create=Guard) as store:
            self.bring(store)
        return account


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def town(tmp_path: Path, stack: ExitStack) -> World:
    (tmp_path / "town").mkdir()
    return stack.enter_context(world(tmp_path / "town"))


@dataclass
class Going:
    """People of before who go on in a town of now."""

    town: World
    place: Path
    stack: ExitStack

    def bring(self, *people: Before, open_: bool = True) -> None:
        for each in people:
            make_easy(each.account(self.place), open_=open_)

    def mounts(self, *people: str, first: str) -> dict[str, Path]:
        """Have these take up their names, ``first`` first, and mount."""
        order = sorted(people, key=lambda name: name != first)
        accounts = {name: self.place / f"{name}-account" for name in order}
        for name, account in accounts.items():
            code, said = go_on(self.town, account, name)
            assert code == 0, said
        return {
            name: self.stack.enter_context(mounted(account, "grace=0.1"))
            for name, account in accounts.items()
        }


@pytest.fixture
def going(town: World, tmp_path: Path, stack: ExitStack) -> Going:
    return Going(town, tmp_path, stack)


def write(mount: Path, subject: str, name: str) -> None:
    """In the conversation about this, which is one under outbox/."""
    (box,) = mount.glob(f"outbox/* {subject}*")
    (box / name).write_text(f"this is {name}\n")


def await_file(mount: Path, subject: str, name: str) -> Path:
    """The file of this name in a conversation about this."""
    found: list[Path] = wait_for(
        lambda: list(mount.glob(f"conversations/* {subject}*/*-{name}")), f"{name} in {mount}"
    )
    (path,) = found
    return path


BOTH = ("alice", "bob")


@pytest.mark.mount
@pytest.mark.parametrize("first", BOTH)
@pytest.mark.parametrize("has", ["alice", "both"])
def test_a_conversation_goes_on_with_whoever_has_it_and_whoever_has_not(
    going: Going, first: str, has: str
) -> None:
    alice, bob = Before("alice"), Before("bob")
    alice.knows("bob")
    bob.knows("alice")
    alice.talk(BOTH, "lunch", "alice", {"bob": "received"})
    if has == "both":
        bob.talk(BOTH, "lunch", "alice", {})
    going.bring(alice, bob)
    mounts = going.mounts(*BOTH, first=first)
    write(mounts["alice"], "lunch", "now.txt")
    there = await_file(mounts["bob"], "lunch", "alice-now.txt")
    write(mounts["bob"], "lunch", "answer.txt")
    here = await_file(mounts["alice"], "lunch", "bob-answer.txt")
    assert list(here.parent.glob("*-alice-now.txt"))
    assert list(there.parent.glob("*-bob-answer.txt"))
    assert len(list(mounts["alice"].glob("conversations/*/*-alice"))) == 1


@pytest.mark.mount
@pytest.mark.parametrize("first", BOTH)
def test_a_first_message_that_waited_reaches_somebody_new(going: Going, first: str) -> None:
    alice, bob = Before("alice"), Before("bob")
    alice.knows("bob")
    bob.knows("alice")
    alice.talk(BOTH, "lunch", "alice", {"bob": "queued"})
    going.bring(alice, bob)
    mounts = going.mounts(*BOTH, first=first)
    assert await_file(mounts["bob"], "lunch", "alice").read_bytes() == SAID
    (folder,) = (mounts["alice"] / "conversations").iterdir()
    assert folder.name == "2026-11-30-alice-bob lunch"
    write(mounts["bob"], "lunch", "answer.txt")
    await_file(mounts["alice"], "lunch", "bob-answer.txt")


@pytest.mark.mount
@pytest.mark.parametrize("first", ["bob", "dave"])
def test_who_was_a_stranger_writes_again_when_accepted(going: Going, first: str) -> None:
    people = ("bob", "dave")
    bob, dave = Before("bob"), Before("dave")
    dave.talk(people, "lunch", "dave", {"bob": "sent"})
    bob.request("dave", people, "lunch")
    bob.knows("dave", "stranger")
    dave.knows("bob")
    going.bring(bob, dave, open_=False)
    mounts = going.mounts(*people, first=first)
    assert SAID in (mounts["bob"] / "requests" / "dave" / "message").read_bytes()
    (mounts["bob"] / "requests" / "dave").rename(mounts["bob"] / "contacts" / "dave")
    there = await_file(mounts["bob"], "lunch", "dave")
    write(mounts["dave"], "lunch", "again.txt")
    assert await_file(mounts["bob"], "lunch", "dave-again.txt").parent == there.parent
    write(mounts["bob"], "lunch", "answer.txt")
    await_file(mounts["dave"], "lunch", "bob-answer.txt")


# without anybody else


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened_store(tmp_path / "account", SYSTEM_RANDOM, create=Guard) as store:
        yield store


def policy(key: bytes) -> str:
    """That of another directory."""
    return POLICY.replace(LOG.encode(), NoteKey("town", LOG_KEY, key * 32).encode())


def moved(store: Store, text: str) -> None:
    account = load_account(store)
    assert account is not None
    take_up(store, account, SERVER, text, SYSTEM_RANDOM)


def shown(store: Store) -> list[Conversation]:
    with store.read() as reader:
        found = load_conversations(reader)
        return [each for key, each in found.items() if not is_left(reader, key)]


def last(store: Store) -> Conversation:
    """The one in which the others go on."""
    (found,) = (each for each in shown(store) if not each.next)
    return found


def is_good(conversation: Conversation, text: str) -> bool:
    people = Directories(parse_policy(text).directory).people(conversation.participants)
    return fits(conversation.id, people, conversation.subject, conversation.root)


@pytest.mark.parametrize("waits", [False, True])
def test_a_directory_may_be_tried_again_after_another_one(store: Store, *, waits: bool) -> None:
    """It has refused the name, or did not answer. What is left without a message is not shown, and
    what waits is in one with the name of before."""
    alice = Before("alice")
    if waits:
        alice.talk(BOTH, "lunch", "alice", {"bob": "queued"})
    else:
        alice.talk(BOTH, "lunch", "bob", {})
    alice.bring(store)
    (before,) = shown(store)
    ends = []
    for key in b"1", b"2", b"1":
        moved(store, policy(key))
        end = last(store)
        ends.append(end.id)
        assert is_good(end, policy(key))
        assert end.root == before.id
        assert [each.id for each in shown(store) if each.outbox_inode] == [end.id]
        assert (end.folder == before.folder) is waits
        names = [each.folder for each in shown(store)]
        assert len(set(names)) == len(names) == (1 if waits else 2)
        with store.read() as reader:
            jobs = [(job.conversation, job.content.size) for job in pending(reader, "bob")]
            assert jobs == ([(end.id, len(SAID))] if waits else [])
    assert ends[0] == ends[2] != ends[1]


def test_what_has_reached_some_waits_for_all_of_them_once_more(store: Store) -> None:
    """Who has not got it may have nothing of that conversation."""
    people = ("alice", "bob", "carol")
    alice = Before("alice")
    alice.talk(people, "lunch", "alice", {"bob": "sent", "carol": "queued"})
    alice.bring(store)
    moved(store, policy(b"1"))
    end = last(store)
    assert shown(store) == [end]
    with store.read() as reader:
        (message,) = history.load_messages(reader, end.id)
        for name in "bob", "carol":
            (job,) = pending(reader, name)
            assert (job.conversation, job.message) == (end.id, message.id)


def test_who_was_accepted_before_goes_on_where_they_do(store: Store) -> None:
    people = ("bob", "dave")
    bob = Before("bob")
    bob.knows("dave", "stranger")
    bob.request("dave", people, "lunch")
    bob.bring(store)
    directories = Directories(directory_id(LOG.public))
    reception = Reception("bob", NOW, 0, False, directories)
    store.write(lambda writer: release(writer, Arrivals({}), reception, "dave"))
    (before,) = shown(store)
    moved(store, policy(b"1"))
    end, began = last(store), talk_id(people, "lunch")
    assert before.root == end.root == began
    assert is_good(end, policy(b"1"))
    with store.read() as reader:
        (message,) = history.load_messages(reader, before.id)
    assert message.sender == "dave"


def test_more_people_are_added_where_it_goes_on(store: Store) -> None:
    alice = Before("alice")
    alice.talk(BOTH, "lunch", "alice", {"bob": "received"})
    alice.bring(store)
    (before,) = shown(store)
    moved(store, policy(b"1"))
    old, directories = last(store), Directories(parse_policy(policy(b"1")).directory)

    def change(writer: Writer) -> Conversation:
        return Compositions(writer, directories, "alice", before.id).go_on(old.id, {"carol"})

    new = store.write(change)
    assert new.participants == ("alice", "bob", "carol")
    assert (new.root, last(store)) == (before.id, new)
    with store.read() as reader:
        for each in shown(store):
            assert newest(reader, each) == new
            assert unsaid(reader, each, "alice") is None


def test_notes_to_oneself_stay_where_they_are(store: Store) -> None:
    alice = Before("alice")
    alice.talk(("alice",), "", "alice", {"alice": "received"})
    alice.bring(store)
    (before,) = shown(store)
    moved(store, policy(b"1"))
    assert shown(store) == [before]


def test_an_account_whose_keys_are_being_changed_is_left_to_the_cbfs_of_before(
    store: Store,
) -> None:
    found = Before("alice").records({b"account next": b"anything"})
    with pytest.raises(CbfsError) as caught:
        bring_over(store, found, SYSTEM_RANDOM, lambda _writer: None)
    assert "not finished" in str(caught.value)
    assert "finish it with that one" in caught.value.hint
    assert load_account(store) is None
