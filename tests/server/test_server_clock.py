"""The message server under a clock that jumps: nothing goes that would not by a right clock."""

import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import mkdtemp

import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cbfs_common.errors import DecodeError
from cbfs_common.limits import PREKEY_LIFETIME
from cbfs_common.session.prekey import PrekeyKind
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import (
    CountPrekeys,
    CreateAccount,
    Deliver,
    List,
    PrekeyRecord,
    TakePrekey,
    UploadPrekeys,
    envelope_id,
)
from cbfs_host.calendar import Calendar, ClockMark, decode_mark
from cbfs_server import housekeeping as house_module
from cbfs_server.housekeeping import Housekeeping
from cbfs_server.limits import RETENTION_DAYS
from cbfs_server.lmdb_store.blobs import BlobWriter
from cbfs_server.lmdb_store.store import LmdbStore
from cbfs_server.push import Pusher
from tests.server.test_server_store import ALICE, BOB, Caller
from tests.support.serving import KEM, TIMEOUT, envelope, record

DAY = 86_400
NOW = 1_800_000_000
FAR = {"1970": -NOW, "61 days": 61 * DAY, "ten years": 3_650 * DAY, "an hour back": -3_600}


class Machine:
    """A server's, whose clock is ``off`` by so much. ``real`` is what time it is."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.real = float(NOW)
        self.off = 0.0
        self.boots = 0.0

    def clock(self) -> float:
        return max(0.0, self.real + self.off)

    def running(self) -> float:
        return self.real - self.boots

    def live(self, script: Callable[[Housekeeping, Caller, Caller], Awaitable[None]]) -> None:
        """One life of the server."""

        async def life() -> None:
            store = LmdbStore(self.place / "store")
            try:
                with trio.fail_after(TIMEOUT):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(store.run)
                        house = Housekeeping(store, self.clock, self.running)
                        service = house.service(Pusher(store))
                        await house.look()
                        await script(house, Caller(service, ALICE), Caller(service, BOB))
                        await house.look()
                        nursery.cancel_scope.cancel()
            finally:
                store.close()

        trio.run(life)


def test_what_is_always_to_be_erased_keeps_nobody_from_looking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accounts can remove blobs as fast as their chunks are erased."""
    erased = []

    def erase(_writer: BlobWriter, most: int) -> bool:
        erased.append(most)
        return True

    async def look(house: Housekeeping, _alice: Caller, _bob: Caller) -> None:
        await house.look()

    monkeypatch.setattr(house_module, "ERASE_PAUSE", 0)
    monkeypatch.setattr(house_module, "ERASE_BATCHES", 3)
    monkeypatch.setattr(BlobWriter, "erase", erase)
    Machine(tmp_path).live(look)
    assert len(erased) == 3 * 3


async def held(alice: Caller) -> set[bytes]:
    return set((await alice.ask(List())).ids)


