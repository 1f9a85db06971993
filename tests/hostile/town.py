"""alice, whose client is real, and people of the real session code who send her what they like.

``Town.run`` opens alice's client over her store and closes it again; between two runs nothing is in
memory. The clock is trio's, which jumps."""

import logging
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import trio
import trio.testing

from cbfs.account.account import SYSTEM_RANDOM, Account, make_account, no_lock
from cbfs.account.settings import Configuration, Reactions, Settings, encode
from cbfs.contacts.contact import Mark, Standing, decode_contact
from cbfs.context import make_context
from cbfs.engine.engine import Engine
from cbfs.engine.guarded_view import GuardedView
from cbfs.engine.running import working
from cbfs.messages import conversations, history
from cbfs.messages.content import read_content
from cbfs.messages.model import Message
from cbfs.messages.queues.quarantine import envelope_at
from cbfs.names.directory import Directory
from cbfs.names.lookups import Lookups
from cbfs.names.own_name import OwnName
from cbfs.network.access import Network
from cbfs.network.pacing import PacedDialer
from cbfs.problems import Problems
from cbfs.receiving.message_requests import REQUESTS_MAX, STRANGERS_MAX
from cbfs.storage.root_key import NO_LOCK, Protection, RootFile, make_root_file
from cbfs.storage.store import Meta, Reader, Table
from cbfs_common.limits import (
    INCOMPLETE_MAX,
    SESSIONS_PER_PEER,
    WANTED_MAX,
)
from cbfs_common.messages.body import Part, encode_part
from cbfs_common.names.entry import NO_KEYS, Entry, Keys, Status
from cbfs_common.names.policy import Policy, parse_policy
from cbfs_common.names.proofs import encode_bundle
from cbfs_common.names.wire import LookedUp, Lookup
from cbfs_common.primitives import sign_public
from cbfs_common.session.prekey import PrekeyKind, PrekeyPair, decode_prekey, make_prekey
from cbfs_common.session.session import Party, Peer, Session, start
from tests.engine.test_engine import Recorder
from tests.hostile.wires import NameServer, Office, Wires
from tests.support.healing_world import DirectStore
from tests.support.names_liar import Liar
from tests.support.names_naive import (
    DIRECTORY,
    ZERO,
    make_policy,
)
from tests.support.parts import sole_part
from tests.support.talking import LIFE

SMALL = {
    "cbfs.contacts.prekey_secrets.PREKEY_SECRETS_MAX": 300,
    "cbfs.messages.queues.quarantine.QUARANTINE_MAX": 150,
    "cbfs.receiving.incoming.QUARANTINE_MAX": 40,
    "cbfs.receiving.message_requests.HELD_MAX": 8,
}
"""Limits that are lower here, so that they are reached."""

NAME_ENDS = 700 * 86_400
"""Seconds for which a name is registered."""

HOME, OTHER, NAMES = 1, 2, 3
"""Ports."""

PATIENCE = 900.0
"""Seconds of the jumping clock in which all must be well again."""

NEVER = 1e12
"""Seconds."""

SESSION_LENGTH = 20
"""Messages of bob's on one session, to which he gets no answers that he reads."""


class Faults(logging.Handler):
    """What was logged as a fault of the program: there must be none."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@dataclass
class Person:
    """Somebody with a name, who has alice's address. ``registered``: in the directory."""

    town: "Town"
    name: str
    account: Account
    registered: bool = True
    session: Session | None = None

    def __post_init__(self) -> None:
        self._bundle = b""
        if self.registered:
            self.register()

    def register(self) -> None:
        """These keys are the name's."""
        now = int(self.town.now())
        owners = Keys(1, (sign_public(self.account.owner),))
        profile = self.account.profile.encode()
        self.town.liar.put(
            Entry(
                self.name, 1, 1, Status.ACTIVE, now + NAME_ENDS, len(self.town.liar.rounds),
                ZERO, owners, NO_KEYS, profile,
            )
        )  # fmt: skip

    @property
    def bundle(self) -> bytes:
        """The proof of the name."""
        if not self._bundle and self.registered:
            found = self.town.liar.honest(Lookup(self.name))
            assert isinstance(found, LookedUp)
            self._bundle = encode_bundle(DIRECTORY, found.evidence, found.links)
        return self._bundle

    @property
    def party(self) -> Party:
        return self.account.party

    def begin(self, record: bytes | None = None, party: Party | None = None) -> None:
        """A new session with alice, by a prekey of hers."""
        alice = self.town.account
        taken = record or self.town.office.prekey(alice.profile.user_id)
        assert taken is not None
        profile = alice.profile
        peer, kem = (
            Peer(profile.identity(alice.person), profile.auth, profile.kem),
            alice.kem_public,
        )
        me, prekey = party or self.party, decode_prekey(taken)
        self.session = start(me, peer, prekey, kem, LIFE, SYSTEM_RANDOM)

    def seal(self, body: bytes, party: Party | None = None) -> bytes:
        if self.session is None:
            self.begin()
        assert self.session is not None
        self.session, envelope = self.session.seal(party or self.party, body, SYSTEM_RANDOM, LIFE)
        return envelope

    def part(self, text: bytes, people: tuple[str, ...] = ()) -> Part:
        """A message as an honest client writes it."""
        people = people or tuple(sorted(("alice", self.name)))
        return sole_part(text, people, date=int(self.town.now() * 1_000), bundle=self.bundle)


