"""A narrow random model of lives: whatever befalls the sessions of two or three people (old copies
that go on, clients made anew, new keys, crossing starts, envelopes that are lost, held back, sent
again, prekeys that are given out twice or are the last, clocks that are wrong, a thief who writes),
when it is quiet again all that honest people have written and have still arrives, nothing opens
twice, nothing grows, no thief of a prekey is believed, and nobody gives up anything any more.

LIVES_S: seconds of walks, beyond WALKS of them; LIVES_SEED: the first."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import count
from unittest.mock import patch

import pytest

from cbfs.contacts.held_session import Held
from cbfs.contacts.lives import Lives
from cbfs.contacts.sessions import Batch
from cbfs_common.session.session import Session
from cbfs_common.session.states import TABLE, Action, Candidate, Choice, Event, Stage, choose
from tests.support.lives_walk import Step, by_servers, drawn, shrunk, told_by, walked

pytestmark = pytest.mark.slow

WALKS = 50
SEED = int(os.environ.get("LIVES_SEED", "0"))
BOTH = ("alice", "bob")
Patched = AbstractContextManager[object]


def seeds(walks: int) -> Iterator[int]:
    end = time.monotonic() + float(os.environ.get("LIVES_S", "0"))
    for seed in count(SEED):
        if seed - SEED >= walks and time.monotonic() > end:
            return
        yield seed


def test_all_arrives_when_it_is_quiet_again() -> None:
    for seed in seeds(WALKS):
        names, steps = drawn(seed)
        if walked(seed, names, steps):
            few = shrunk(seed, names, steps)
            pytest.fail(f"seed {seed}, {names}: {walked(seed, names, few)}, after {few}")


def test_servers_alone_have_all_sessions_given_up_once_for_three_starts_at_most() -> None:
    """That they let come: one begins a session, another crowds it out, and one begins it again, so
    that it is answered twice. All of it is after what was given up last, as the session is. When
    they stop, it heals."""
    for seed in seeds(WALKS // 5):
        told = told_by(seed, BOTH, by_servers(seed, 40))
        assert not told.wrong
        for one, other in (BOTH, BOTH[::-1]):
            assert 3 * told.parted[one] <= told.begun[other]


def test_servers_alone_can_have_them_given_up() -> None:
    told = told_by(0, BOTH, GIVEN_UP)
    assert not told.wrong
    assert told.parted["alice"] == 1


# One is alice for 0 and bob for 1; to "say" and "nod", what leaves is held back for 0 and read for
# 1; "release" lets all of it come for 3, the last for 1 and the first for 2, into the mailbox.

WEEK: Step = ("wait", 0, 0, 6)
LAST: list[Step] = [("give", 1, 0, 3)]
GIVEN_UP: list[Step] = [
    *LAST,
    ("say", 0, 0, 1),
    ("say", 0, 0, 0),
    ("say", 1, 0, 0),
    WEEK,
    ("say", 0, 0, 1),
    WEEK,
    ("say", 0, 0, 1),
    ("release", 0, 0, 2),
    ("take", 1, 0, 0),
    ("nod", 1, 0, 0),
    ("nod", 1, 0, 0),
    ("nod", 1, 0, 0),
    ("nod", 1, 0, 0),
    ("release", 0, 0, 3),
]
LOST: list[Step] = [("snapshot", 0, 0, 0), ("restore", 0, 0, 1)]
TALK: Step = ("talk", 0, 0, 2)
ANSWERED: list[Step] = [
    ("say", 1, 0, 0),
    ("say", 0, 0, 1),
    TALK,
    ("come apart", 0, 0, 0),
    ("release", 0, 0, 1),
    TALK,
]
"""bob's start comes to alice's next life, which answers it."""

LATE: list[Step] = [
    ("say", 0, 0, 1),
    ("say", 1, 0, 1),
    ("say", 0, 0, 0),
    *LOST,
    ("say", 0, 0, 1),
    TALK,
]
PROVEN_LATE: list[Step] = [*LATE, ("release", 0, 0, 1), TALK]
"""The proof of alice's former life comes when the next one counts."""

SET_RIGHT: list[Step] = [("clock", 1, 0, 3), *LATE, ("set right", 1, 0, 0), *PROVEN_LATE[-2:]]
A_LITTLE: list[Step] = [
    ("say", 1, 0, 0),
    ("clock", 1, 0, 2),
    ("say", 0, 0, 1),
    TALK,
    ("clock", 1, 0, 5),
    ("come apart", 0, 0, 0),
    ("release", 0, 0, 1),
    TALK,
]
PROOF_BEHIND: list[Step] = [
    ("say", 1, 0, 0),
    ("say", 0, 0, 1),
    ("say", 1, 0, 1),
    ("say", 0, 0, 0),
    ("come apart", 0, 0, 0),
    ("release", 0, 0, 2),
    ("take", 0, 0, 0),
    ("nod", 0, 0, 1),
]
"""The same as ANSWERED, and then a proof of the life before."""

