"""What session.json holds. Made with tests/support/protocol_naive.py and kyber-py, without
cbfs_common; see tests.vectors.make."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.support.protocol_naive import BLANK, Person, Talk, fixed
from tests.vectors.cases import Case, File, case, changed

ALICE, BOB, CAROL = Person("alice"), Person("bob"), Person("carol")


PEOPLE = (ALICE, BOB)
NOTHING: list[str] = []
STARTED = ["turn 0 n 0", "turn 0 n 1"]
ANSWERED = [*STARTED, "turn 1 n 0"]
SKIPPED = [*STARTED, "turn 1 n 2"]
LATE = [*SKIPPED, "turn 2 n 0", "turn 2 n 1", "turn 3 n 0"]
"""What has happened at a side, by the names of envelopes."""


def people() -> list[Case]:
    return [
        case(
            person.name,
            identity=person.identity,
            auth_secret=person.auth,
            kem_seed=person.kem,
            life=person.life,
            prekey_id=person.prekey_id,
            prekey_kind=1,
            prekey_expires=2_000_000_000,
            prekey_x_secret=person.prekey_x,
            prekey_kem_seed=person.prekey_seed,
        )
        for person in PEOPLE
    ]


def turns() -> list[Case]:
    made = []
    for turn in range(4):
        person = PEOPLE[turn % 2]
        x, auth, *seed = person.draws(turn)
        made.append(
            case(
                f"turn {turn}",
                x_secret=x,
                auth_secret=auth,
                kem_seed=seed[0] if seed else b"",
                e_secret=b"" if turn else fixed("alice e", 32),
                m=person.m(turn),
            )
        )
    return made


def sealed() -> list[Case]:
    """Alice writes, Bob answers, twice."""
    talk, made = Talk(ALICE, BOB), []
    full = b"\xff" * 12_710
    for turn, (pn, count) in enumerate(((0, 2), (0, 3), (2, 2), (3, 1))):
        chain = talk.turn(pn) if turn else talk.chains[0]
        for n in range(count):
            body = f"turn {turn} number {n}".encode()
            body = (full if turn else b"") if n == 1 else body
            f, m = (b"", b"") if turn else ALICE.outer_draws(n)
            name = f"turn {turn} n {n}"
            made.append(case(name, turn=turn, n=n, body=body, f_secret=f, f_m=m,
                             envelope=chain.envelope(n, body)))  # fmt: skip
    return made


FIRST_FIELDS = {
    "route, tag": 0,
    "route, n": 15,
    "F": 16,
    "ct of the outer layer": 48,
    "sealed handshake": 1_136,
    "sealed header": 2_288,
    "auth": 3_624,
    "sealed body": 3_656,
    "last byte": 16_383,
}
LATER_FIELDS = {
    "route, tag": 0,
    "route, n": 15,
    "sealed header": 16,
    "auth": 2_380,
    "sealed body": 2_412,
    "last byte": 16_383,
}


def flipped(by: str, history: list[str], base: str, fields: dict[str, int]) -> list[Case]:
    return [
        case(f"{base}, bit of {name}", by=by, history=history, envelope=changed(base, at),
             error="noise")
        for name, at in fields.items()
    ]  # fmt: skip


def given(by: str, history: list[str], cases: dict[str, tuple[bytes, str]]) -> list[Case]:
    told = history[-1] if history else "nothing"
    return [
        case(f"{by} after {told}: {name}", by=by, history=history, envelope=envelope, error=error)
        for name, (envelope, error) in cases.items()
    ]


def right() -> list[Case]:
    """What opens, in each of the states in which others do not, and just so where there is a
    limit."""
    first, talk, again = Talk(ALICE, BOB).chains[0], Talk(ALICE, BOB), Talk(ALICE, BOB)
    answer = talk.turn(pn=0)
    again.turn(pn=0)
    second, far = talk.turn(pn=2), again.turn(pn=4_098)
    longest = bytes(12_710)
    made: list[tuple[str, str, list[str], bytes, bytes]] = [
        ("turn 0 n 0", "bob", NOTHING, first.envelope(0, b"hello"), b"hello"),
        ("turn 0 n 1 alone", "bob", NOTHING, first.envelope(1, b""), b""),
        ("n 4096", "bob", NOTHING, first.envelope(4_096, b"x"), b"x"),
        ("turn 1 n 1", "alice", ANSWERED, answer.envelope(1, b"hello"), b"hello"),
        ("turn 1 n 0 alone", "alice", STARTED, answer.envelope(0, b"x"), b"x"),
        ("n 4097", "alice", ANSWERED, answer.envelope(4_097, b"x"), b"x"),
        ("BODY_MAX bytes", "alice", ANSWERED, answer.envelope(1, longest), longest),
        ("turn 1 n 0, late", "alice", SKIPPED, answer.envelope(0, b"x"), b"x"),
        ("turn 1 n 1, later", "alice", LATE, answer.envelope(1, b"x"), b"x"),
        ("pn 2", "bob", ANSWERED, second.envelope(0, b"x"), b"x"),
        ("pn 4098", "bob", ANSWERED, far.envelope(0, b"x"), b"x"),
    ]
    return [
        case(name, by=by, history=history, envelope=envelope, body=body)
        for name, by, history, envelope, body in made
    ]


def wrong_first() -> list[Case]:
    """Envelopes of a start that Bob must refuse, who knows nothing yet."""
    chain = Talk(ALICE, BOB).chains[0]
    good, keys = chain.envelope(0, b"hello"), ALICE.public(0)
    identity = Talk(BOB, BOB).chains[0]
    other = Talk(ALICE, CAROL).chains[0]
    other.start = replace(other.start, recipient=BOB) if other.start else None
    astray = Talk(ALICE, BOB).chains[0]
    astray.start = replace(astray.start, recipient=CAROL) if astray.start else None

    def start(**changes: bytes | int) -> bytes:
        return Talk(ALICE, BOB, **changes).chains[0].envelope(0, b"")  # type: ignore[arg-type]

    return flipped("bob", NOTHING, "turn 0 n 0", FIRST_FIELDS) + given(
        "bob",
        NOTHING,
        {
            "short": (good[:-1], "noise"),
            "long": (good + b"\0", "noise"),
            "version 2": (start(version=2), "noise"),
            "other kind of prekey": (start(prekey_kind=2), "noise"),
            "prekey of somebody else": (other.envelope(0, b""), "noise"),
            "outer layer to somebody else": (astray.envelope(0, b""), "noise"),
            "route of another n": (
                chain.envelope(0, b"hello", route=chain.envelope(1, b"")[:16]),
                "noise",
            ),
            "sender is recipient": (identity.envelope(0, b""), "noise"),
            "MAC by somebody else": (chain.envelope(0, b"hello", mac_key=BLANK), "noise"),
            "identity changed": (
                chain.envelope(
                    0, b"hello", terms=chain.terms[:8] + CAROL.identity + chain.terms[40:]
                ),
                "noise",
            ),
            "L of low order": (start(auth=BLANK), "noise"),
            "X0 of low order": (start(public=BLANK + keys[32:]), "noise"),
            "A0 of low order": (start(public=keys[:32] + BLANK + keys[64:]), "noise"),
            "ek not a key": (start(public=keys[:64] + b"\xff" * 1_184), "noise"),
            "n 4097": (chain.envelope(4_097, b"hello"), "too far"),
            "the last n": (chain.envelope(2**32 - 1, b"", message_key=BLANK), "too far"),
        },
    )


def wrong_answer() -> list[Case]:
    """Turns 1 that Alice must refuse, who has sent turn 0 n 0 and 1."""

    def turn(pn: int = 0, public: bytes | None = None, *, static: bool = True) -> bytes:
        return Talk(ALICE, BOB).turn(pn, public, static=static).envelope(0, b"x")

    keys = BOB.public(1)
    return given(
        "alice",
        STARTED,
        {
            "not to the static keys of the initiator": (turn(static=False), "diverged"),
            "pn not 0": (turn(1), "diverged"),
            "ratchet key of low order": (turn(public=BLANK + keys[32:]), "diverged"),
        },
    )


def wrong_later() -> list[Case]:
    """Envelopes that Alice must refuse, who has sent turn 0 n 0 and 1 and opened turn 1 n 0, of
    a Bob who also may be the one that does wrong."""
    talk = Talk(ALICE, BOB)
    chain = talk.turn(pn=0)
    good = chain.envelope(1, b"hello")
    changed = chain.terms[:-1] + bytes([chain.terms[-1] ^ 1])
    early = Talk(ALICE, BOB)
    early.turn(pn=0)
    early.turn(pn=2)
    return flipped("alice", ANSWERED, "turn 1 n 1", LATER_FIELDS) + given(
        "alice",
        ANSWERED,
        {
            "short": (good[:-1], "noise"),
            "opened before": (chain.envelope(0, b"turn 1 number 0"), "duplicate"),
            "n used for other words": (chain.envelope(0, b"other"), "duplicate"),
            "body of another n": (
                chain.envelope(1, b"x", route=chain.envelope(2, b"")[:16]),
                "diverged",
            ),
            "terms changed": (chain.envelope(1, b"x", terms=changed), "diverged"),
            "words changed with a stolen message key": (
                chain.envelope(1, b"x", mac_key=BLANK),
                "diverged",
            ),
            "padding not zero": (chain.envelope(1, b"x", pad=b"\1"), "diverged"),
            "length beyond the end": (chain.envelope(1, b"x", length=65_535), "diverged"),
            "body over BODY_MAX": (chain.envelope(1, bytes(12_711)), "diverged"),
            "n 4098": (chain.envelope(4_098, b"x"), "too far"),
            "the last n": (chain.envelope(2**32 - 1, b"", message_key=BLANK), "too far"),
            "turn without an answer between": (early.turn(pn=3).envelope(0, b"x"), "noise"),
        },
    )


def wrong_turns() -> list[Case]:
    """Second turns of Alice's that Bob must refuse, who has opened turn 0 n 0 and 1 and sent
    turn 1."""

    def turn(pn: int = 2, public: bytes | None = None, life: bytes | None = None) -> bytes:
        talk = Talk(ALICE, BOB)
        talk.turn(pn=0)
        return talk.turn(pn, public, life).envelope(0, b"x")

    keys = ALICE.public(2)
    return given(
        "bob",
        ANSWERED,
        {
            "pn below what has come": (turn(pn=1), "diverged"),
            "pn too far": (turn(pn=2 + 4_097), "too far"),
            "another life": (turn(life=bytes(8)), "diverged"),
            "ratchet key of low order": (turn(public=BLANK + keys[32:]), "diverged"),
            "ratchet auth key of low order": (
                turn(public=keys[:32] + BLANK + keys[64:]),
                "diverged",
            ),
            "ek not a key": (turn(public=keys[:64] + b"\xff" * 1184), "diverged"),
        },
    )


def wrong_late() -> list[Case]:
    """Envelopes of an earlier turn that Alice must refuse, who knows how many that had."""
    chain = Talk(ALICE, BOB).turn(pn=0)
    return given(
        "alice",
        LATE,
        {
            "n at the end of an earlier turn": (chain.envelope(3, b"x"), "diverged"),
            "opened before, in an earlier turn": (chain.envelope(2, b"x"), "duplicate"),
            "terms changed, in an earlier turn": (
                chain.envelope(0, b"x", terms=chain.terms[:-1] + b"\0"),
                "diverged",
            ),
        },
    )


def session() -> File:
    wrong = wrong_first() + wrong_answer() + wrong_later() + wrong_turns() + wrong_late()
    return {
        "person": people(),
        "turn": turns(),
        "start": [case("alice to bob", start_hash=Talk(ALICE, BOB).start_hash)],
        "sealed": sealed(),
        "opened": right() + wrong,
    }


FILES: dict[str, Callable[[], dict[str, Any]]] = {"session": session}
