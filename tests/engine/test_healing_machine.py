"""Three people write to each other and remove what they wrote, over servers that lose, repeat and
reorder, restart after every step, and are restored from old exports. Nothing arrives that was
removed before it left. When the network behaves at last, everybody has every message exactly once,
in one order, which respects parents."""

import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support.healing_world import ONE_TIME, START, Client, Records, World, Written

pytestmark = pytest.mark.slow

NAMES = ("alice", "bob", "carol")
WHO = st.sampled_from(NAMES)
HOUR = 3_600_000
PATIENCE = 40 * HOUR
"""How long the network may misbehave: offers are made for longer."""

GIVEN_AGAIN = 2
"""How often a prekey that is used may be given out again. Each time costs one of the fresh sessions
that a message is offered in, of which there are few; beside a server that always does so, more may
leave two people no way to each other."""

WEEKS = 14
"""In which everybody writes to everybody once in eight days: as long as offers are made."""

LARGE = 20_000
"""Bytes: two parts."""


class Healing(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        self.place = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self.world = World(self.place)
        self.written: list[Written] = []
        self.exports: dict[str, tuple[Records, int]] = {}
        self.given_again: Counter[bytes] = Counter()
        """How often a prekey is given out again by a server that does not always do so."""

    @initialize()
    def begin(self) -> None:
        self.world.begin(NAMES)

    def _client(self, name: str) -> Client:
        client = self.world.clients[name]
        client.load()
        return client

    @rule(who=WHO, to=st.sets(WHO, min_size=1), large=st.booleans())
    def write(self, who: str, to: set[str], large: bool) -> None:
        people = tuple(sorted(to - {who}))
        if people:
            text = f"{len(self.written)} of {who}".encode() * (LARGE // 8 if large else 1)
            self.written.append(self._client(who).write(people, text))

    @rule(who=WHO, pick=st.integers(0, 9))
    def remove(self, who: str, pick: int) -> None:
        """One of the last that this one has written."""
        own = [w for w in self.written if w.sender == who and not w.lost and not w.removed]
        if own:
            self._client(who).remove(own[-1 - pick % len(own)])

    @rule(who=WHO, fails=st.sampled_from([False, False, True]))
    def deliver(self, who: str, fails: bool) -> None:
        self._client(who).pump(fails=fails)

    @rule(who=WHO, to=WHO)
    def tick(self, who: str, to: str) -> None:
        if who != to and self.written:
            self._client(who).tick(self.world.clients[to])

    @rule(who=WHO, count=st.integers(1, 9), last_first=st.booleans())
    def receive(self, who: str, count: int, last_first: bool) -> None:
        mail = self.world.clients[who].mail
        taken = mail[-count:][::-1] if last_first else mail[:count]
        if taken:
            self._client(who).receive(taken)
            self.world.clients[who].mail = mail[:-count] if last_first else mail[count:]

    @rule(who=WHO, pick=st.integers(0, 99))
    def lose(self, who: str, pick: int) -> None:
        mail = self.world.clients[who].mail
        if mail:
            mail.pop(pick % len(mail))

    @rule(who=WHO, pick=st.integers(0, 99))
    def repeat(self, who: str, pick: int) -> None:
        mail = self.world.clients[who].mail
        if mail:
            mail.append(mail[pick % len(mail)])

    @rule(who=WHO, pick=st.integers(0, 99))
    def garble(self, who: str, pick: int) -> None:
        mail = self.world.clients[who].mail
        if mail:
            envelope = mail[pick % len(mail)]
            at = pick * 165 % len(envelope)
            changed = bytes([envelope[at] ^ 1])
            mail[pick % len(mail)] = envelope[:at] + changed + envelope[at + 1 :]

    @rule(who=WHO)
    def refill(self, who: str) -> None:
        self._client(who).look_after_prekeys()

    @rule(reissued=WHO)
    def reissue(self, reissued: str) -> None:
        """A server gives one prekey to two people, or to three."""
        shelf = self.world.clients[reissued].shelf
        for first in shelf.one_time[:1]:
            if self.given_again[first] < GIVEN_AGAIN:
                self.given_again[first] += 1
                shelf.one_time.insert(0, first)

    @rule(who=WHO, says=st.sampled_from((0, 0, 1, ONE_TIME, 1_000)), looks=st.integers(0, 20))
    def lie(self, who: str, says: int, looks: int) -> None:
        """From now on a server gives everybody one prekey, and lies about how many it has. Only one
        does: two people whose servers both do may have no way to each other."""
        for other in NAMES:
            self.be_honest(other)
        client = self._client(who)
        client.shelf.says = says
        for _ in range(looks):
            client.look_after_prekeys()

    @rule(who=WHO)
    def be_honest(self, who: str) -> None:
        """But for the prekey that it gave everybody: it has that still."""
        shelf = self.world.clients[who].shelf
        if shelf.says is not None:
            self.given_again.update(shelf.one_time[:1])
        shelf.says = None

    @rule(who=WHO)
    def export(self, who: str) -> None:
        self.exports[who] = self._client(who).export(), len(self.written)

    @rule(who=WHO)
    def restore(self, who: str) -> None:
        """To the last export: what was written since is known to those who have it."""
        if who in self.exports:
            records, count = self.exports[who]
            for written in self.written[count:]:
                written.lost |= written.sender == who
            self.world.never -= {
                (other, written.id)
                for written in self.written
                for other in NAMES
                if written.sender == who  # which has forgotten that it removed it
            }
            self._client(who).restore(records)

    @rule(minutes=st.integers(1, 240))
    def wait(self, minutes: int) -> None:
        self.world.now = min(self.world.now + minutes * 60_000, START + PATIENCE)

    @invariant()
    def time_passes(self) -> None:
        self.world.now += 1_000

    @invariant()
    def nothing_twice_and_nothing_wrong(self) -> None:
        known = {written.id: written for written in self.written}
        for client in self.world.clients.values():
            seen = set()
            for sender, id_, _parents, text in client.shown():
                assert id_ not in seen
                seen.add(id_)
                assert (known[id_].sender, known[id_].text) == (sender, text)
                assert client.name in known[id_].participants
                assert (client.name, id_) not in self.world.never

    @invariant()
    def no_secret_is_forgotten(self) -> None:
        """Of a prekey that a server may still give out, whatever it says that it has."""
        for client in self.world.clients.values():
            assert not client.forgotten

    def _one_order(self) -> None:
        """What two have of a conversation is in one order in both transcripts."""
        told = [self._client(name).transcripts() for name in NAMES]
        for one in told:
            for other in told:
                for key in one.keys() & other.keys():
                    both = set(one[key]) & set(other[key])
                    assert [i for i in one[key] if i in both] == [
                        i for i in other[key] if i in both
                    ]

    def _misses(self, name: str) -> list[Written]:
        """What this one does not have, and somebody still has to send."""
        has = {id_ for _sender, id_, _parents, _text in self.world.clients[name].shown()}
        return [
            w
            for w in self.written
            if name in w.participants and not (w.lost or w.removed) and w.id not in has
        ]

    def _write_all(self, text: str) -> None:
        """Everybody writes in every conversation: that shows what is missing, and begins other
        sessions where nothing was heard for long."""
        for who in NAMES:
            groups = [tuple(n for n in NAMES if n not in (who, o)) for o in (None, *NAMES)]
            for people in dict.fromkeys(group for group in groups if group):
                words = f"{text} of {who}".encode()
                self.written.append(self._client(who).write(people, words))
                self.world.now += 1_000

    def _settle(self) -> bool:
        for hours in range(0, WEEKS * 7 * 24, 5):
            if hours % (8 * 24) < 5 <= hours:
                self._write_all(f"after {hours} hours")
            for name in NAMES:
                self._client(name).pump(fails=False)
                for other in NAMES:
                    if other != name:
                        self._client(name).tick(self.world.clients[other])
            for name in NAMES:
                client = self._client(name)
                mail, client.mail = client.mail, []
                client.receive(mail)
                client.look_after_prekeys()
            self.world.now += 5 * HOUR
            if not any(self._misses(name) for name in NAMES):
                return True
        return False

    def teardown(self) -> None:
        try:
            if self.written:
                self._write_all("end")
                assert self._settle(), {name: self._misses(name) for name in NAMES}
            self.nothing_twice_and_nothing_wrong()
            self._one_order()
            for client in self.world.clients.values():
                order = {id_: n for n, (_, id_, _, _) in enumerate(client.shown())}
                for _sender, id_, parents, _text in client.shown():
                    assert all(order[p] < order[id_] for p in parents if p in order)
        finally:
            self.world.close()
            shutil.rmtree(self.place)


Healing.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
TestHealing = Healing.TestCase