@pytest.mark.parametrize("jump", FAR.values(), ids=FAR)
@pytest.mark.parametrize("restarts", [True, False], ids=["off meanwhile", "running"])
def test_a_jump_empties_no_mailbox(
    jump: int, restarts: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(tmp_path)
    each, prekeys = envelope(), [record(expires=NOW + PREKEY_LIFETIME) for _ in range(3)]
    last = record(PrekeyKind.LAST_RESORT, expires=NOW + PREKEY_LIFETIME)

    async def fill(_house: Housekeeping, alice: Caller, bob: Caller) -> None:
        await alice.ask(CreateAccount())
        await alice.ask(UploadPrekeys((*prekeys, last), KEM))
        await bob.ask(Deliver(ALICE, each))
        if not restarts:
            await jumped(_house, alice, bob)

    async def jumped(house: Housekeeping, alice: Caller, bob: Caller) -> None:
        machine.off = jump
        for _ in range(6):
            await house.look()
            assert await held(alice) == {envelope_id(each)}
            assert isinstance(await bob.ask(TakePrekey(ALICE)), PrekeyRecord)
            assert (await alice.ask(CountPrekeys())).last_resort_expires
            machine.real += 2 * 3_600
        machine.off = 0
        await house.look()
        assert await held(alice) == {envelope_id(each)}
        assert (await alice.ask(CountPrekeys())).last_resort_expires

    machine.live(fill)
    if restarts:
        machine.live(jumped)
    if abs(jump) > DAY:
        assert "this computer's clock" in caplog.text


def test_mail_that_came_in_1970_is_not_old_when_the_clock_is_set(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.off = -NOW
    each = envelope()

    async def fill(house: Housekeeping, alice: Caller, bob: Caller) -> None:
        await alice.ask(CreateAccount())
        await bob.ask(Deliver(ALICE, each))
        machine.off = 0
        for _ in range(40):
            await house.look()
            assert await held(alice) == {envelope_id(each)}
            machine.real += DAY

    machine.live(fill)


def test_what_is_old_goes_and_the_log_counts_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By a clock that is right, over many lives, and over one."""
    machine = Machine(tmp_path)
    old, young = envelope(), envelope()

    async def fill(_house: Housekeeping, alice: Caller, bob: Caller) -> None:
        await alice.ask(CreateAccount())
        await bob.ask(Deliver(ALICE, old))

    async def day(house: Housekeeping, alice: Caller, bob: Caller) -> None:
        assert await held(alice) == {envelope_id(old)}
        machine.real += DAY // 2

    async def later(house: Housekeeping, alice: Caller, bob: Caller) -> None:
        await bob.ask(Deliver(ALICE, young))
        for _ in range(RETENTION_DAYS // 2 + 3):
            machine.real += DAY
            await house.look()
        assert await held(alice) == {envelope_id(young)}

    machine.live(fill)
    for _ in range(RETENTION_DAYS // 2):
        machine.live(day)
        machine.real += DAY // 2
        machine.boots = machine.real
    machine.live(later)
    assert "forgot 1 envelopes of 1 accounts" in caplog.text


def test_prekeys_that_seem_over_make_room_only_when_there_is_none(tmp_path: Path) -> None:
    machine = Machine(tmp_path)

    async def script(house: Housekeeping, alice: Caller, bob: Caller) -> None:
        await alice.ask(CreateAccount())
        for _ in range(20):
            over = tuple(record(expires=1) for _ in range(10))
            assert await alice.ask(UploadPrekeys(over, KEM)) == Done()
        fresh = record(expires=NOW + PREKEY_LIFETIME)
        assert await alice.ask(UploadPrekeys((fresh,), KEM)) == Done()
        assert (await alice.ask(CountPrekeys())).one_time == 1

    machine.live(script)


def test_a_mark_has_one_codec() -> None:
    assert decode_mark(ClockMark(1, 2, 3).encode()) == ClockMark(1, 2, 3)
    for wrong in b"", bytes(23), bytes(25):
        with pytest.raises(DecodeError):
            decode_mark(wrong)


def test_a_clock_that_stays_ahead_is_believed_after_a_day() -> None:
    calendar = Calendar(ClockMark(NOW, NOW, NOW), NOW + 90 * DAY, 0)
    assert "90 days ahead" in calendar.look(NOW + 90 * DAY, 0)
    assert calendar.look(NOW + 90 * DAY + 3_600, 3_600) == ""
    assert calendar.now == NOW + 3_600
    assert "believed" in calendar.look(NOW + 91 * DAY, DAY)
    assert calendar.now == NOW + 91 * DAY
    assert calendar.lived <= NOW + 2 * DAY


class Jumps(RuleBasedStateMachine):
    """Random jumps, lives and pauses, beside a clock that is right."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(mkdtemp(prefix="clock"))
        self.machine = Machine(self.place)
        self.came: dict[bytes, float] = {}
        self.slack = 0.0
        self.spared = 0.0

    def teardown(self) -> None:
        shutil.rmtree(self.place)

    def play(self, script: Callable[[Housekeeping, Caller, Caller], Awaitable[None]]) -> None:
        self.machine.live(script)

    @initialize()
    def begin(self) -> None:
        async def script(_house: Housekeeping, alice: Caller, _bob: Caller) -> None:
            await alice.ask(CreateAccount())

        self.play(script)

    @rule(jump=st.sampled_from([*FAR.values(), 0, 0, 0]))
    def the_clock_jumps(self, jump: int) -> None:
        self.machine.off = jump
        self.slack += DAY  # what a jump while the server is off may do

    @rule(hours=st.integers(1, 80 * 24))
    def it_is_off(self, hours: int) -> None:
        self.machine.real += 3_600 * hours
        self.spared += max(0.0, 3_600.0 * hours - DAY)

    @rule(days=st.integers(1, 25), mail=st.booleans())
    def it_runs(self, days: int, mail: bool) -> None:
        async def script(house: Housekeeping, alice: Caller, bob: Caller) -> None:
            await held(alice)
            for number in range(days * 4):
                if mail and number == 0:
                    each = envelope()
                    assert await bob.ask(Deliver(ALICE, each)) == Done()
                    self.came[envelope_id(each)] = self.machine.real
                self.machine.real += 6 * 3_600
                await house.look()

        self.play(script)

    @rule()
    def prekeys_go_round(self) -> None:
        """Made by a client whose clock is right."""

        async def script(house: Housekeeping, alice: Caller, bob: Caller) -> None:
            fresh = record(expires=int(self.machine.real) + PREKEY_LIFETIME)
            await alice.ask(UploadPrekeys((fresh,), KEM, replace=True))
            if self.machine.off == 0:
                assert await bob.ask(TakePrekey(ALICE)) == PrekeyRecord(fresh, KEM)

        self.play(script)

    @precondition(lambda self: self.came)
    @invariant()
    def nothing_goes_early_nor_stays_for_ever(self) -> None:
        there: set[bytes] = set()

        async def script(house: Housekeeping, alice: Caller, _bob: Caller) -> None:
            there.update(await held(alice))

        self.play(script)
        for id, came in list(self.came.items()):
            age = self.machine.real - came
            if id not in there:
                assert age + self.slack >= RETENTION_DAYS * DAY
                del self.came[id]
            else:
                assert age - self.spared <= (RETENTION_DAYS + 2) * DAY


def test_no_jump_deletes_what_a_right_clock_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house_module, "EXPIRY_PERIOD", 3_600)
    steps = 200 if os.environ.get("SOAK_S") else 15
    run_state_machine_as_test(
        Jumps,
        settings=settings(
            max_examples=12,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_clock_that_was_never_set_is_no_time_to_compare_with() -> None:
    """A machine without a battery says 1970 until the network is there: what it says then is
    believed at once."""
    made = Calendar(None, 100.0, 0.0)
    made.look(110.0, 10.0)
    assert made.look(1_800_000_000.0, 20.0) == ""
    assert not made.doubted
    assert made.now == 1_800_000_000.0
