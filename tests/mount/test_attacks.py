"""What broke the promises once, tried on real processes: mounts, a server, a directory. The
attacker has the server with the mailboxes of both and, where it says so, a backup of one's."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from cbfs.account.account import SYSTEM_RANDOM, Account, load_account, opened_store
from cbfs.account.settings import Reactions, Settings, Strangers, encode
from cbfs.contacts.held_session import decode_held
from cbfs.contacts.prekey_secrets import PrekeySecrets
from cbfs.context import milliseconds
from cbfs.network.dial import LoopbackDialer
from cbfs.network.link import open_link, request
from cbfs.storage.store import Meta, Table
from cbfs_common.messages.body import SALT_SIZE, Note, Part, Refs, encode_note, encode_part
from cbfs_common.messages.conversation import conversation_id
from cbfs_common.person import Directories
from cbfs_common.session.prekey import PrekeyKind, PrekeyPair
from cbfs_common.session.session import Peer, Session
from cbfs_common.wire.fields import Reply, Request
from cbfs_common.wire.requests import Delete, Deliver, Fetch, List
from tests.engine.test_linking import linked
from tests.support.forged_start import Thief, opened
from tests.support.world import ENVIRONMENT, WAIT, User, World, wait_for, world

pytestmark = pytest.mark.mount

R = TypeVar("R", bound=Reply)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def account(place: Path) -> Account:
    with opened_store(place, SYSTEM_RANDOM) as store:
        found = load_account(store)
    assert found is not None
    return found


class Mailbox:
    """What a home server can do with a mailbox, by the requests of its owner."""

    def __init__(self, of: Account) -> None:
        self._of = of

    def _ask(self, *wanted: Request[R]) -> list[R]:
        async def main() -> list[R]:
            of, dialer = self._of, LoopbackDialer()
            async with open_link(dialer, of.server, of.transport, b"test", SYSTEM_RANDOM) as link:
                return [await request(link, each) for each in wanted]

        return trio.run(main)

    def ids(self) -> tuple[bytes, ...]:
        (found,) = self._ask(List(b""))
        return found.ids

    def wait(self, look: Callable[[tuple[bytes, ...]], bool], what: str) -> tuple[bytes, ...]:
        """The ids, when they are so."""
        return wait_for(lambda: (ids,) if look(ids := self.ids()) else None, what)[0]

    def envelopes(self) -> list[bytes]:
        return [each.envelope for each in self._ask(*map(Fetch, self.ids()))]

    def take(self, id_: bytes) -> bytes:
        """An envelope out of it."""
        (found,) = self._ask(Fetch(id_))
        self._ask(Delete((id_,)))
        return found.envelope

    def put(self, *envelopes: bytes) -> None:
        self._ask(*(Deliver(self._of.profile.user_id, each) for each in envelopes))


def talk(alice: User, bob: User, words: str) -> None:
    """Each writes to the other, and reads it."""
    for one, other in ((alice, bob), (bob, alice)):
        with suppress(FileExistsError):
            (one.mountpoint / "outbox" / other.name).mkdir()
        one.write(other.name, words, f"{words} of {one.name}")
        other.wait_message(one.name, f"{words} of {one.name}")


def write(user: User, to: str, text: str) -> None:
    with suppress(FileExistsError):
        (user.mountpoint / "outbox" / to).mkdir()
    user.write(to, f"file {blake2b(text.encode(), digest_size=4).hexdigest()}", text)


def nothing_waits(user: User) -> bool:
    return "waiting to be delivered" not in (user.mountpoint / "status").read_text()


STILL = """
import sys
from cbfs.commands.process.entry import mount_cbfs  # as mount.cbfs
from cbfs.sending import note_clock
note_clock.NOTE_CLOCK = 10**9
sys.exit(mount_cbfs())
"""


def mount_still(*users: User) -> None:
    """Mounts whose note clock does not tick: it does so at random, every five minutes in the mean,
    and who counts envelopes would count those of its ticks."""
    for user in users:
        options = ("-o", "grace=0.1", *user.mounts)
        done = subprocess.run(
            [sys.executable, "-c", STILL, user.account, user.mountpoint, *options],
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
            env=ENVIRONMENT,
        )
        assert done.returncode == 0, done.stderr


def silent(user: User, reactions: Reactions) -> None:
    """No receipts, of an account that is not mounted: all that leaves has another reason."""
    settings = Settings(strangers=Strangers.ACCEPT, reactions=reactions, receipts=False)
    with opened_store(user.account, SYSTEM_RANDOM) as store:
        store.write(lambda writer: writer.put(Table.META, Meta.SETTINGS, encode(settings)))


@pytest.mark.parametrize("at", [0, 20, 16_383])
def test_a_server_with_both_mailboxes_garbles_an_envelope_and_sees_nothing_leave(
    here: World, at: int
) -> None:
    """Also of a client that reacts at once: 20 ms later there was something in the other one."""
    alice, bob = here.account("alice"), here.account("bob")
    hers, his = Mailbox(account(alice.account)), Mailbox(account(bob.account))
    for user in (alice, bob):
        silent(user, Reactions.PROMPT)
    mount_still(alice, bob)
    talk(alice, bob, "hello")
    talk(alice, bob, "and again")
    hers.wait(lambda ids: not ids, "what alice has read to be gone")
    alice.unmount()
    write(bob, "alice", "the message")
    (id_,) = hers.wait(bool, "it to be at the server")
    bob.unmount()
    before = his.ids()
    envelope = hers.take(id_)
    hers.put(envelope[:at] + bytes([envelope[at] ^ 1]) + envelope[at + 1 :])
    mount_still(alice)
    kept = alice.mountpoint / "quarantine"
    wait_for(lambda: kept.is_dir() and any(kept.iterdir()), "it to be kept")
    hers.put(envelope)
    alice.wait_message("bob", "the message")
    assert his.ids() == before
    write(alice, "bob", "the answer")
    wait_for(lambda: len(his.ids()) > len(before) and nothing_waits(alice), "it to be delivered")
    assert len(his.ids()) == len(before) + 1, "and nothing with it"
    bob.mount()
    bob.wait_message("alice", "the answer")


@dataclass
class Stolen:
    """A backup of ``bob``'s, and what everybody knows of alice."""

    account: Account
    pair: PrekeyPair
    sessions: list[Session]
    directories: Directories

    @classmethod
    def of(cls, copy: Path) -> "Stolen":
        held = account(copy)
        with opened_store(copy, SYSTEM_RANDOM) as store, store.read() as reader:
            pair = PrekeySecrets(reader).of(PrekeyKind.ONE_TIME)[-1]
            sessions = [decode_held(data).session for _key, data in reader.items(Table.SESSIONS)]
        return cls(held, pair, sessions, Directories(held.person.directory))

    def poses_as(self, her: Account) -> Thief:
        mine, hers = self.account.profile, her.profile
        peer = Peer(mine.identity(self.account.person), mine.auth, mine.kem)
        public = hers.identity(her.person), hers.auth, her.kem_public
        return Thief(self.pair, self.account.party, peer, public)

    def part(self, text: bytes, people: tuple[str, ...]) -> bytes:
        """A message to their conversation, as an honest client makes it."""
        participants = self.directories.people(people)
        return encode_part(
            Part(
                salt=SYSTEM_RANDOM.token(SALT_SIZE),
                conversation=conversation_id(participants, "", 0),
                parents=(),
                participants=participants,
                subject="",
                date=milliseconds(),
                file_name="",
                number=0,
                count=1,
                size=len(text),
                digest=blake2b(text, digest_size=32).digest(),
                chunk=text,
                bundle=b"",
            )
        )


