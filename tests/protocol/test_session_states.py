"""The states of sessions: the table says what two real sides do, the document says the table, and
what is sent on follows from them."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cbfs_common.limits import IN_MAX, SESSIONS_PER_PEER
from cbfs_common.session.prekey import PrekeyKind
from cbfs_common.session.session import Party, Session
from cbfs_common.session.states import (
    TABLE,
    Action,
    Candidate,
    Choice,
    Event,
    Stage,
    StateChange,
    choose,
    excess,
    opening,
)
from tests.support.talking import LIFE, NOW, opened, party, prekey_of, seeded, started

RANDOM = seeded("test_session_states")
ALICE, BOB = party(RANDOM), party(RANDOM)
PAIR = prekey_of(RANDOM, PrekeyKind.LAST_RESORT)
DOCUMENT = Path(__file__).parents[2] / "common" / "protocol" / "sessions.rst"
WIDTHS = (12, 20, 12)


def row(*cells: str) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=False)]
    return "".join((*padded, *cells[len(WIDTHS) :])).rstrip()


def said(key: tuple[Stage | None, Event], transition: StateChange) -> str:
    """A line of the document."""
    stage, event = key
    actions = ", ".join(sorted(action.value for action in transition.actions))
    after = transition.stage.value if transition.stage else "deleted"
    return row(stage.value if stage else "-", event.value, after, actions or "-")


def test_the_document_has_the_table() -> None:
    text = DOCUMENT.read_text()
    head = row("state", "event", "becomes", "and")
    begin = text.index(head)
    lines = [line.strip() for line in text[begin:].split("\n\n")[0].splitlines()]
    assert lines[2:] == [said(key, transition) for key, transition in TABLE.items()]
    for action in Action:
        assert f"\n{action.value}\n    " in text


class Side:
    """One side of one session."""

    def __init__(self, me: Party, session: Session | None) -> None:
        self.me = me
        self.session = session

    @property
    def stage(self) -> Stage | None:
        return self.session.stage if self.session else None

    def seal(self) -> bytes | None:
        if self.session is None:
            return None
        self.session, envelope = self.session.seal(self.me, b"", RANDOM, LIFE)
        return envelope

    def open(self, envelope: bytes) -> None:
        """As the table says, or the test has failed."""
        before = self.stage
        if self.session is None:
            self.session, _ = opened(self.me, PAIR, envelope)
        else:
            self.session, _ = self.session.open(self.me, envelope, NOW)
        assert self.stage is not None
        assert TABLE[before, opening(before, self.stage)].stage is self.stage


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 9)), max_size=30))
def test_two_sides_do_what_the_table_says(steps: list[tuple[bool, bool, int]]) -> None:
    """Whatever is lost, and in whatever order it comes. And either side knows no sooner than it is
    so that the session is confirmed at the other."""
    sides = Side(ALICE, started(ALICE, BOB, PAIR, RANDOM)), Side(BOB, None)
    assert TABLE[None, Event.BEGUN].stage is sides[0].stage
    mail: tuple[list[bytes], list[bytes]] = [], []
    for who, writes, pick in steps:
        side, other = sides[who], sides[not who]
        if writes and (envelope := side.seal()) is not None:
            mail[not who].append(envelope)
        elif mail[who]:
            side.open(mail[who].pop(pick % len(mail[who])))
        for each, far in ((side, other), (other, side)):
            if each.session is not None and each.session.proven:
                assert far.stage is Stage.CONFIRMED
    assert sides[0].session is not None
    assert sides[0].session.begun_here
    assert sides[1].session is None or not sides[1].session.begun_here


def test_every_event_of_an_opening_has_a_row() -> None:
    for stage in (None, *Stage):
        for after in Stage:
            key = stage, opening(stage, after)
            reachable = after is not Stage.OUT and (stage, after) not in {
                (None, Stage.CONFIRMED),
                (Stage.OUT, Stage.IN),
                (Stage.CONFIRMED, Stage.IN),
            }
            assert not reachable or TABLE[key].stage is after


# What is sent on

V, W, OLD = b"v" * 8, b"w" * 8, b"o" * 8
CONFIRMED = Candidate(b"c", Stage.CONFIRMED, V, 10, 1, proven=True)
BEGUN = Candidate(b"i", Stage.IN, W, 5, 5, proven=False)
OUT = Candidate(b"o", Stage.OUT, None, 0, 7, proven=False)
SILENT = replace(CONFIRMED, heard=3, proven=False)

CHOICES: dict[str, tuple[list[Candidate], Choice]] = {
    "nothing": ([], Choice()),
    "out": ([OUT, replace(OUT, id=b"p", made=8)], Choice(b"p", None, b"p")),
    "in before out": ([OUT, BEGUN], Choice(b"i", None, b"i")),
    "the newest in": (
        [BEGUN, replace(BEGUN, id=b"j", made=6), OUT],
        Choice(b"j", None, b"j", (b"i",)),
    ),
    "in, however old, without a confirmed one": (
        [replace(BEGUN, made=1), OUT],
        Choice(b"i", None, b"i"),
    ),
    "a confirmed one": ([CONFIRMED, OUT], Choice(b"c", None, b"c")),
    "the confirmed one last heard on": (
        [CONFIRMED, replace(CONFIRMED, id=b"d", heard=11)],
        Choice(b"d", None, b"d"),
    ),
    "both": ([CONFIRMED, BEGUN], Choice(b"c", b"i", b"c", (b"i",))),
    "both, and the one that is in was heard last": (
        [CONFIRMED, replace(BEGUN, heard=11)],
        Choice(b"i", b"c", b"c", (b"i",)),
    ),
    "in, too old": (
        [CONFIRMED, replace(BEGUN, made=3, heard=11)],
        Choice(b"c", None, b"c", (b"i",)),
    ),
    "in, of a past life": ([CONFIRMED, replace(BEGUN, life=OLD)], Choice(b"c", None, b"c")),
    "confirmed, of a past life": (
        [CONFIRMED, replace(CONFIRMED, id=b"d", life=OLD, heard=99)],
        Choice(b"c", None, b"c"),
    ),
    "only of a past life": ([replace(CONFIRMED, life=OLD), OUT], Choice(b"o", None, b"o")),
    "not known to be confirmed there": (
        [CONFIRMED, replace(CONFIRMED, id=b"d", heard=9, proven=False)],
        Choice(b"c", None, b"c", (b"d",)),
    ),
    "not known to be confirmed there, of a life that may be a later one": (
        [CONFIRMED, replace(CONFIRMED, id=b"d", life=W, heard=11, proven=False)],
        Choice(b"c", None, b"c", (b"d",)),
    ),
    "known to be confirmed there, before another one that is silent": (
        [replace(CONFIRMED, heard=2), replace(CONFIRMED, id=b"d", heard=3, proven=False)],
        Choice(b"c", None, b"c", (b"d",)),
    ),
    "silent, and not known to be confirmed there": ([SILENT], Choice(b"c", None, b"c", (), True)),
    "out, begun since that was silent": ([SILENT, OUT], Choice(b"o", None, b"o", (b"c",))),
    "out, before that was silent": (
        [SILENT, replace(OUT, made=2)],
        Choice(b"c", None, b"c", (), True),
    ),
    "out, begun since that was silent, and one that is in": (
        [SILENT, OUT, BEGUN],
        Choice(b"i", b"o", b"o", (b"c", b"i")),
    ),
    "silent, and one that is in": (
        [SILENT, replace(BEGUN, heard=2)],
        Choice(b"c", b"i", b"c", (b"i",), True),
    ),
    "silent in, and out since": (
        [replace(BEGUN, made=2, heard=3), OUT],
        Choice(b"o", None, b"o", (b"i",)),
    ),
    "silent in, and out before": (
        [replace(BEGUN, made=2, heard=3), replace(OUT, made=1)],
        Choice(b"i", None, b"i", (), True),
    ),
    "silent out": ([replace(OUT, made=3)], Choice(b"o", None, b"o", (), True)),
}


@pytest.mark.parametrize("name", CHOICES)
def test_what_is_sent_on(name: str) -> None:
    candidates, expected = CHOICES[name]
    order = random.Random(name)
    for _ in range(6):
        order.shuffle(candidates)
        assert choose(candidates, V, [OLD], since=4) == expected


def sorts(stage: Stage) -> st.SearchStrategy[Candidate]:
    lives: dict[Stage, list[bytes | None]] = {
        Stage.OUT: [None],
        Stage.IN: [V, W, OLD],
        Stage.CONFIRMED: [V, OLD],
    }
    build: Callable[..., Candidate] = Candidate
    return st.builds(
        build,
        id=st.binary(min_size=2, max_size=2),
        stage=st.just(stage),
        life=st.sampled_from(lives[stage]),
        heard=st.integers(0, 20),
        made=st.integers(0, 20),
        proven=st.booleans(),
    )


@given(
    candidates=st.lists(
        st.one_of(*(sorts(stage) for stage in Stage)), max_size=8, unique_by=lambda c: c.id
    )
)
def test_no_session_that_is_in_keeps_anything_from_the_confirmed_one(
    candidates: list[Candidate],
) -> None:
    """Whatever others begin: what is written goes on it as well, and notes go there alone."""
    honest = choose([c for c in candidates if c.stage is not Stage.IN], V, [OLD], since=4)
    chosen = choose(candidates, V, [OLD], since=4)
    by_id = {c.id: c for c in candidates}
    if honest.note is not None and by_id[honest.note].stage is Stage.CONFIRMED:
        assert chosen.note == honest.note
        assert honest.note in (chosen.first, chosen.second)
    for id_ in (chosen.first, chosen.second, chosen.note, *chosen.owed):
        assert id_ is None or by_id[id_].life != OLD
    assert chosen.second is None or chosen.second != chosen.first


def crowd(size: int) -> st.SearchStrategy[list[Candidate]]:
    """As many sessions, in the order in which they were made, of which IN_MAX at most are in."""
    each = st.one_of(*(sorts(stage) for stage in Stage))
    many = st.lists(each, min_size=size, max_size=size, unique_by=lambda c: c.id)
    return many.map(
        lambda there: [
            replace(c, made=2 * n, heard=c.heard and max(2 * n + 1, 2 * c.heard + 1))
            for n, c in enumerate(there)
        ]
    ).filter(lambda there: sum(c.stage is Stage.IN for c in there) <= IN_MAX)


@given(there=st.integers(0, 12).flatmap(crowd), since=st.integers(0, 40))
def test_what_is_sent_on_is_not_in_excess(there: list[Candidate], since: int) -> None:
    """So there is always a place for one that begins, whatever there is beside it."""
    chosen = choose(there, V, [OLD], since)
    gone = excess(there, V, [OLD], SESSIONS_PER_PEER)
    assert len(gone) == max(0, len(there) - SESSIONS_PER_PEER)
    assert not gone & {chosen.first, chosen.second, chosen.note}


@pytest.mark.parametrize("life", [V, W, OLD])
def test_a_session_that_begins_has_a_place_beside_any_others(life: bytes) -> None:
    """Also where they are of other identities, so that it is sent on."""
    others = [replace(CONFIRMED, id=bytes([n]), life=life, heard=50 + n) for n in range(20)]
    for one in (OUT, BEGUN):
        assert one.id not in excess([*others, one], V, [OLD], SESSIONS_PER_PEER)
    assert excess(others, V, [OLD], SESSIONS_PER_PEER) == {bytes([n]) for n in range(12)}


@given(there=st.integers(9, 12).flatmap(crowd))
@example(
    there=[
        replace(CONFIRMED, heard=1, made=0, proven=False),
        replace(CONFIRMED, id=b"d", heard=0, made=2),
        *(replace(BEGUN, id=bytes([number])) for number in range(9)),
    ]
)
def test_the_confirmed_one_that_was_heard_last_goes_last(there: list[Candidate]) -> None:
    living = [c for c in there if c.stage is Stage.CONFIRMED and c.life == V]
    best = max(living, key=lambda c: c.heard, default=None)
    assert best is None or best.id not in excess(there, V, [OLD], 5)
