"""Both sides of a move, cut off and killed between any two messages: one copy lives at most, and
one always can."""

import itertools
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cbfs.account.leaving import COPY_SIZE, token_check
from cbfs.commands.home.moving.messages import (
    Data,
    Elsewhere,
    From,
    Go,
    Got,
    Have,
    MoveEnd,
    MoveLives,
    MoveMessage,
    MoveOffer,
    Unintelligible,
    decode_message,
)
from cbfs.commands.home.moving.sides import NewSide, OldSide, digesting
from cbfs_common.errors import CbfsError, DecodeError
from cbfs_common.primitives import KEY_SIZE
from cbfs_common.wire.transport import PAYLOAD_MAX, Frame
from tests.support.moved import Meeting

TOKEN = b"t" * KEY_SIZE
FORMAT = 8
PIECE = 4


def digest(data: bytes) -> bytes:
    hashed = digesting()
    hashed.update(data)
    return hashed.digest()


class OldDisk:
    """The old computer's disk: an account, and what is noted of its move."""

    def __init__(self) -> None:
        self.content = b"the account"
        self.token = TOKEN
        self.gone: tuple[bytes, bytes] | None = None
        self.heard = False
        self.sent = b""

    @property
    def lives(self) -> bool:
        return self.gone is None

    @property
    def offer(self) -> MoveOffer:
        return MoveOffer(FORMAT, 1, len(self.content), token_check(self.token))

    def pieces(self) -> Iterator[bytes]:
        for start in range(0, len(self.content), PIECE):
            yield self.content[start : start + PIECE]

    def note_moved(self, copy: bytes, digest: bytes) -> None:
        assert self.gone is None
        self.gone, self.sent = (copy, digest), self.content
        self.content = b"has moved" + self.content

    def note_lives(self) -> None:
        self.heard = True


class NewDisk:
    """A directory on a new computer. A crash takes back what is not noted."""

    def __init__(self, number: int) -> None:
        self.copy = bytes([number]) * COPY_SIZE
        self.came = b""
        self.whole = b""
        self.check = b""
        self.token = b""

    @property
    def lives(self) -> bool:
        return bool(self.token)

    def crash(self, lost: int) -> None:
        if not self.whole:
            self.came = self.came[: max(0, len(self.came) - lost)]

    def begin(self, offer: MoveOffer) -> Have:
        assert not self.lives
        self.check = offer.check
        return Have(self.copy, len(self.came), digest(self.came))

    def restart(self) -> None:
        assert not self.lives
        self.came = self.whole = b""

    def take(self, data: bytes) -> None:
        assert not self.whole
        self.came += data

    def note_whole(self, digest_: bytes) -> None:
        if digest_ != digest(self.came):
            self.came = self.whole = b""
            raise CbfsError("not what was sent")
        self.whole = digest_

    def note_token(self, token: bytes) -> None:
        assert token_check(token) == self.check
        if not self.whole:
            raise Unintelligible
        self.token = token


class MovingMachine(RuleBasedStateMachine):
    """One account, and two directories to which it may move by the same line."""

    def __init__(self) -> None:
        super().__init__()
        self.old = OldDisk()
        self.new = [NewDisk(1), NewDisk(2)]
        self.meeting: Meeting | None = None

    @rule(number=st.integers(0, 1))
    def meet(self, number: int) -> None:
        """Another connection, be there one already or not."""
        self.meeting = None if self.new[number].lives else Meeting(self.old, self.new[number])

    @precondition(lambda self: self.meeting is not None)
    @rule(steps=st.integers(1, 40), first=st.booleans())
    def go_on(self, steps: int, *, first: bool) -> None:
        for _ in range(steps):
            if self.meeting is None:
                return
            try:
                if not (self.meeting.step_old() if first else self.meeting.step_new()):
                    first = not first
            except CbfsError:
                self.meeting = None

    @rule()
    def cut(self) -> None:
        self.meeting = None

    @precondition(lambda self: self.meeting is not None)
    @rule(old=st.booleans())
    def die(self, *, old: bool) -> None:
        """One side ends, and what it has said still arrives."""
        meeting, self.meeting = self.meeting, None
        with suppress(CbfsError):
            while meeting and (meeting.step_new() if old else meeting.step_old()):
                pass

    @rule(number=st.integers(0, 1), lost=st.integers(0, 9))
    def kill(self, number: int, lost: int) -> None:
        """The new computer stops, and its disk has lost the last bytes."""
        self.meeting = None
        self.new[number].crash(lost)

    @precondition(lambda self: self.old.lives)
    @rule(more=st.binary(min_size=1, max_size=9))
    def mount(self, more: bytes) -> None:
        """The old computer stops, and the account is used there."""
        self.meeting = None
        self.old.content = more + self.old.content

    @invariant()
    def one_lives_at_most(self) -> None:
        assert self.old.lives + sum(each.lives for each in self.new) <= 1
        if self.old.heard:
            assert any(each.lives for each in self.new)

    def teardown(self) -> None:
        """Without cuts it comes to an end, with what the old one had."""
        for new in self.new:
            for _ in range(2):  # the first may find that what has come was spoilt
                if not new.lives:
                    with suppress(CbfsError):
                        Meeting(self.old, new).go_on()
        (living,) = (each for each in self.new if each.lives)
        assert not self.old.lives
        assert living.came == self.old.sent


MovingMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestMovingMachine = MovingMachine.TestCase


def until(count: int, *, old_first: bool) -> tuple[OldDisk, NewDisk]:
    """Both disks after so many steps of one connection; then the side that was about to say
    something ends, and what it has said arrives."""
    old, new = OldDisk(), NewDisk(1)
    meeting = Meeting(old, new)
    steps = [meeting.step_old, meeting.step_new][:: 1 if old_first else -1]
    for _ in range(count):
        if not (steps[0]() or steps[1]()):
            break
    while steps[1]():
        pass
    return old, new


@pytest.mark.parametrize("old_first", [True, False])
def test_a_cut_after_each_message_leaves_one_that_lives_or_can(*, old_first: bool) -> None:
    seen = set()
    for count in itertools.count():
        old, new = until(count, old_first=old_first)
        seen.add((old.lives, new.lives))
        assert not (old.lives and new.lives)
        assert new.lives or not old.heard
        if new.lives and old.heard:
            break
        if not new.lives:
            Meeting(old, new).go_on()
        assert new.lives
        assert not old.lives
    assert seen >= {(True, False), (False, True)}


def test_what_has_come_is_not_sent_again() -> None:
    old = OldDisk()
    side = OldSide(old)
    first, *data, last = side.hear(Have(b"c" * COPY_SIZE, 5, digest(old.content[:5])))
    assert first == From(5)
    assert b"".join(each.payload() for each in data) == old.content[5:]
    assert last == MoveEnd(digest(old.content))


def test_the_account_goes_to_one_copy_whoever_asks_for_it_by_the_same_line() -> None:
    old, one, two = OldDisk(), NewDisk(1), NewDisk(2)
    for new in one, two:
        meeting = Meeting(old, new)
        while not isinstance(next(iter(meeting.up), None), Got):
            assert meeting.step_old() or meeting.step_new()
    assert one.whole == two.whole
    first = Meeting(old, one)
    first.go_on()
    with pytest.raises(CbfsError, match="moved already"):
        Meeting(old, two).go_on()
    assert (one.lives, two.lives) == (True, False)


OFFER = MoveOffer(FORMAT, 1, 3, token_check(TOKEN))


@pytest.mark.parametrize(
    "messages",
    [
        [Got()],
        [From(0)],
        [OFFER, OFFER],
        [OFFER, Data(b"x")],
        [OFFER, From(7)],
        [OFFER, From(0), Data(b"four")],
        [OFFER, From(0), Data(b"tw"), MoveEnd(digest(b"tw"))],
        [OFFER, Go(TOKEN)],
        [OFFER, From(0), Data(b"all"), Go(TOKEN)],
        [OFFER, From(0), Data(b"all"), MoveEnd(digest(b"all")), Go(b"x" * KEY_SIZE)],
        [OFFER, From(0), Data(b"all"), MoveEnd(digest(b"all")), MoveEnd(digest(b"all"))],
        [OFFER, From(0), Elsewhere()],
    ],
)
def test_the_new_side_takes_nothing_out_of_its_turn(messages: list[MoveMessage]) -> None:
    disk = NewDisk(1)
    side = NewSide(disk)
    *right, wrong = messages
    for message in right:
        list(side.hear(message))
    with pytest.raises(Unintelligible):
        list(side.hear(wrong))
    assert not disk.lives


@pytest.mark.parametrize(
    "messages",
    [
        [Got()],
        [MoveLives()],
        [OFFER],
        [Have(b"c" * COPY_SIZE, 0, digest(b"")), MoveLives()],
        [Have(b"c" * COPY_SIZE, 0, digest(b"")), Have(b"c" * COPY_SIZE, 0, digest(b""))],
        [Have(b"c" * COPY_SIZE, 0, digest(b"")), Got(), Got()],
    ],
)
def test_the_old_side_takes_nothing_out_of_its_turn(messages: list[MoveMessage]) -> None:
    disk = OldDisk()
    side = OldSide(disk)
    *right, wrong = messages
    for message in right:
        list(side.hear(message))
    with pytest.raises(Unintelligible):
        list(side.hear(wrong))
    assert not disk.heard


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (0, b""),
        (10, b""),
        (1, b"\2" + OFFER.payload()[1:]),
        (1, OFFER.payload()[:-1]),
        (1, MoveOffer(FORMAT, 4, 3, b"c" * 32).payload()),
        (1, MoveOffer(FORMAT, 5 << 20, 6 << 20, b"c" * 32).payload()),
        (1, MoveOffer(FORMAT, 1, 1 << 43, b"c" * 32).payload()),
        (2, b"x"),
        (3, b"x"),
        (4, b""),
        (4, bytes(PAYLOAD_MAX + 1)),
        (5, b"x" * 31),
        (6, b"x"),
        (7, b"x" * 33),
        (8, b"x"),
        (9, b"x"),
    ],
)
def test_what_is_no_message_is_refused(kind: int, payload: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_message(Frame(kind, payload))
    assert caught.value.hint
