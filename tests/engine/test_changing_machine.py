"""Five people go on with each other and with more, leave and write, in any order, while what they
send comes late, in another order, or not at all, and one of them forges what she likes. Nobody gets
what was not written to them, nobody has left who did not say so, and in the end everybody who is
written to has it."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cbfs.engine.groups import Unsaid
from cbfs.messages import history
from cbfs.messages.model import Conversation, Delivery, Message
from cbfs.problems import Refused
from tests.support.changing_world import DAY, Member, Town, end_of, going_on, town
from tests.support.parts import sole_part

pytestmark = pytest.mark.slow

NAMES = ("alice", "bob", "carol", "dave", "erin")
FIRST = NAMES[:3]
FORGER = "carol"
WHO = st.sampled_from(NAMES)


class ChangingGroups(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        self.place = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self.context = town(self.place, *NAMES)
        self.world: Town = self.context.__enter__()
        self.gone: set[str] = set()
        self.has_forged = False
        self.people: dict[bytes, tuple[str, ...]] = {}
        self.sent: list[tuple[str, Message]] = []

    def member(self, name: str) -> Member:
        return self.world.of(name)

    @initialize()
    def begin(self) -> None:
        self.note("alice", self.member("alice").begin(("bob", "carol"), "hello"))
        self.world.exchange()

    def note(self, who: str, message: Message) -> None:
        self.sent.append((who, message))

    @staticmethod
    def pick(member: Member, which: int) -> Conversation | None:
        there = member.open
        return there[which % len(there)] if there else None

    @rule(who=WHO, which=st.integers(0, 3))
    def write(self, who: str, which: int) -> None:
        member = self.member(who)
        where = self.pick(member, which)
        if where is None:
            return
        try:
            message = member.say(f"{len(self.sent)} of {who}", where)
        except Unsaid:
            return  # it would bring another one along, of which the others have not said so
        except Refused:
            assert where.present == (who,)
            return
        others = {name for name in where.participants if name not in (who, *where.left)}
        assert dict(message.recipients).keys() == others
        self.note(who, message)

    @rule(who=WHO, whom=WHO, which=st.integers(0, 3))
    def add(self, who: str, whom: str, which: int) -> None:
        member = self.member(who)
        where = self.pick(member, which)
        if where is None:
            return
        try:
            new = member.add(whom, where=where)
        except Refused:
            assert whom in self.gone
            return
        assert {whom, *where.present} <= set(new.present)
        assert end_of(member, member.context.conversations[where.id]) == new.id

    @rule(who=WHO, which=st.integers(0, 3))
    def leave(self, who: str, which: int) -> None:
        """Now and then: somebody has to be left."""
        member = self.member(who)
        where = self.pick(member, which)
        if where is not None and len(self.gone) < 2 and len(where.participants) > 2:
            member.leave(where)
            self.gone.add(who)

    @rule(to=WHO, people=st.sets(WHO), leaving=st.booleans(), root=st.booleans())
    def forge(self, to: str, people: set[str], leaving: bool, root: bool) -> None:
        """carol says to one person whatever she likes of who takes part, in her own name."""
        everybody = tuple(sorted({to, FORGER, *people}))
        if to == FORGER:
            return
        part = going_on(everybody, "forged") if root else sole_part(b"forged", everybody)
        if leaving:
            part = going_on(everybody, "forged", leaving=True) if root else part
            self.gone |= {FORGER} if root else set()
        self.has_forged |= root
        self.member(FORGER).forge(self.member(to), part)

    @rule(who=WHO)
    def deliver(self, who: str) -> None:
        self.world.send(who)

    @rule(who=WHO, order=st.randoms(use_true_random=False), lost=st.integers(0, 3))
    def receive(self, who: str, order: object, lost: int) -> None:
        member = self.member(who)
        mail = member.inbox()
        order.shuffle(mail)  # type: ignore[attr-defined]
        member.receive(mail[lost:])

    @rule(who=WHO)
    def begin_anew(self, who: str) -> None:
        """As after a restart: nothing but the store counts."""
        member = self.member(who)
        before = dict(member.context.conversations)
        member.load()
        assert member.context.conversations == before

    @invariant()
    def everything_is_as_it_is_said(self) -> None:
        self.world.now += 1_000
        for name in NAMES:
            member = self.member(name)
            folders: set[str] = set()
            for key, one in member.context.conversations.items():
                assert name in one.participants
                assert one.participants == self.people.setdefault(key, one.participants)
                assert set(one.left) <= self.gone
                end = member.context.conversations[end_of(member, one)]
                assert set(one.left) >= set(end.left) & set(one.participants)
                assert one.folder not in folders
                folders.add(one.folder)
            inodes = [c.outbox_inode for c in member.context.conversations.values()]
            assert len([i for i in inodes if i]) == len({i for i in inodes if i})
            self.check_shown(member)

    def check_shown(self, member: Member) -> None:
        with member.store.read() as reader:
            for key, one in member.context.conversations.items():
                for message in history.load_messages(reader, key):
                    assert message.sender in one.participants

    def settle(self) -> None:
        """Nothing is lost any more: whoever is written to has it in the end."""
        for _ in range(2):
            for name in NAMES:
                for which in range(len(self.member(name).open)):
                    self.write(name, which)
            self.world.exchange()
        for _ in range(8):
            self.world.now += 2 * DAY
            for name in NAMES:
                self.member(name).look_after_prekeys()
            self.world.exchange(1)
            self.everything_is_as_it_is_said()

    def check_all(self) -> None:
        for who, message in self.sent:
            if who in self.gone:
                continue  # who leaves takes back what was not delivered yet
            for name, _state in message.recipients:
                member = self.member(name)
                known = member.context.conversations.get(message.conversation)
                if known is not None and name in known.left:
                    continue
                if name in self.gone and known is None:
                    continue
                if who in self.gone and self.is_cancelled(who, name, message):
                    continue  # what had not left was not to be sent any more
                assert known is not None, f"{name} has not heard of what {who} wrote to them"
                with member.store.read() as reader:
                    assert history.has_message(reader, known.id, who, message.id)
        if not self.gone:  # all who are in it agree on who that is
            for name in NAMES:
                member = self.member(name)
                for one in member.open:
                    if self.has_forged and FORGER in one.present:
                        continue  # to whom she says what of who goes on with her is hers alone
                    for other in one.present:
                        assert self.end_at(other, one).present == one.present

    def is_cancelled(self, who: str, name: str, message: Message) -> bool:
        with self.member(who).store.read() as reader:
            found = history.find_message(reader, message.conversation, who, message.id)
        return found is not None and dict(found.recipients)[name] is Delivery.CANCELLED

    def end_at(self, name: str, one: Conversation) -> Conversation:
        member = self.member(name)
        known = member.context.conversations
        return known[end_of(member, known[one.id])] if one.id in known else one

    def teardown(self) -> None:
        try:
            self.settle()
            self.check_all()
        finally:
            self.context.__exit__(None, None, None)
            shutil.rmtree(self.place)


ChangingGroups.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
    # no shrinking: it takes minutes, and pytest would cut it off before anything was told
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
TestChangingGroups = ChangingGroups.TestCase