class Town:
    """Everybody, and the servers."""

    def __init__(self, reactions: Reactions = Reactions.PROMPT, *, ticks: bool = False) -> None:
        """``ticks``: notes leave by the note clock, too."""
        memory = Path("/dev/shm")
        self.place = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self._limits = ExitStack()
        for name, limit in SMALL.items():
            self._limits.enter_context(patch(name, limit))
        if not ticks:
            self._limits.enter_context(patch("cbfs.sending.note_clock.NOTE_CLOCK", NEVER))
        self._start = time.time()
        self._passed = 0.0
        self._running = False
        self.liar = Liar(clock=self.now)
        self.wires = Wires()
        self.office, self.other = Office(HOME), Office(OTHER)
        self.names = NameServer(NAMES, self.liar.answer)
        self.wires.servers = {HOME: self.office, OTHER: self.other, NAMES: self.names}
        self.policy: Policy = parse_policy(make_policy(self.names.address).encode())
        self.account = self._account("alice", self.office)
        self.alice = Person(self, "alice", self.account)
        make_root_file(self.place / "root", Protection(), NO_LOCK, SYSTEM_RANDOM.token)
        self.store = self._open_store()
        data = encode(Settings(reactions=reactions))
        self.store.write(lambda writer: writer.put(Table.META, Meta.SETTINGS, data))
        self.recorder = Recorder()
        self.contacts: set[str] = set()
        self.problems: tuple[str, ...] = ()
        self.written: list[bytes] = []
        self._sent = 0
        self.faults = Faults()
        logging.getLogger("cbfs.storage.faults").addHandler(self.faults)
        self.bob = self.person("bob")

    def close(self) -> None:
        logging.getLogger("cbfs.storage.faults").removeHandler(self.faults)
        self._limits.close()
        self.store.close()
        shutil.rmtree(self.place)

    def now(self) -> float:
        """Seconds since 1970."""
        return self._start + (trio.current_time() if self._running else 0) + self._passed

    def _account(self, name: str, office: Office) -> Account:
        return make_account(
            name, office.address, make_policy(self.names.address).encode(), SYSTEM_RANDOM
        )

    def person(self, name: str, *, registered: bool = True) -> Person:
        """Somebody new, at the other server."""
        return Person(self, name, self._account(name, self.other), registered)

    def give_prekey(self, who: Person) -> None:
        """Let others begin sessions with somebody."""
        pair = make_prekey(SYSTEM_RANDOM, PrekeyKind.LAST_RESORT, int(self.now()) + 25 * 86_400)
        self.other.keep(who.account, pair)

    def _open_store(self) -> DirectStore:
        root = RootFile(self.place / "root", no_lock, SYSTEM_RANDOM.token)
        return DirectStore(self.place / "store", root, SYSTEM_RANDOM)

    def reopen(self) -> None:
        """Nothing that is not on the disk is left."""
        self.store.close()
        self.store = self._open_store()

    # runs

    def run(self, body: Callable[[Engine], Awaitable[None]]) -> None:
        """Mount, do it, and unmount."""
        clock = trio.testing.MockClock(autojump_threshold=0)
        self._running = True

        async def go() -> None:
            try:
                async with self._client() as engine:
                    await body(engine)
                    self.problems = engine.report().problems
            finally:
                self._passed += trio.current_time()
                self._running = False

        trio.run(go, clock=clock)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Engine]:
        async with trio.open_nursery() as nursery:
            self.wires.nursery = nursery
            directory, view = self._directory(), GuardedView()
            configuration = Configuration(self.store)
            paced = PacedDialer(self.wires, configuration, SYSTEM_RANDOM)
            context = make_context(
                self.store,
                self.account,
                configuration,
                directory,
                paced,
                Problems(view.status_changed),
            )
            context = replace(context, clock=lambda: int(self.now() * 1_000))
            own = OwnName(self.store, directory, "alice", _nothing)
            network = Network(self.wires, None)
            async with working(context, network, directory, own, view) as engine:
                engine.attach(self.recorder)
                yield engine
            nursery.cancel_scope.cancel()

    def _directory(self) -> Directory:
        def load() -> bytes | None:
            with self.store.read() as reader:
                return reader.get(Table.META, b"directory")

        async def keep(state: bytes) -> None:
            await self.store.commit(lambda writer: writer.put(Table.META, b"directory", state))

        return Directory(Lookups(self.wires, self.policy, load, keep, self.now, SYSTEM_RANDOM))

    async def until(self, look: Callable[[], bool], what: str) -> None:
        """Until it is so, on the jumping clock."""
        with trio.move_on_after(PATIENCE):
            while not look():
                await trio.sleep(1)
        assert look(), f"waited in vain for {what}; {self.problems}"

    # what must be so whatever anybody does

    def send_good(self) -> bytes:
        """bob writes to alice."""
        text = b"good %d" % len(self.written)
        self.written.append(text)
        if self._sent % SESSION_LENGTH == 0:
            self.bob.begin()
        self._sent += 1
        self.send(self.bob.seal(encode_part(self.bob.part(text))))
        return text

    def send(self, envelope: bytes) -> None:
        """Into alice's mailbox."""
        self.office.put(self.account.profile.user_id, envelope)

    @property
    def mailbox(self) -> dict[bytes, bytes]:
        return self.office.box(self.account.profile.user_id)

    def begin(self) -> None:
        """alice has her prekeys at the server, and bob is known."""

        async def meet(engine: Engine) -> None:
            await self.until(
                lambda: len(self.office.prekeys.get(self.alice_id, ())) > 50, "prekeys"
            )
            await self.know(engine, "bob")

        self.run(meet)

    @property
    def alice_id(self) -> bytes:
        return self.account.profile.user_id

    async def know(self, engine: Engine, name: str) -> None:
        """alice writes to them, as it were."""
        await engine._context.look_up.find_all([name])
        self.contacts.add(name)

    async def block(self, engine: Engine, name: str) -> None:
        await self.know(engine, name)
        await engine.people.mark(name, Mark.BLOCKED, on=True)

    def check(self) -> None:
        """A good message arrives, the mailbox drains, and nothing is too much. The next call finds
        a client that was opened anew."""
        self.office.pushed.clear()
        text = self.send_good()

        async def settle(engine: Engine) -> None:
            await self.until(lambda: text in self.texts("bob"), f"{text!r}")
            await self.until(lambda: not self.mailbox, "the mailbox to be empty")
            await trio.sleep(60)  # what meets strangers, and what follows
            assert not self.mailbox

        self.run(settle)
        self.reopen()
        twice = [id_ for id_, count in self.office.pushed.items() if count > 1]
        assert not twice, "an envelope was pushed again: it was not handled"
        assert not self.faults.texts, "\n".join(self.faults.texts)
        self.check_store()

    def check_store(self) -> None:
        """What is shown is whose it says, once, and nothing has grown past its limit."""
        shown = [(m.conversation, m.sender, m.id) for m in self.messages()]
        assert len(set(shown)) == len(shown)
        texts = self.texts("bob")
        assert len(set(texts)) == len(texts)
        assert set(texts) <= set(self.written), "bob did not write that"
        # the directory is honest now, and does not wait for anybody
        blame = ("directory", "cannot be confirmed")
        blamed = [line for line in self.problems if any(words in line for words in blame)]
        assert not blamed, blamed
        with self.store.read() as reader:
            self._check_bounds(reader)

    def _check_bounds(self, reader: Reader) -> None:
        kept = [envelope_at(reader, key) for key in reader.keys(Table.QUARANTINE)]
        assert (
            len(set(kept)) == len(kept) <= SMALL["cbfs.messages.queues.quarantine.QUARANTINE_MAX"]
        )
        people = reader.count(Table.PEERS)
        peers = (decode_contact(data) for _key, data in reader.items(Table.PEERS))
        known = {peer.name for peer in peers if peer.standing is Standing.KNOWN}
        assert known <= self.contacts, "alice has not written to them"
        assert people <= STRANGERS_MAX + 2 * len(self.liar.entries)
        for table, most in (
            (Table.INBOX, SMALL["cbfs.receiving.incoming.QUARANTINE_MAX"]),
            (Table.SESSIONS, SESSIONS_PER_PEER * people),
            (Table.PREKEYS, SMALL["cbfs.contacts.prekey_secrets.PREKEY_SECRETS_MAX"]),
            (Table.REQUESTS, REQUESTS_MAX * SMALL["cbfs.receiving.message_requests.HELD_MAX"]),
            (Table.PARTS, INCOMPLETE_MAX * people),
            (Table.NOTE_ITEMS, 2 * WANTED_MAX * people + len(self.messages())),
        ):
            assert reader.count(table) <= most, table

    def messages(self) -> list[Message]:
        """All that are shown."""
        with self.store.read() as reader:
            return [
                message
                for conversation in conversations.load_conversations(reader)
                for message in history.load_messages(reader, conversation)
            ]

    def texts(self, sender: str) -> list[bytes]:
        """What somebody's messages say."""
        with self.store.read() as reader:
            return [
                read_content(reader, message.content, 0, message.content.size)
                for message in self.messages()
                if message.sender == sender
            ]

    def pairs(self) -> list[PrekeyPair]:
        """alice's prekeys, with their secrets: used ones are not there any more."""
        with self.store.read() as reader:
            return [PrekeyPair.decode(data) for _key, data in reader.items(Table.PREKEYS)]


def _nothing(*_arguments: object) -> None:
    pass
