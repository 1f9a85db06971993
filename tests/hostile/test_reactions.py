"""What leaves alice's client, when and to whom, says nothing of what servers do with what comes for
her: and where it does, since the user wants prompt reactions, this machine sees it."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from random import Random
from statistics import median

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from cbfs.account.settings import Reactions
from cbfs.contacts.held_session import decode_held
from cbfs.storage.store import Table
from cbfs_common.limits import NOTE_CLOCK, PROMPT_AFTER
from cbfs_common.messages.body import Part
from cbfs_common.session.session import Stage
from tests.hostile.reactions import (
    PEERS,
    TREATMENTS,
    Event,
    Left,
    differences,
    honest,
    run,
    watched,
)
from tests.hostile.town import HOME

STEADY, PROMPT = Reactions.STEADY, Reactions.PROMPT

KINDS = (
    "write",
    "write",
    "say",
    "say",
    "miss",
    "receipt",
    "want",
    "offer",
    "anew",
    "read",
    "read",
    "forge",
    "shut",
    "outage",
)
WAITS = st.sampled_from((0.0, 1.0, 7.0, 60.0, 400.0, 3_000.0))
EVENTS = st.builds(
    Event,
    WAITS.map(lambda wait: wait + 0.5),
    st.sampled_from(KINDS),
    st.sampled_from(PEERS),
    group=st.booleans(),
    large=st.booleans(),
    treatment=st.sampled_from(("", *TREATMENTS)),
    wait=WAITS,
)
HISTORIES = st.lists(EVENTS, min_size=3, max_size=14)
BOUNDED = settings(
    max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)


@pytest.mark.slow
@BOUNDED
@given(HISTORIES)
def test_what_leaves_says_nothing_of_what_a_server_does(history: list[Event]) -> None:
    assert not differences(history, STEADY)


@pytest.mark.slow
def test_the_machine_sees_what_prompt_reactions_show() -> None:
    """Without this, it may be blind."""
    quick = settings(
        BOUNDED, phases=(Phase.generate,), max_examples=40, derandomize=True, database=None
    )
    find(HISTORIES, lambda history: bool(differences(history, PROMPT)), settings=quick)


@pytest.mark.parametrize("reactions", [STEADY, PROMPT])
def test_nothing_differs_by_chance(reactions: Reactions) -> None:
    history = [Event(30, "say"), Event(9, "miss", "carol"), Event(99, "want"), Event(9, "write")]
    assert not differences(history, reactions)
    assert run(history, reactions)[0]


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_each_thing_that_a_server_can_do_shows_nothing(treatment: str) -> None:
    history = [
        Event(30, "miss", treatment=treatment, wait=700.0),
        Event(700, "say"),
        Event(9, "want", "carol", treatment=treatment, wait=700.0),
        Event(9, "say", "dave", group=True, treatment=treatment, wait=700.0),
        Event(700, "write"),
        Event(9, "anew", treatment=treatment, wait=700.0),
        Event(700, "write", "carol", large=True),
        Event(9, "write", group=True),
    ]
    assert not differences(history, STEADY)
    seen = differences(history, PROMPT)
    assert bool(seen) == (treatment != "repeat"), seen  # a copy brings about nothing anyway


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_how_far_sessions_come_shows_nothing(treatment: str) -> None:
    """bob is proven, or not: then an answer is owed again and again; and begins another session,
    beside which what alice writes goes on two."""
    hours, what = 4 * 3_600.0, partial(Event, treatment=treatment, wait=700.0)
    history = [
        what(30, "say"),
        what(hours, "read"),
        Event(700, "write"),
        what(9, "anew"),
        Event(700, "write"),
        Event(700, "write", large=True),
        what(hours, "read"),
        what(700, "want"),
        what(hours, "read"),
        Event(700, "write", group=True),
    ]
    assert not differences(history, STEADY)
    for count in (2, 7):
        assert "bob" in proven(history[:count])
    assert bool(differences(history, PROMPT)) == (treatment != "repeat")


def proven(history: Sequence[Event]) -> set[str]:
    """Whose newest session is confirmed after it, with an honest server."""
    with watched(honest(history), STEADY) as made, made.town.store.read() as reader:
        held = [decode_held(data) for _key, data in reader.items(Table.SESSIONS)]
    newest = {each.peer: each for each in sorted(held, key=lambda each: each.made)}
    return {who for who, each in newest.items() if each.session.stage is Stage.CONFIRMED}


def test_a_changed_last_byte_brings_about_nothing() -> None:
    """As soon as it came, a prekey of the sender's was taken, and something delivered to them: so a
    server that has both mailboxes knew who had sent it."""
    history = [Event(30, "say", treatment="garble the end")]
    plain, _ = run(honest(history), STEADY)
    other, _ = run(history, STEADY)
    assert other == plain
    assert not [left for left in other if left.what == "TakePrekey"]


def test_who_is_let_in_again_tries_nothing_else_at_once() -> None:
    """alice has written to bob, whose server is away. When nothing was reached, and her home server
    lets her in, what has failed was tried at once: so she who comes back was who wrote to bob."""
    history = [
        Event(10, "outage", wait=400.0),
        Event(10, "write"),
        Event(100, "shut", wait=300.0),
    ]
    assert not differences(history, STEADY)
    assert differences(history, PROMPT)


def tries_at_home(reactions: Reactions, kind: str) -> list[float]:
    """When alice tries to come in again, whom her home server keeps out, beside such an event."""
    history = [Event(30, "shut", wait=2_000.0), Event(200, kind)]
    with watched(history, reactions) as made:
        return [at for at, port in made.town.wires.dials if port == HOME]


def test_when_home_is_tried_again_says_nothing_of_what_was_delivered() -> None:
    """When something of hers was delivered, the network was taken to be back, and her home server
    tried within seconds: so she who came was who had sent it, and a server with both mailboxes knew
    to whom."""
    assert tries_at_home(STEADY, "write") == tries_at_home(STEADY, "nothing")
    assert tries_at_home(PROMPT, "write") != tries_at_home(PROMPT, "nothing")


@pytest.mark.parametrize("reactions", [STEADY, PROMPT])
def test_when_home_is_tried_again_says_nothing_of_whom_one_looks_up(reactions: Reactions) -> None:
    """Likewise with a look-up, and the directory knew who had asked."""
    assert tries_at_home(reactions, "change") == tries_at_home(reactions, "nothing")


def test_two_short_messages_one_after_the_other_are_not_one_long_one() -> None:
    """The second found the connection of the first, and with it what was to be sent again left: a
    server that had dropped a message of alice's saw who asked her for it."""
    history = [
        Event(30, "write"),
        Event(60, "want", treatment="drop"),
        Event(60, "write"),
        Event(1, "write"),
    ]
    assert not differences(history, STEADY)


