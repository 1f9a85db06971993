"""A name directory under a clock that jumps: no round is made of a time to come, and it goes on
when the clock is right."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from cbfs_common.names.entry import Entry, decode_entry, name_index
from cbfs_common.names.operations import Operation, OperationKind, Refusal
from cbfs_common.names.wire import RefusedReply, Submit, Submitted, decode_reply, encode_request
from cbfs_names.limits import RETRY_PAUSE
from cbfs_names.processes import following
from cbfs_names.processes.single import Embedded, EmbeddedCore
from cbfs_names.state.store import StateStore
from cbfs_names.state.timekeeping import Timekeeper
from cbfs_names.wire.service import DirectoryService
from cbfs_names.wire.sockets import DeferredReply
from tests.support.names_local import (
    CONFIG,
    COSIGNER,
    DIRECTORY,
    KEYS,
    LIFETIME,
    NOW,
    commit,
    register,
    update,
)
from tests.support.names_proposer import place, proposer, quorum_of, stored, verifier

DAY = 86_400
JUMPS = {"1970": -NOW, "61 days": 61 * DAY, "ten years": 3_650 * DAY, "three days": 3 * DAY}


class Machine:
    """What time it is, by how much the clock is off, and the directory that runs there."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.real = NOW
        self.off = 0
        self.numbers = iter(range(10**6))
        self.planned: list[Operation] = []
        """What is submitted before new ones."""

    def clock(self) -> float:
        return max(0, self.real + self.off)

    def running(self) -> float:
        return self.real - NOW

    def operation(self) -> Operation:
        """What is planned, or a new one, that is in force for long."""
        return self.planned.pop(0) if self.planned else commit(f"name{next(self.numbers)}")

    def live(self, *steps: int, right: bool = False) -> list[object]:
        """One life: as many submissions as ``steps``, so many seconds after each other. The
        replies."""
        store = StateStore(self.place / "store", CONFIG.encode())
        try:
            keeper = Timekeeper(store, self.clock, self.running, is_right=right)
            core = Embedded(store, KEYS.log, KEYS.verifier, COSIGNER)
            head = core.start(int(self.clock()))
            service = DirectoryService(store, EmbeddedCore(core, head), self.clock, head, keeper)
            try:
                return [self._submit(service, step) for step in steps]
            finally:
                service.close()
        finally:
            store.close()

    def _submit(self, service: DirectoryService, step: int) -> object:
        async def ask() -> object:
            found = service.answer(encode_request(Submit(self.operation().encode())))
            await service._turn()
            return decode_reply(await found.reply() if isinstance(found, DeferredReply) else found)

        self.real += step
        return trio.run(ask)

    @property
    def tip(self) -> int:
        """The time of the last round."""
        store = StateStore(self.place / "store", CONFIG.encode())
        try:
            with store.read() as view:
                tip = view.tip()
                return 0 if tip is None else tip.time
        finally:
            store.close()

    def register(self) -> Entry:
        """A name that is registered; its entry."""
        self.planned = [commit("alice"), register("alice")]
        assert all(isinstance(reply, Submitted) for reply in self.live(0, 60))
        store = StateStore(self.place / "store", CONFIG.encode())
        try:
            with store.read() as view:
                stored = view.entry(name_index(DIRECTORY, "alice"))
        finally:
            store.close()
        assert stored is not None
        return decode_entry(stored)

    def changes(self, entry: Entry) -> list[Operation]:
        """What its owner may send at the real time: one change, and a renewal for as long as names
        last, which could not stand in a round of the last one's time."""
        change = update(entry, b"changed")
        until = self.real + LIFETIME
        renewal = replace(change, kind=OperationKind.RENEW, profile=b"", until=until)
        return [change, renewal.signed((b"o" * 32,))]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    yield Machine(tmp_path)


@pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS)
def test_no_round_is_made_by_a_clock_that_has_jumped_and_all_goes_on_when_it_is_right(
    machine: Machine, jump: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(machine.live(0)[0], Submitted)
    machine.off = jump
    assert machine.live(60, 60) == [RefusedReply(Refusal.STOPPED)] * 2
    assert machine.tip <= machine.real
    machine.off = 0
    assert all(isinstance(reply, Submitted) for reply in machine.live(60, 60))
    assert "this computer's clock" in caplog.text


def test_no_owner_is_told_by_a_clock_that_has_jumped_that_the_name_has_run_out(
    machine: Machine,
) -> None:
    """That is for good, and clients say so: it is told by a clock that is believed alone."""
    entry = machine.register()
    machine.real += 3_600
    changes = machine.changes(entry)
    machine.off = JUMPS["ten years"]
    machine.planned = list(changes)
    assert machine.live(60, 60) == [RefusedReply(Refusal.STOPPED)] * 2
    machine.planned = [replace(each, signatures=update(entry, b"").signatures) for each in changes]
    assert machine.live(60, 60) == [RefusedReply(Refusal.WRONG_SIGNATURE)] * 2
    machine.off = 0
    machine.planned = changes[1:]
    assert isinstance(machine.live(60)[0], Submitted)


def test_an_owner_is_told_by_a_clock_that_is_right_that_the_name_has_run_out(
    machine: Machine,
) -> None:
    entry = machine.register()
    machine.real += JUMPS["ten years"]
    machine.planned = machine.changes(entry)
    assert machine.live(60, 60, right=True) == [RefusedReply(Refusal.NAME_EXPIRED)] * 2


def test_a_renewal_for_too_long_is_told_so_by_any_clock(machine: Machine) -> None:
    """And not that the name has run out by the time at which that could be asked for."""
    entry = machine.register()
    machine.real += JUMPS["ten years"]
    _, late = machine.changes(entry)
    machine.real -= JUMPS["ten years"]
    machine.planned = [late]
    assert machine.live(60) == [RefusedReply(Refusal.WRONG_TERM)]


def test_a_pause_is_believed_after_a_day_or_with_the_operators_word(machine: Machine) -> None:
    machine.live(0)
    machine.real += 10 * DAY
    first, *_, last = machine.live(60, *[3_600] * 25)
    assert first == RefusedReply(Refusal.STOPPED)
    assert isinstance(last, Submitted)
    machine.real += 10 * DAY
    assert isinstance(machine.live(60, right=True)[0], Submitted)
    machine.real += 100 * DAY  # longer than a name's grace
    assert machine.live(60, *[3_600] * 50) == [RefusedReply(Refusal.STOPPED)] * 51
    assert isinstance(machine.live(60, right=True)[0], Submitted)


def test_a_directory_whose_clock_was_never_set_goes_on_when_it_is(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.off = -NOW
    machine.live(60)
    machine.off = 0
    assert isinstance(machine.live(60)[0], Submitted)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*JUMPS.values(), 0, 0]),
            st.lists(st.integers(1, 20 * 3_600), min_size=1, max_size=4),
            st.booleans(),
        ),
        max_size=8,
    )
)
def test_no_jump_takes_a_round_far_ahead(lives: list[tuple[int, list[int], bool]]) -> None:
    """As long as no clock stands wrong for a day."""
    with TemporaryDirectory() as place:
        machine = Machine(Path(place))
        machine.live(0)
        for jump, steps, back in lives:
            machine.off = jump
            machine.live(*steps[:1])
            if back:
                machine.off = 0
                machine.live(*steps[1:])
        assert machine.tip <= machine.real + DAY
        machine.off = 0
        replies = machine.live(60, *[3_600] * 25)
        assert isinstance(replies[-1], Submitted)


@pytest.mark.slow
def test_a_verifier_whose_clock_has_jumped_refuses_nothing_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits, and signs when its clock is right."""
    monkeypatch.setattr(following, "OLD_PATIENCE", 0)
    config, off = quorum_of("v1", threshold=1), [0]

    async def run() -> None:
        async with place("s") as s, place("v1") as p1:
            with stored(tmp_path / "s", config) as store:
                async with proposer(s, store) as sequencer:

                    def clock() -> float:
                        return sequencer.now + off[0]

                    async with verifier(tmp_path / "v1", "v1", config, p1, s.address, {}, clock):
                        await sequencer.round(signers=("v1",))
                        off[0] = 61 * DAY
                        block = sequencer.make(commit("alice"))
                        sequencer.propose(block)
                        await trio.sleep(3 * RETRY_PAUSE)  # it looks so often
                        assert not sequencer.refused
                        off[0] = 0
                        text = sequencer.text(block)
                        await sequencer.until(
                            lambda: any(note.text == text for note in sequencer.heard)
                        )
                        assert not sequencer.refused

    trio.run(run)
