"""When a name is renewed by itself, and what is said meanwhile: years on a mock clock, and a
directory that does what the test says."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.context import Context
from cbfs.engine.renewal import RENEW_BEFORE, RENEW_SPREAD, Renewal
from cbfs.names.directory import NotDue
from cbfs.names.lookups import DirectoryDown
from cbfs.names.own_name import OwnName
from cbfs.problems import Problems
from cbfs.storage.store import Store
from cbfs.tree.texts import own_warning_text
from cbfs_common.errors import CbfsError
from cbfs_common.limits import NAME_GRACE
from cbfs_common.names.operations import OperationRefused, Refusal
from tests.support.stores import open_store

DAY = 86_400
TERM = 730 * DAY
START = 1_800_000_000


@dataclass
class Own:
    """A name at a directory: ``failure`` is what renewing raises."""

    expires: int
    term: int = TERM
    failure: CbfsError | None = None
    alarm: str = ""
    is_released: bool = False
    tries: list[float] = field(default_factory=list)

    async def renew(self, _seed: bytes, least: float) -> None:
        now = START + int(trio.current_time())
        self.tries.append(now)
        if self.failure is not None:
            raise self.failure
        if now > self.expires + NAME_GRACE:
            raise OperationRefused(Refusal.NAME_EXPIRED)
        early = self.expires + int(least * self.term) - now - self.term
        if early >= 0:
            raise NotDue(early + 1)
        self.expires = now + self.term


@dataclass
class Here:
    """A client whose name is this one."""

    own: Own
    renewal: Renewal
    problems: Problems

    @property
    def left(self) -> float:
        """Days until the name's end."""
        return (self.own.expires - START - trio.current_time()) / DAY

    async def until(self, days: float) -> None:
        """Until so many days are left."""
        await trio.sleep((self.left - days) * DAY)


def context(store: Store, name: str) -> tuple[Context, Problems]:
    problems = Problems(lambda: None)
    made = SimpleNamespace(
        account=SimpleNamespace(name=name, renewing=b"o" * 32),
        store=store,
        clock=lambda: int((START + trio.current_time()) * 1_000),
        random=SYSTEM_RANDOM,
        problems=problems,
    )
    return cast(Context, made), problems


def passing(place: Path, own: Own, body: Callable[[Here], Awaitable[None]]) -> None:
    store = open_store(place)

    async def main() -> None:
        around, problems = context(store, "alice")
        renewal = Renewal(around, cast(OwnName, own), lambda: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(renewal.run)
            await body(Here(own, renewal, problems))
            nursery.cancel_scope.cancel()

    try:
        trio.run(main, clock=MockClock(autojump_threshold=0))
    finally:
        store.close()


@pytest.mark.slow
def test_a_name_is_renewed_in_its_time_again_and_again(tmp_path: Path) -> None:
    own = Own(START + TERM)

    async def body(here: Here) -> None:
        await here.until(90.1)
        assert not own.tries
        assert not here.renewal.line()
        await trio.sleep(DAY)
        said = here.renewal.line()
        assert "renewed by itself" in said or "was renewed" in said
        await trio.sleep(5 * 365 * DAY)
        assert len(own.tries) in (3, 4)
        for before, after in zip(own.tries, own.tries[1:], strict=False):
            assert TERM - RENEW_BEFORE <= after - before <= TERM - RENEW_BEFORE + 15 * DAY
        assert not here.renewal.shout
        assert "was renewed, and is yours until 20" in here.renewal.line()

    passing(tmp_path, own, body)


def test_names_registered_together_are_not_renewed_together(tmp_path: Path) -> None:
    moments = []
    for number in range(20):
        (tmp_path / str(number)).mkdir()
        store = open_store(tmp_path / str(number))
        own = Own(START + TERM)
        around, _problems = context(store, "alice")
        moments.append(Renewal(around, cast(OwnName, own), lambda: None)._spread)
        again = Renewal(around, cast(OwnName, own), lambda: None)
        assert again._spread == moments[-1]  # also after a restart
        store.close()
    assert len(set(moments)) == 20
    assert max(moments) - min(moments) > RENEW_SPREAD // 4
    assert max(moments) < RENEW_SPREAD


def test_a_directory_that_is_down_is_shouted_only_when_little_time_is_left(tmp_path: Path) -> None:
    own = Own(START + TERM, failure=DirectoryDown("the name directory does not answer"))

    async def body(here: Here) -> None:
        await here.until(61)
        assert own.tries
        assert not here.renewal.shout
        assert any("could not be renewed" in line for line in here.problems.lines())
        await here.until(58)
        assert "runs out on 20" in here.renewal.shout
        assert "does not answer" in here.renewal.shout
        assert len(own.tries) < 40 * 24 * 2  # about one an hour
        await here.until(-5)
        assert "has run out on 20" in here.renewal.shout
        assert "can be renewed until 20" in here.renewal.shout
        own.failure = None
        await here.until(-6)
        assert not here.renewal.shout
        assert not here.problems.lines()
        assert here.left > 700

    passing(tmp_path, own, body)


@pytest.mark.parametrize(
    "refusal",
    [Refusal.NAME_FROZEN, Refusal.WRONG_SIGNATURE, Refusal.NO_SUCH_NAME, Refusal.NAME_RELEASED],
)
def test_what_does_not_mend_itself_is_shouted_at_once(tmp_path: Path, refusal: Refusal) -> None:
    own = Own(START + TERM, failure=OperationRefused(refusal))

    async def body(here: Here) -> None:
        await here.until(75)
        assert "runs out on 20" in here.renewal.shout
        await here.until(35)
        assert len(own.tries) < 40 * 3  # about one a day

    passing(tmp_path, own, body)


@pytest.mark.parametrize(("left", "kept"), [(10, True), (-29, True), (-31, False), (-365, False)])
def test_a_machine_that_was_off(tmp_path: Path, left: int, kept: bool) -> None:
    own = Own(START + left * DAY)

    async def body(here: Here) -> None:
        await trio.sleep(DAY / 2)
        if kept:
            assert here.left > 700
            assert not here.renewal.shout
        else:
            assert "cannot be renewed any more" in here.renewal.shout
            text = own_warning_text("", here.renewal.shout, "")
            assert text.startswith("Your name cannot be kept: alice has run out on ")
            assert "You did not do this" not in text

    passing(tmp_path, own, body)


@pytest.mark.parametrize("term", [DAY, 10 * DAY, 80 * DAY])
def test_where_names_last_a_short_time_they_are_not_renewed_all_the_time(
    tmp_path: Path, term: int
) -> None:
    own = Own(START + term, term)

    async def body(here: Here) -> None:
        await trio.sleep(20 * term)
        assert here.left * DAY > 0
        assert not here.renewal.shout
        assert len(own.tries) <= 20 * 4 * 3

    passing(tmp_path, own, body)


def test_nothing_is_renewed_over_somebody_else_s_change(tmp_path: Path) -> None:
    own = Own(START + 70 * DAY, failure=CbfsError("it is not as you left it"), alarm="stolen")

    async def body(here: Here) -> None:
        await trio.sleep(DAY)
        assert "not as you left it" in here.renewal.shout
        text = own_warning_text(own.alarm, here.renewal.shout, "")
        assert text.index("Your name is not safe: stolen") < text.index("Your name cannot be kept")

    passing(tmp_path, own, body)
