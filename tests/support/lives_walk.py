"""Random walks through what befalls the sessions of two or three people, and the quiet after it:
the model of tests/engine/test_lives_model. A walk is a list of steps, any of which can be left
out."""

import json
import random as numbers
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import trio

from cbfs.contacts.sessions import Sessions
from cbfs.storage.store import Store, Table
from cbfs_common.session.states import Stage
from tests.support.forged_start import Thief
from tests.support.lives_store import Memory, plain_kem
from tests.support.lives_world import (
    DAY,
    HOUR,
    SECOND,
    Keys,
    LivesWorld,
    Papers,
    Person,
    Server,
    Snapshot,
)

Step = tuple[str, int, int, int]
"""What happens, to which two people, and which of several."""

WAITS = (SECOND, SECOND, HOUR, HOUR, DAY, 3 * DAY, 8 * DAY, 31 * DAY)
CLOCKS = (-40 * DAY, -DAY, HOUR // 2, 7 * DAY, 40 * DAY, 0)
GIVES = ("next", "next", "same", "last", "last", "old")
PATIENCE = 60 * DAY
"""How long all of it may take: messages are offered for longer."""

ALONE = 40
LIMIT = 14 * 7
"""Days: for which one person alone writes, and within which everything arrives."""

EVERY = 8
"""Days between two messages of somebody's: more than SILENCE."""


@dataclass
class Robbed:
    """Somebody else's copy of an account: of whom it is, and what is sent from it."""

    owner: Person
    papers: Papers
    memory: Memory
    sessions: Sessions
    ever: dict[str, list[Keys]]


class Walk:
    """One walk, of these people."""

    def __init__(self, seed: int, names: tuple[str, ...]) -> None:
        self.world = LivesWorld(seed, names)
        self.held: list[tuple[Server, bytes]] = []
        self.snapshots: dict[str, list[Snapshot]] = {name: [] for name in names}
        self.robbed: list[Robbed] = []
        self.thieves: list[tuple[Person, str, Thief]] = []
        self.began = self.world.now

    async def go(self, steps: Iterable[Step]) -> None:
        """Do all of these; what arrives is looked at in ``quiet``."""
        for person in self.world.people:
            await person.look_after_prekeys()
        for kind, a, b, c in steps:
            people = self.world.people
            one = people[a % len(people)]
            others = one.others()
            done = STEPS[kind](self, one, others[b % len(others)], c)
            if done is not None:
                await done
            self.world.now += SECOND

    # what happens

    def write(self, one: Person, other: Person, _c: int) -> None:
        one.write(other.name)

    def pump(self, one: Person, other: Person, c: int) -> None:
        one.pump(other.name, again=c % 4 == 3, fails=c % 5 == 4)

    def tick(self, one: Person, other: Person, c: int) -> None:
        for _ in range(c % 3 + 1):
            one.tick(other.name)

    def take(self, one: Person, _other: Person, c: int) -> None:
        servers = one.fetch()
        mail = servers[c % len(servers)].mail
        count = c % 5 + 1
        taken = mail[-count:][::-1] if c % 7 == 6 else mail[:count]
        for envelope in taken:
            mail.remove(envelope)
        if taken:
            one.receive(taken)

    def say(self, one: Person, other: Person, c: int) -> None:
        """Something is written, and read at once or held back."""
        before = len(one.keys_of(other.name).server.mail)
        one.write(other.name)
        one.pump(other.name)
        self._on_its_way(one, other, before, c)

    def nod(self, one: Person, other: Person, c: int) -> None:
        """A note, the same way."""
        before = len(one.keys_of(other.name).server.mail)
        one.tick(other.name)
        self._on_its_way(one, other, before, c)

    def _on_its_way(self, one: Person, other: Person, before: int, c: int) -> None:
        server = one.keys_of(other.name).server
        sent, server.mail = server.mail[before:], server.mail[:before]
        if c % 3 == 0:
            self.held += [(server, envelope) for envelope in sent]
        elif sent and server in other.fetch():
            other.receive(sent)

    def talk(self, one: Person, other: Person, c: int) -> None:
        """As usual, for a while."""
        for _ in range(c % 3 + 1):
            for person, peer in ((one, other), (other, one)):
                if c % 2:
                    person.write(peer.name)
                person.pump(peer.name)
                person.tick(peer.name)
            for person in (one, other):
                self._take_all(person)
            self.world.now += SECOND

    @staticmethod
    def _take_all(person: Person) -> None:
        for server in person.fetch():
            mail, server.mail = server.mail, []
            if mail:
                person.receive(mail)

    def lose(self, one: Person, _other: Person, c: int) -> None:
        mail = one.keys[0].server.mail
        if mail:
            mail.pop(c % len(mail))

    def hold(self, one: Person, _other: Person, c: int) -> None:
        """A server holds something back: one, or all of it."""
        server = one.keys[0].server
        count = len(server.mail) if c % 3 == 0 else 1
        for _ in range(min(count, len(server.mail))):
            self.held.append((server, server.mail.pop(c % len(server.mail))))

    def release(self, _one: Person, _other: Person, c: int) -> None:
        count = len(self.held) if c % 3 == 0 else 1
        for _ in range(min(count, len(self.held))):
            server, envelope = self.held.pop(c % len(self.held))
            owner = next((p for p in self.world.people if server in p.fetch()), None)
            if c % 2 and owner is not None:
                owner.receive([envelope])
            else:
                server.mail.append(envelope)

    def replay(self, one: Person, _other: Person, c: int) -> None:
        mine = [each for each in self.world.history if each[0] in one.fetch()]
        for server, envelope in mine[c % len(mine) :][: c % 4 + 1] if mine else ():
            server.mail.append(envelope)

    def shuffle(self, one: Person, _other: Person, c: int) -> None:
        numbers.Random(c).shuffle(one.keys[0].server.mail)

    def wait(self, _one: Person, _other: Person, c: int) -> None:
        latest = self.began + PATIENCE
        self.world.now = max(self.world.now, min(self.world.now + WAITS[c % len(WAITS)], latest))

    async def tidy(self, one: Person, _other: Person, _c: int) -> None:
        await one.tidy()

    async def refill(self, one: Person, _other: Person, _c: int) -> None:
        await one.look_after_prekeys()

    def give(self, one: Person, _other: Person, c: int) -> None:
        one.keys[0].server.gives = GIVES[c % len(GIVES)]

    def restart(self, one: Person, _other: Person, _c: int) -> None:
        one.load()

    def snapshot(self, one: Person, _other: Person, _c: int) -> None:
        self.snapshots[one.name].append(one.snapshot())

    def _old(self, one: Person, c: int) -> Snapshot | None:
        usable = [s for s in self.snapshots[one.name] if s.keys == one.keys]
        return usable[c % len(usable)] if usable else None

    async def restore(self, one: Person, _other: Person, c: int) -> None:
        snapshot = self._old(one, c)
        if snapshot is not None:
            one.restore(snapshot)
            if c % 3:
                await one.look_after_prekeys()

    def roll_back(self, one: Person, _other: Person, c: int) -> None:
        """To a copy, which nothing notices."""
        snapshot = self._old(one, c)
        if snapshot is not None:
            one.restore(snapshot, noticed=False)

    async def begin_anew(self, one: Person, _other: Person, _c: int) -> None:
        """With the keys, and nothing else."""
        one.restore(Snapshot({table: {} for table in Table}, Papers(), one.keys))
        for other in one.others():
            one.learn(other.name)
        await one.look_after_prekeys()

    async def rotate(self, one: Person, _other: Person, _c: int) -> None:
        if len(one.keys) <= 2:
            one.rotate(stolen=False)
            await one.look_after_prekeys()

    async def rob(self, one: Person, _other: Person, _c: int) -> None:
        one.rotate(stolen=True)
        await one.look_after_prekeys()

    def learn(self, one: Person, other: Person, _c: int) -> None:
        one.learn(other.name)

    def come_apart(self, one: Person, other: Person, _c: int) -> None:
        one.come_apart(other.name)

    def clock(self, one: Person, _other: Person, c: int) -> None:
        one.set_clock(CLOCKS[c % len(CLOCKS)])

    async def set_right(self, one: Person, _other: Person, _c: int) -> None:
        await one.set_right()

    def steal(self, one: Person, _other: Person, _c: int) -> None:
        taken = one.snapshot()
        memory = Memory(self.world.random, taken.records)
        me, *former = (keys.party for keys in one.keys)
        sessions = Sessions(memory_store(memory), me, self.world.random, tuple(former))
        ever = {person.name: list(person.ever) for person in self.world.people}
        self.robbed.append(Robbed(one, taken.papers, memory, sessions, ever))

    def use(self, _one: Person, other: Person, c: int) -> None:
        """Who has a copy writes on its sessions."""
        mine = [robbed for robbed in self.robbed if robbed.owner is not other]
        if not mine:
            return
        robbed = mine[c % len(mine)]
        keys = robbed.ever[other.name][robbed.papers.known.get(other.name, 0)]
        chosen = robbed.sessions.chosen(other.name, self.world.now, keys.party.identity)
        session = (chosen.first, chosen.note, chosen.second)[c % 3] or chosen.first
        if session is None or keys.server.ended:
            return
        batch = robbed.sessions.batch()
        envelope = batch.seal(session, other.name, self._lie([]), self.world.now)
        robbed.memory.write(batch.write)
        batch.done()
        keys.server.mail.append(envelope)

    def _lie(self, received: list[int]) -> bytes:
        return json.dumps([-self.world.number(), [], received, [], []]).encode()

    def forge(self, one: Person, other: Person, c: int) -> None:
        """Who has the secret of a prekey of one's begins a session with them, as the other."""
        pairs = [pair for _id, pair in sorted(one.sessions.prekeys.pairs.items())]
        if pairs:
            posed, me = one.keys_of(other.name), one.keys[0]
            public = posed.party.identity, posed.party.auth_public, posed.kem_public
            pair = pairs[c % len(pairs)]
            thief = Thief(pair, me.party, me.peer, public, self.world.random)
            self.thieves.append((one, other.name, thief))
            self._forged(one, other.name, thief)

    def forge_more(self, _one: Person, _other: Person, c: int) -> None:
        if self.thieves:
            self._forged(*self.thieves[c % len(self.thieves)])

    def _forged(self, one: Person, name: str, thief: Thief) -> None:
        """He says that all has arrived, where somebody else is known to be the other."""
        present = one.sessions.lives(name).present
        proven = any(
            h.session.stage is Stage.CONFIRMED
            and h.session.peer_life == present
            and h.session.own_identity == one.keys[0].party.identity
            for h in one.sessions._held.values()
            if h.peer == name
        )
        ids = [id_ for who, id_ in one.papers.states if who == name]
        before = dict(one.papers.states)
        one.receive([thief.seal(self._lie(ids if proven else []))])
        assert one.papers.states == before, "a thief is believed"

    # and what comes of it

    async def quiet(self, seed: int) -> None:
        """Everybody is honest from now on, and writes now and then: first one alone, it may be."""
        draws, people = numbers.Random(seed), self.world.people
        spent = [
            (one, key)
            for one in people
            for key, state in one.papers.states.items()
            if state == "sent" and key not in one.papers.offered and not one.waits(*key)
        ]
        for one in people:
            await one.set_right()
            for keys in one.ever:
                keys.server.gives = "next"
        late = draws.choice((0, 0, 20, LIMIT))
        alone = draws.choice((None, None, None, None, *people))
        if alone is not None and not self._has_lied():
            await self._days(draws, [alone], ALONE, late)
        await self._days(draws, people, LIMIT, late)
        missing = self._missing(spent)
        assert not missing, f"has not arrived: {missing}"
        await self._stays()

    def _has_lied(self) -> bool:
        """Whether a server has given a prekey out twice. Then who has lost everything may have to
        write as well: until then nobody can know that nothing reaches them."""
        return any(keys.server.lied for one in self.world.people for keys in one.ever)

    def _missing(self, spent: list[tuple[Person, tuple[str, int]]]) -> list[tuple[str, str, int]]:
        by_name = self.world.by_name
        return [
            (one.name, *key)
            for one in self.world.people
            for key in one.papers.states
            if key[1] not in by_name[key[0]].papers.shown and (one, key) not in spent
        ]

    async def _days(self, draws: numbers.Random, who: list[Person], days: int, late: int) -> None:
        early: list[tuple[Person, str, int]] = []
        for day in range(days):
            if day == late:
                self.release(who[0], who[0], 0)
            if day % EVERY == 0:
                for one in draws.sample(who, len(who)):
                    for other in one.others():
                        id_ = one.write(other.name)
                        if day <= days // 2:
                            early.append((one, other.name, id_))
            await self._round(draws, 1)
            self.world.now += DAY
            if len(who) > 1 and day > EVERY and day > late % LIMIT and not self._missing([]):
                break
        for one, name, id_ in early:
            arrived = id_ in self.world.by_name[name].papers.shown
            assert arrived, f"{id_} of {one.name} has not arrived within {days // 2} days"

    async def _round(self, draws: numbers.Random, ticks: int = 3) -> None:
        people = self.world.people
        for one in draws.sample(people, len(people)):
            for other in one.others():
                one.pump(other.name)
                for _ in range(ticks):
                    one.tick(other.name)
        for one in draws.sample(people, len(people)):
            self._take_all(one)
            await one.tidy()
            await one.look_after_prekeys()
        self.world.now += HOUR

    async def _stays(self) -> None:
        """What is written is there at once, and nobody gives up anything any more."""
        people = self.world.people
        draws = numbers.Random(0)
        for _ in range(4):
            await self._round(draws)
        lives = [one.sessions.lives(other.name).own for one in people for other in one.others()]
        for _ in range(3):
            written = [(other, one.write(other.name)) for one in people for other in one.others()]
            await self._round(draws)
            await self._round(draws)
            late = [(one.name, id_) for one, id_ in written if id_ not in one.papers.shown]
            assert not late, f"is not there at once: {late}"
            self.world.now += DAY
        after = [one.sessions.lives(other.name).own for one in people for other in one.others()]
        assert lives == after, "sessions are given up again and again"


def memory_store(memory: Memory) -> Store:
    """As sessions take it."""
    return memory  # type: ignore[return-value]


STEPS: dict[str, Callable[[Walk, Person, Person, int], Awaitable[None] | None]] = {
    "say": Walk.say,
    "nod": Walk.nod,
    "write": Walk.write,
    "pump": Walk.pump,
    "tick": Walk.tick,
    "take": Walk.take,
    "talk": Walk.talk,
    "lose": Walk.lose,
    "hold": Walk.hold,
    "release": Walk.release,
    "replay": Walk.replay,
    "shuffle": Walk.shuffle,
    "wait": Walk.wait,
    "tidy": Walk.tidy,
    "refill": Walk.refill,
    "give": Walk.give,
    "restart": Walk.restart,
    "snapshot": Walk.snapshot,
    "restore": Walk.restore,
    "roll back": Walk.roll_back,
    "begin anew": Walk.begin_anew,
    "rotate": Walk.rotate,
    "rob": Walk.rob,
    "learn": Walk.learn,
    "come apart": Walk.come_apart,
    "clock": Walk.clock,
    "set right": Walk.set_right,
    "steal": Walk.steal,
    "use": Walk.use,
    "forge": Walk.forge,
    "forge more": Walk.forge_more,
}
COMMON = ("write", "pump", "tick", "take", "wait", "hold", "release")
"""There in every long walk, and often."""

FEW = {"say": 6, "nod": 6, "release": 4, "talk": 2, "come apart": 2, "wait": 1}
OTHERS = ("restore", "give", "rotate", "clock", "set right", "replay", "forge", "use", "lose")
"""What short walks are made of: always, and one or two of them."""

SHORT = 18
SERVERS = {"say": 6, "nod": 4, "release": 6, "wait": 2, "shuffle": 1, "replay": 1}
"""What servers alone can do."""


def drawn(seed: int) -> tuple[tuple[str, ...], list[Step]]:
    """The people and steps of this seed. Most walks are short, and of few kinds of steps."""
    draws = numbers.Random(seed)
    names: tuple[str, ...] = ("alice", "bob")
    if draws.random() < 0.8:
        some = draws.sample(OTHERS, draws.randrange(3))
        weights = FEW | {kind: draws.choice((1, 2)) for kind in some}
        weights |= {"snapshot": 2} if "restore" in some else {}
        weights |= {"steal": 2} if "use" in some else {}
        length = draws.randrange(5, SHORT)
    else:
        names = (*names, "carol") if draws.random() < 0.5 else names
        weights = {kind: draws.choice((0, 0, 0, 1, 2)) for kind in STEPS}
        weights |= {kind: draws.choice((2, 4, 8)) for kind in COMMON}
        length = draws.randrange(10, 60)
    kinds = draws.choices(list(weights), list(weights.values()), k=length)
    return names, [_step(draws, kind) for kind in kinds]


def _step(draws: numbers.Random, kind: str) -> Step:
    return kind, draws.randrange(1_000), draws.randrange(1_000), draws.randrange(1_000)


def by_servers(seed: int, length: int) -> list[Step]:
    """Steps of servers alone, both of which give out nothing but their last-resort prekeys."""
    draws = numbers.Random(seed)
    kinds = draws.choices(list(SERVERS), list(SERVERS.values()), k=length)
    last = [("give", who, 0, GIVES.index("last")) for who in (0, 1)]
    return last + [_step(draws, kind) for kind in kinds]


@dataclass
class Told:
    """What has come of a walk: what is wrong, or empty; and by the names of people, how many starts
    by last-resort prekeys they have opened, and how often they have given up all sessions."""

    wrong: str = ""
    begun: dict[str, int] = field(default_factory=dict)
    parted: dict[str, int] = field(default_factory=dict)


def told_by(seed: int, names: tuple[str, ...], steps: Iterable[Step]) -> Told:
    """What comes of these steps, and of the quiet after them."""
    told = Told()

    async def main() -> None:
        walk = Walk(seed, names)
        try:
            await walk.go(steps)
            await walk.quiet(seed)
        except AssertionError as error:
            told.wrong = str(error) or "an assertion"
        for one in walk.world.people:
            told.begun[one.name], told.parted[one.name] = one.begun, one.parted

    with plain_kem():
        trio.run(main)
    return told


def walked(seed: int, names: tuple[str, ...], steps: Iterable[Step]) -> str:
    """What is wrong after these steps, or empty."""
    return told_by(seed, names, steps).wrong


def shrunk(seed: int, names: tuple[str, ...], steps: list[Step]) -> list[Step]:
    """As few of these as go wrong still: what comes after is left out, then one by one."""
    size = len(steps)
    while size > 1:
        at = size
        while at > 0:
            less = steps[: max(0, at - size)] + steps[at:]
            if walked(seed, names, less):
                steps = less
            at -= size
        size = max(1, size // 2) if size > 1 else 0
    before = None
    while before != steps:
        before = steps
        for at in reversed(range(len(steps))):
            less = steps[:at] + steps[at + 1 :]
            if walked(seed, names, less):
                steps = less
    return steps
