"""The machine of people who send what they like, whoever they are to alice."""

from dataclasses import replace
from random import Random

import trio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.engine.engine import Engine
from cbfs_common.errors import CbfsError
from cbfs_common.limits import BUNDLE_MAX, ENVELOPE_SIZE, SKIP_MAX
from cbfs_common.messages.body import encode_part
from cbfs_common.names.proofs import encode_bundle
from cbfs_common.session.envelope import ROUTE_SIZE
from cbfs_common.session.prekey import PREKEY_ID_SIZE, PrekeyKind, make_prekey
from cbfs_common.session.session import Party
from tests.hostile import nonsense
from tests.hostile.town import Person, Town
from tests.support.names_naive import (
    DIRECTORY,
    Forger,
    make_entry,
)

POINT = ROUTE_SIZE + PREKEY_ID_SIZE
"""Where a first envelope has its ephemeral key."""

SEEDS = st.randoms(use_true_random=True)
ROLES = st.sampled_from(
    (
        "contact", "blocked", "former", "stranger", "nobody", "impostor", "late", "replaced",
        "expired",
    )
)  # fmt: skip
BUNDLES = (
    "own", "own", "own", "none", "noise", "of bob", "of alice", "former", "another directory's",
    "an unknown directory's", "damaged", "large",
)  # fmt: skip
HANDSHAKES = ("one-time", "used", "unknown", "expired", "last")