AGAIN: list[Step] = [
    *LAST,
    ("say", 0, 0, 1),
    TALK,
    ("come apart", 1, 0, 0),
    ("replay", 1, 0, 0),
    ("take", 1, 0, 0),
]
UNREADABLE: list[Step] = [("say", 0, 0, 1), TALK, *LOST, ("give", 1, 0, 5), ("say", 0, 0, 1)]
FORGED: list[Step] = [("talk", 0, 0, 5), ("say", 1, 0, 0), ("forge", 1, 0, 0), ("forge", 1, 0, 1)]


def _without(stage: Stage | None, event: Event, action: Action) -> Patched:
    change = TABLE[stage, event]
    return patch.dict(TABLE, {(stage, event): replace(change, actions=change.actions - {action})})


def _present(batch: Batch, held: Held, lives: Lives) -> list[Held]:
    others = batch._of(held.peer)
    confirmed = (h for h in others if h.session.stage is Stage.CONFIRMED)
    return [
        h
        for h in confirmed
        if h.session.peer_life == lives.present and h.session.id != held.session.id
    ]


def _later_by(one: Callable[[Held], int], last: Callable[[Held], int], *, unsure: bool) -> Patched:
    def is_later(batch: Batch, held: Held, lives: Lives) -> tuple[bool, bool]:
        present = _present(batch, held, lives)
        sure = not unsure or not present or any(h.session.proven for h in present)
        return one(held) >= max(map(last, present), default=0), sure

    return patch.object(Batch, "_is_later", is_later)


def _sealed_by_the_clock(batch: Batch, session: Session, peer: str, body: bytes, now: int) -> bytes:
    sealed = _SEAL(batch, session, peer, body, now)
    held = batch._changed[session.id]
    before = batch._sessions._held.get(session.id)
    if before is None or before.turned != held.turned:
        batch._changed[session.id] = replace(held, turned=now)
    return sealed


def _all_by_now(held: Iterable[Held], now: int) -> list[Held]:
    names = ("heard", "made", "turned", "reached", "proved")
    return [replace(h, **{n: min(getattr(h, n), now) for n in names}) for h in held]


def _owed_by_present(there: Iterable[Candidate], present: bytes, *rest: object) -> Choice:
    known = {candidate.id: candidate for candidate in there}
    choice = choose(known.values(), present, *rest)  # type: ignore[arg-type]
    ours = (i for i in choice.owed if known[i].stage is Stage.IN or known[i].life == present)
    return replace(choice, owed=tuple(ours))


_SEAL = Batch.seal
ALONE = 5
"""A seed with which bob alone writes for a while."""

Ablation = Callable[[], Patched]
ABLATIONS: dict[str, tuple[Ablation, list[Step]]] = {
    "answers of a confirmed session count no life": (
        lambda: _without(Stage.CONFIRMED, Event.MORE, Action.COUNT),
        ANSWERED,
    ),
    "nothing is owed where another life counts": (
        lambda: patch("cbfs.contacts.sessions.choose", _owed_by_present),
        ANSWERED,
    ),
    "a life is later by when the session was made": (
        lambda: _later_by(lambda h: h.made, lambda h: max(h.made, h.proved), unsure=True),
        ANSWERED,
    ),
    "every life is later": (
        lambda: _later_by(lambda h: 1, lambda h: 0, unsure=True),
        PROVEN_LATE,
    ),
    "no life is later": (
        lambda: _later_by(lambda h: 0, lambda h: 1, unsure=True),
        [("say", 0, 0, 1), TALK, ("come apart", 0, 0, 0), TALK],
    ),
    "what has proven the later life is not looked at": (
        lambda: _later_by(lambda h: max(h.made, h.reached), lambda h: h.made, unsure=True),
        [*PROOF_BEHIND, TALK, ("release", 0, 0, 1), TALK],
    ),
    "a life is over that no proven session says": (
        lambda: _later_by(
            lambda h: max(h.made, h.reached), lambda h: max(h.made, h.proved), unsure=False
        ),
        [*PROOF_BEHIND, ("release", 0, 0, 1), TALK],
    ),
    "all sessions are of one age when a clock was put right": (
        lambda: patch("cbfs.contacts.sessions.brought_back", _all_by_now),
        SET_RIGHT,
    ),
    "turns are dated by the clock": (
        lambda: patch.object(Batch, "seal", _sealed_by_the_clock),
        A_LITTLE,
    ),
    "starts are not remembered": (
        lambda: patch.object(Batch, "_started_before", lambda batch, id_: None),
        AGAIN,
    ),
    "nothing is silent": (
        lambda: patch("cbfs_common.session.states._is_silent", lambda candidate, since: False),
        UNREADABLE,
    ),
    "who may be somebody else is believed": (
        lambda: _without(None, Event.START, Action.DOUBT),
        FORGED,
    ),
    "nothing is crowded out": (
        lambda: patch("cbfs.contacts.sessions.crowded", lambda begun: []),
        [*FORGED, ("forge", 1, 0, 1)],
    ),
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_without_a_rule_it_goes_wrong(name: str) -> None:
    ablation, steps = ABLATIONS[name]
    assert not walked(ALONE, BOTH, steps)
    with ablation():
        assert walked(ALONE, BOTH, steps)