def test_a_backup_of_bob_s_leads_no_conversation_elsewhere(here: World) -> None:
    """Whoever has it begins a session as alice, says what has come, asks for the rest, and reads
    along at the server. What has no receipt went to him, and what was written next."""
    alice, bob = here.account("alice"), here.account("bob")
    her = account(alice.account)
    for user in (alice, bob):
        user.mount()
    talk(alice, bob, "hello")
    bob.unmount()
    copy = here.place / "backup"
    shutil.copytree(bob.account, copy)
    stolen = Stolen.of(copy)
    assert stolen.sessions
    mount_still(bob)
    talk(alice, bob, "later")
    talk(alice, bob, "and on")
    hers, his = Mailbox(her), Mailbox(stolen.account)
    hers.wait(lambda ids: not ids, "what alice has read to be gone")
    alice.unmount()
    write(bob, "alice", "without a receipt")
    hers.wait(lambda ids: len(ids) == 1, "it to be at the server")

    thief = stolen.poses_as(her)
    note = Note(Refs(received=(bytes(32),), wanted=(bytes(32),)), b"")
    people = ("alice", "bob")
    his.put(thief.seal(encode_note(note)), thief.seal(stolen.part(b"where is the key?", people)))
    bob.wait_message("alice", "where is the key?")
    write(bob, "alice", "the key is under the mat")
    hers.wait(lambda ids: len(ids) >= 3, "the answer, on the session of each")
    bob.unmount()
    seen, now = hers.envelopes(), milliseconds() // 1_000
    assert thief.recognises(seen) == 1, "he is answered, as she would be, and nothing is sent again"
    assert not thief.reads(seen, now)
    for session in stolen.sessions:
        bodies = opened(session, stolen.account.party, seen, now)
        assert not [body for body in bodies if b"mat" in body or b"receipt" in body]

    alice.mount()
    alice.wait_message("bob", "without a receipt")
    alice.wait_message("bob", "the key is under the mat")
    bob.mount()
    talk(alice, bob, "after all")


def test_nothing_links_what_lies_in_a_mailbox(here: World) -> None:
    """All envelopes before the first answer had 1,136 bytes in common."""
    names = ("alice", "bob", "carol")
    alice, bob, carol = (here.account(name) for name in names)
    his = Mailbox(account(bob.account))
    for user in (alice, carol):
        user.mount()
        for text in ("one", "two", "x" * 30_000):
            write(user, "bob", text)
    his.wait(lambda ids: len(ids) >= 2 * (2 + 3), "all of it to be at the server")
    assert not linked(his.envelopes())  # there may be more by now: a note clock ticks