class Senders(RuleBasedStateMachine):
    """After every step alice's client runs over what has come, twice, and a good message of bob's
    arrives each time."""

    def __init__(self) -> None:
        super().__init__()
        self.town = Town()
        self.people: dict[str, Person] = {}
        self.used: list[bytes] = []
        self.sealed: list[bytes] = []
        self.changed = False
        self.elsewhere = b""

    @initialize()
    def begin(self) -> None:
        town = self.town
        self.people = {
            "contact": town.person("mallory"),
            "blocked": town.person("blockhead"),
            "former": town.person("turncoat"),
            "stranger": town.person("stranger"),
            "late": town.person("latecomer"),
            "nobody": town.person("nobody1", registered=False),
        }
        for name in nonsense.CROWD[1:4]:  # who are named in groups, and never write
            town.give_prekey(town.person(name))
        # two whose proofs are right, and say what is so no more
        for role in ("replaced", "expired"):
            who = self.people[role] = town.person(role)
            entry = town.liar.entries[role]
            if role == "expired":
                town.liar.put(replace(entry, expires=int(town.now()) - 9))
            assert who.bundle
            if role == "replaced":
                town.liar.reregister(role, town.person("successor").account.profile.encode())
            town.liar.put(changed=(role,))
        impostor = town.person("bob", registered=False)
        impostor._bundle = town.bob.bundle
        self.people["impostor"] = impostor
        town.begin()

        async def know(engine: Engine) -> None:
            await town.know(engine, "mallory")
            await town.know(engine, "turncoat")
            await town.block(engine, "blockhead")

        town.run(know)
        # whom alice knows has other keys now, and goes on with the old ones as well
        old = self.people["former"]
        self.people["new"] = town.person("turncoat", registered=False)
        assert old.bundle
        forger = Forger(
            [make_entry("mallory", profile=self.people["contact"].account.profile.encode())],
            log_seed=b"x" * 32,
        )
        found = forger.look_up("mallory")
        self.elsewhere = encode_bundle(DIRECTORY, found.evidence, found.links)

    def teardown(self) -> None:
        try:
            if self.people:
                self.town.check()  # mounted again
        finally:
            self.town.close()

    # what they say of themselves

    def _bundle(self, who: Person, random: Random) -> bytes:
        match random.choice(BUNDLES):
            case "none":
                return b""
            case "noise":
                return random.randbytes(random.randrange(80))
            case "of bob":
                return self.town.bob.bundle
            case "of alice":
                return self.town.alice.bundle
            case "former":
                return self.people["former"].bundle
            case "another directory's":
                return self.elsewhere
            case "an unknown directory's":
                return who.bundle[:1] + random.randbytes(16) + who.bundle[17:]
            case "damaged":
                return nonsense.damaged(random, who.bundle)
            case "large":
                return bytes(BUNDLE_MAX)
        return who.bundle

    def _body(self, who: Person, random: Random) -> bytes:
        return nonsense.body(random, who.name, self._bundle(who, random))

    def _send(self, who: Person, body: bytes, party: Party | None = None) -> None:
        try:
            envelope = who.seal(body, party)
        except CbfsError:  # too long, or too many without an answer
            who.session = None
            return
        self.sealed.append(envelope)
        self._put(envelope)

    def _put(self, envelope: bytes) -> None:
        self.town.send(envelope)
        self.changed = True

    @rule(role=ROLES, anew=st.booleans(), count=st.sampled_from((1, 8, 24)), random=SEEDS)
    def say(self, role: str, anew: bool, count: int, random: Random) -> None:
        """Any bodies, in a session that goes on or a new one."""
        who = self.people[role]
        if anew:
            who.session = None
        for _ in range(count):
            self._send(who, self._body(who, random))

    @rule(role=ROLES, bundle=st.sampled_from((None, b"", b"no bundle")))
    def introduce_oneself(self, role: str, bundle: bytes | None) -> None:
        """A first message that is right, but for who it is from."""
        who = self.people[role]
        who.session = None
        shown = who.bundle if bundle is None else bundle
        self._send(who, encode_part(replace(who.part(b"hello"), bundle=shown)))

    @rule(role=ROLES, which=st.sampled_from(HANDSHAKES), count=st.integers(1, 3), random=SEEDS)
    def shake_hands(self, role: str, which: str, count: int, random: Random) -> None:
        """With a prekey that was used before, is none of hers, or is over."""
        who = self.people[role]
        record = self._record(which, random)
        if record is not None:
            self.used.append(record)
            for _ in range(count):  # a session each
                who.begin(record)
                self._send(who, self._body(who, random))

    def _record(self, which: str, random: Random) -> bytes | None:
        town, now = self.town, int(self.town.now())
        match which:
            case "used":
                return random.choice(self.used) if self.used else None
            case "last":
                return town.office.last.get(town.alice_id)
            case "unknown":
                pair = make_prekey(SYSTEM_RANDOM, PrekeyKind.ONE_TIME, now + 9_999)
                return pair.public(town.account.signing)
            case "expired":
                pair = random.choice(town.pairs())
                return replace(pair, expires=now - 1).public(town.account.signing)
        return town.office.prekey(town.alice_id)

    @rule(
        role=ROLES, point=st.sampled_from(nonsense.LOW_ORDER), where=st.sampled_from(("e", "auth"))
    )
    def give_low_order_points(self, role: str, point: bytes, where: str) -> None:
        who = self.people[role]
        party = replace(who.party, auth_public=point) if where == "auth" else None
        who.begin(party=party)
        envelope = who.seal(encode_part(who.part(b"x")), party)
        who.session = None
        if where == "e":
            envelope = envelope[:POINT] + point + envelope[POINT + len(point) :]
        self._put(envelope)

    @precondition(lambda self: self.sealed)
    @rule(count=st.integers(1, 8), random=SEEDS)
    def damage(self, count: int, random: Random) -> None:
        """Envelopes of before, changed on their way."""
        for _ in range(count):
            changed = nonsense.damaged(random, random.choice(self.sealed))[:ENVELOPE_SIZE]
            self._put(changed + bytes(ENVELOPE_SIZE - len(changed)))

    @precondition(lambda self: self.sealed)
    @rule(count=st.integers(1, 8), random=SEEDS)
    def repeat(self, count: int, random: Random) -> None:
        for _ in range(count):
            self._put(random.choice(self.sealed))

    @rule(role=ROLES, count=st.integers(2, 12), lost=st.integers(0, 6), random=SEEDS)
    def reorder(self, role: str, count: int, lost: int, random: Random) -> None:
        """Of what is sent some is lost, and the rest comes in any order."""
        box = self.town.mailbox
        for _ in range(count):
            self._send(self.people[role], self._body(self.people[role], random))
        items = list(box.items())
        random.shuffle(items)
        box.clear()
        box.update(items[lost:])

    @rule(role=ROLES)
    def run_ahead(self, role: str) -> None:
        """More are missing in between than are waited for."""
        who = self.people[role]
        for number in range(SKIP_MAX + 2):
            try:
                envelope = who.seal(encode_part(who.part(b"%d" % number)))
            except CbfsError:
                who.session = None
                return
            if number in (0, SKIP_MAX + 1):
                self._put(envelope)

    @rule(count=st.sampled_from((1, 8, 70)))
    def make_noise(self, count: int) -> None:
        for _ in range(count):
            self._put(SYSTEM_RANDOM.token(ENVELOPE_SIZE))

    @rule()
    def change_keys(self) -> None:
        """The old person goes on under the old keys; the name has other ones, of another owner."""
        new = self.people["new"]
        if not new.registered:
            profile = new.account.profile.encode()
            self.town.liar.reregister("turncoat", profile)
            new.registered = True

    @rule()
    def wait(self) -> None:
        async def idle(_engine: Engine) -> None:
            await trio.sleep(3 * 86_400)

        self.town.run(idle)

    @invariant()
    def all_is_well(self) -> None:
        if self.people and self.changed:
            self.changed = False
            self.town.check()