def test_what_is_sent_again_leaves_a_part_at_a_tick() -> None:
    """In turns with notes, or behind a message that takes several envelopes itself; never behind
    one that takes one, which is then seen to take more."""
    asked = [Event(30, "write", large=True), Event(60, "want"), Event(60, "write")]
    for more in (Event(6 * 3_600, "nothing"), Event(60, "write", large=True)):
        with watched([*asked, more], STEADY) as made:
            parts = [body for body in made.read("bob") if isinstance(body, Part)]
            times = Counter((part.salt, part.number) for part in parts)
            again = [number for (_salt, number), count in times.items() if count == 2]
            count = max(part.count for part in parts)
            assert sorted(again) == list(range(count))
            at_once = Counter(one.at for one in made.left if one.to == "bob")
            written = [at for at, name in made.large if name == "bob"]
            assert {at for at, many in at_once.items() if many > 1} == set(written)
            rode = max(at_once[at] for at in written) - count
            assert 0 < rode <= count if more.large else rode == 0


# How many messages it takes to single out their sender: a server counts at which of its mailboxes
# something comes in the moments in which a receipt would.

ACCOUNTS = 1_000
MESSAGES = 60
APART = 900.0
"""Mean seconds between two messages of bob's."""

NOISE = 1.5 / NOTE_CLOCK
"""Envelopes a second at each of the other mailboxes: notes of their contacts, and messages."""


def singled_out(
    came: Sequence[float], left: Sequence[Left], window: tuple[float, float], seed: int
) -> int | None:
    """After how many messages bob is more likely than all others together to be who gets receipts,
    None for never. Each mailbox is given its likelihood, by whether something came there ``window``
    seconds after each message."""
    chance, (first, last) = Random(seed), window
    hit = 1 - math.exp(-NOISE * (last - first))
    gain, loss = math.log(0.99 / hit), math.log(0.01 / (1 - hit))
    at_bobs = [one.at for one in left if one.to == "bob"]
    score, others = 0.0, [0.0] * (ACCOUNTS - 1)
    for count, at in enumerate(came, 1):
        others = [each + (gain if chance.random() < hit else loss) for each in others]
        noise = chance.random() < hit  # bob has other friends, too
        score += gain if noise or any(at + first <= t <= at + last for t in at_bobs) else loss
        best = max(others)
        total = best + math.log(sum(math.exp(each - best) for each in others))
        if score > total:
            return count
    return None


def observed(reactions: Reactions, seed: int) -> tuple[list[float], list[Left]]:
    """When bob's messages came, and what left."""
    chance = Random(seed)
    waits = [chance.expovariate(1 / APART) for _ in range(MESSAGES)]
    left, _ = run([Event(wait, "say") for wait in waits], reactions)
    at = 600.0
    came = [at := at + wait for wait in waits]
    return came, left


@pytest.mark.slow
def test_prompt_receipts_single_out_the_sender_and_steady_ones_do_not() -> None:
    came, left = observed(PROMPT, 1)
    around = PROMPT_AFTER / 2, PROMPT_AFTER * 3 / 2
    counts = [singled_out(came, left, around, seed) for seed in range(25)]
    assert all(counts), counts
    assert 2 <= median(count or 0 for count in counts) <= 6
    came, left = observed(STEADY, 2)
    assert len([one for one in left if one.to == "bob"]) > 20
    for window in (around, (0.0, 1.0)):
        counts = [singled_out(came, left, window, seed) for seed in range(25)]
        assert not any(counts), (window, counts)
