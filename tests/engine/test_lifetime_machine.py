"""The three of the healing machine, who also set lifetimes: over a network that loses, repeats and
reorders, with restarts and restored exports, nothing that has ended is left with anybody, all else
arrives, and in the end all agree."""

import shutil
from functools import partial

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from cbfs.engine.expiry import Timetable, end
from cbfs.messages import history, lifetimes
from cbfs.storage.store import Table
from cbfs_common.limits import LIFETIME_WAIT, MESSAGE_LIFETIME_MAX
from cbfs_common.messages.conversation import Lifetime
from tests.engine.test_healing_machine import NAMES, WHO, Healing
from tests.support.healing_world import Client

pytestmark = pytest.mark.slow

LIFETIMES = st.sampled_from([0, 60, 3_600, 86_400])


class Ends(Healing):
    @rule(who=WHO, pick=st.integers(0, 9), seconds=LIFETIMES)
    def set_lifetime(self, who: str, pick: int, seconds: int) -> None:
        client = self._client(who)
        talks = sorted(client.context.conversations)
        if talks:
            key, now = talks[pick % len(talks)], self.world.now
            client.store.write(lambda writer: lifetimes.choose(writer, key, seconds, who, now))

    @rule(who=WHO, to=st.sets(WHO, min_size=1), large=st.booleans())
    def write(self, who: str, to: set[str], large: bool) -> None:
        super().write(who, to, large)
        self._note()

    def _note(self) -> None:
        """What ends nobody has to have."""
        for written in self.written:
            client = self.world.clients[written.sender]
            for key, talk in client.context.conversations.items():
                if talk.participants == written.participants:
                    with client.store.read() as reader:
                        found = history.find_message(reader, key, written.sender, written.id)
                    written.lost |= found is not None and found.ends > 0

    @invariant()
    def nothing_is_there_whose_time_is_over(self) -> None:
        for client in self.world.clients.values():
            self._end(client)
            with client.store.read() as reader:
                for key in client.context.conversations:
                    for message in history.load_messages(reader, key):
                        assert message.ends == 0 or message.ends > self.world.now

    def _end(self, client: Client) -> None:
        timetable = Timetable()
        while True:
            with client.store.read() as reader:
                due = timetable.due(reader, self.world.now, 64)
            if not due:
                return
            client.store.write(partial(end, ends=due, now=self.world.now))

    def teardown(self) -> None:
        try:
            if not self.written:
                return
            for _ in range(2):  # in the second round all know of all changes
                self._exchange()
                assert self._settle()
            self._agree()
            self.world.now += (MESSAGE_LIFETIME_MAX + LIFETIME_WAIT) * 1_000
            self.nothing_twice_and_nothing_wrong()
            for client in self.world.clients.values():
                self._end(client)
                self._nothing_is_left(client)
        finally:
            self.world.close()
            shutil.rmtree(self.place)

    def _exchange(self) -> None:
        for who in NAMES:
            groups = [tuple(n for n in NAMES if n not in (who, o)) for o in (None, *NAMES)]
            for people in dict.fromkeys(group for group in groups if group):
                self.written.append(self._client(who).write(people, f"end {who}".encode()))
                self.world.now += 1_000
        self._note()

    def _settle(self) -> bool:
        """Whatever is still on its way arrives as well, though nobody waits for it."""
        done = super()._settle()
        for _ in range(3):
            for name in NAMES:
                self._client(name).pump(fails=False)
            for name in NAMES:
                client = self._client(name)
                mail, client.mail = client.mail, []
                client.receive(mail)
        return done

    def _agree(self) -> None:
        known: dict[bytes, set[Lifetime]] = {}
        for client in self.world.clients.values():
            with client.store.read() as reader:
                for key in client.context.conversations:
                    known.setdefault(key, set()).add(lifetimes.setting(reader, key).lifetime)
        assert all(len(found) == 1 for found in known.values()), known

    def _nothing_is_left(self, client: Client) -> None:
        """Of what has ended; what is left has no end."""
        with client.store.read() as reader:
            talks = client.context.conversations
            left = [m for key in talks for m in history.load_messages(reader, key)]
            assert not any(message.ends for message in left)
            assert not list(reader.keys(Table.ENDS))
            assert not lifetimes.slots(reader)
            assert not lifetimes.counts(reader)
            contents = {key[:8] for key in reader.keys(Table.CONTENT)}
            assert len(contents) <= len(left) + reader.count(Table.PARTS)


Ends.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
TestEnds = Ends.TestCase
