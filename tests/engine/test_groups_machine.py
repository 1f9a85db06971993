"""Four people and one whom nobody knows write in groups, to each other and to themselves, while
they block each other, call each other otherwise, and names freeze, change and fall into doubt, in
any order: whoever is not left out gets everything, whoever is left out gets nothing, and states,
transcripts and the queue say so."""

import shutil
import tempfile
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cbfs.contacts.look_up import Blocked
from cbfs.messages.model import Delivery
from cbfs.messages.queues import delivery_queue
from cbfs.problems import ContactRefused, NotYet
from cbfs.storage.store import Table
from cbfs_common.names.entry import Status
from tests.support.groups_world import UNKNOWN, GroupClient, Told, begin

pytestmark = pytest.mark.slow

NAMES = ("alice", "bob", "carol", "dave")
GROUP = (*NAMES, UNKNOWN)
WHO = st.sampled_from(NAMES)
TO = st.sampled_from([GROUP, GROUP, NAMES, NAMES[:2], NAMES[1:], ()])
MINUTE, HOUR = 60_000, 3_600_000


class Groups(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        self.place = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self.world = begin(self.place, NAMES)
        self.told: list[Told] = []
        self.petnames = 0

    def client(self, name: str) -> GroupClient:
        client = cast(GroupClient, self.world.clients[name])
        client.load()
        return client

    def note(self, client: GroupClient, people: tuple[str, ...], text: bytes) -> None:
        """What is to become of a message that was just written."""
        written = client.write(people, text)
        states = {
            who: Delivery.LEFT_OUT if self.blocks(client, who) else Delivery.QUEUED
            for who in people
        }
        self.told.append(Told(written, states or {client.name: Delivery.KEPT}))

    @staticmethod
    def blocks(client: GroupClient, who: str) -> bool:
        contact = client.context.contacts.get(who)
        return contact is not None and contact.blocked > 0

    @staticmethod
    def stops(client: GroupClient, who: str) -> bool:
        contact = client.context.contacts.get(who)
        frozen = contact is not None and contact.entry.status is Status.FROZEN
        return frozen or (contact is not None and contact.offered is not None)

    @initialize()
    def begin(self) -> None:
        """alice begins the group, before anybody is in anybody's way."""
        self.note(self.client("alice"), GROUP[1:], b"hello")
        self.deliver("alice")

    @rule(who=WHO, to=TO)
    def write(self, who: str, to: tuple[str, ...]) -> None:
        client, people = self.client(who), tuple(name for name in to if name != who)
        text = f"{len(self.told)} of {who}".encode()
        if not people:
            self.note(client, (), text)
            return
        begins = all(
            c.participants != tuple(sorted({*people, who}))
            for c in client.context.conversations.values()
        )
        others = [name for name in people if not self.blocks(client, name)]
        expected: type[Exception] | None = None
        if not others:
            expected = Blocked
        elif begins and UNKNOWN in others:
            expected = NotYet
        elif all(self.stops(client, name) for name in others):
            expected = ContactRefused
        try:
            client.check(people, begins=begins)
        except (Blocked, NotYet, ContactRefused) as error:
            assert expected is not None, f"{people} were kept from {who}'s message: {error}"
            assert isinstance(error, expected)
            return
        assert expected is None
        self.note(client, people, text)

    @rule(who=WHO, whom=WHO)
    def block(self, who: str, whom: str) -> None:
        client = self.client(who)
        if who == whom or self.blocks(client, whom):
            return
        client.mark(whom, on=True)
        for told in self.told:
            if told.written.sender == who and told.states.get(whom) is Delivery.QUEUED:
                told.states[whom] = Delivery.LEFT_OUT

    @rule(who=WHO, whom=WHO)
    def unblock(self, who: str, whom: str) -> None:
        if who != whom:
            self.client(who).mark(whom, on=False)

    @rule(who=WHO, whom=WHO, how=st.sampled_from(["freeze", "reregister", "doubt", "settle"]))
    def change(self, who: str, whom: str, how: str) -> None:
        if who == whom:
            return
        client = self.client(who)
        if how == "freeze":
            client.freeze(whom, on=True)
        elif how == "reregister":
            client.reregister(whom)
        elif how == "doubt":
            client.doubt(whom)
        else:
            client.settle(whom)

    @rule(who=WHO, whom=WHO, back=st.booleans())
    def call(self, who: str, whom: str, back: bool) -> None:
        if who != whom:
            self.petnames += 1
            self.client(who).call(whom, whom if back else f"pet-{self.petnames}")

    @rule(who=WHO)
    def deliver(self, who: str) -> None:
        client = self.client(who)
        reached = {
            name for name in NAMES if name != who and not self.blocks(client, name)
            and not self.stops(client, name) and not client.contact(name).doubted
        }  # fmt: skip
        silent = [name for name in NAMES if name != who and self.blocks(client, name)]
        before = [len(self.world.clients[name].mail) for name in silent]
        client.pump(fails=False)
        assert [len(self.world.clients[name].mail) for name in silent] == before
        for told in self.told:
            if told.written.sender == who:
                for name in reached & told.states.keys():
                    if told.states[name] is Delivery.QUEUED:
                        told.states[name] = Delivery.SENT

    @rule(who=WHO)
    def receive(self, who: str) -> None:
        client = self.client(who)
        mail, client.mail = client.mail, []
        for told in self.told:
            if told.written.sender != who and self.blocks(client, told.written.sender):
                told.excused.add(who)
        client.receive(mail)
        client.look_after_prekeys()

    @rule(minutes=st.integers(1, 240))
    def wait(self, minutes: int) -> None:
        self.world.now += minutes * MINUTE

    @invariant()
    def everything_is_as_it_is_said(self) -> None:
        self.world.now += 1_000
        for name in NAMES:
            client = self.client(name)
            mine = {told.written.id: told for told in self.told if told.written.sender == name}
            own = client.own()
            assert {message.id for _c, message in own} == mine.keys()
            for _conversation, message in own:
                told = mine[message.id]
                self.check_states(message.recipients, told)
                entry = client.transcript(message)
                left = sorted(w for w, s in told.states.items() if s is Delivery.LEFT_OUT)
                labels = ", ".join(client.context.contacts.label(who) for who in left)
                said = f"    (not sent to {labels}: blocked)\n" if left else "\n"
                assert entry.endswith(said)
                assert entry.count("(not sent to") == bool(left)
            client.check_transcripts()
            assert not client.count(Table.QUEUE, Table.NOTE_ITEMS)
            with client.store.read() as reader:
                waiting = delivery_queue.waiting(reader)
            expected: dict[str, int] = {}
            for told in mine.values():
                for who, state in told.states.items():
                    if state is Delivery.QUEUED:
                        expected[who] = expected.get(who, 0) + 1
            for who, count in expected.items():
                assert waiting[who] >= count  # what was asked for again waits as well
            assert not [who for who in waiting if self.blocks(client, who)]
            self.check_shown(client)

    @staticmethod
    def check_states(states: tuple[tuple[str, Delivery], ...], told: Told) -> None:
        assert dict(states).keys() == told.states.keys()
        for who, state in states:
            expected = told.states[who]
            received = state is Delivery.RECEIVED and expected is Delivery.SENT
            assert state is expected or received, f"{who}: {state}, and not {expected}"

    def check_shown(self, client: GroupClient) -> None:
        """Nobody has what is not for them, and nobody has anything twice."""
        shown = [id_ for _sender, id_, _parents, _text in client.shown()]
        assert len(shown) == len(set(shown))
        for told in self.told:
            if told.written.id in shown and told.written.sender != client.name:
                state = told.states.get(client.name)
                assert state is Delivery.SENT, f"{client.name} has what was {state}"

    def missing(self) -> list[tuple[str, bytes]]:
        found = []
        for name in NAMES:
            shown = {id_ for _sender, id_, _parents, _text in self.client(name).shown()}
            for told in self.told:
                waits = told.states.get(name) in (Delivery.QUEUED, Delivery.SENT)
                if waits and name not in told.excused and told.written.id not in shown:
                    found.append((name, told.written.text))
        return found

    def settle(self) -> None:
        """Nothing is in the way any more; what everybody says now shows what is missing, so that
        it is asked for. Everybody is blocked by somebody, and called otherwise, once more."""
        for who, whom in zip(NAMES, NAMES[1:] + NAMES[:1], strict=True):
            self.receive(who)
            self.block(who, whom)
            self.world.now += HOUR
            self.deliver(who)
        for who in NAMES:
            for whom in NAMES:
                self.unblock(who, whom)
                self.change(who, whom, "settle")
                self.call(who, whom, back=False)
        for _ in range(2):
            for who in NAMES:
                self.write(who, GROUP)
                self.deliver(who)
            for who in NAMES:
                self.receive(who)
            self.world.now += 5 * MINUTE
        for _ in range(30):
            for who in NAMES:
                self.deliver(who)
            for who in NAMES:
                self.receive(who)
            self.everything_is_as_it_is_said()
            self.world.now += 5 * HOUR
            if not self.missing():
                return

    def teardown(self) -> None:
        try:
            self.settle()
            assert not self.missing()
        finally:
            self.world.close()
            shutil.rmtree(self.place)


Groups.TestCase.settings = settings(
    max_examples=20,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
TestGroups = Groups.TestCase
