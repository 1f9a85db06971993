"""A move whose old or new side is killed, at each point at which it brings something to its disk:
the account lives in one place at most, and the same two commands bring it to the new computer."""

import itertools
import shutil
import signal
from pathlib import Path

import pytest

from tests.support.moved import bare_account, lives_here
from tests.support.moving import Beside

OLD, NEW = "old", "new"


def old_words(place: Path) -> list[str]:
    return ["--account", str(place / OLD)]


def new_words(place: Path) -> list[str]:
    return ["-", "--account", str(place / NEW)]


def living(place: Path) -> list[str]:
    """Where the account can be used. Neither side is at work."""
    return [name for name in (OLD, NEW) if lives_here(place / name)]


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bare_account(tmp_path_factory.mktemp("bare") / OLD)


@pytest.mark.slow
def test_the_old_computer_is_killed(account: Path, tmp_path: Path) -> None:
    seen = set()
    for number in itertools.count(1):
        place = tmp_path / str(number)
        shutil.copytree(account, place / OLD)
        old = Beside(old_words(place), "", place / "old.said", number)
        line = old.line()
        new = Beside(new_words(place), line, place / "new.said") if line else None
        killed = old.wait()
        came = new.wait() if new else 1
        if killed == 0:
            assert came == 0
            break
        assert killed == -signal.SIGKILL, old.said()
        lives = living(place)
        assert len(lives) <= 1
        seen.add(tuple(lives))
        if NEW in lives:
            assert came == 0
            continue
        old = Beside(old_words(place), "", place / "old.said")
        again = old.line()
        assert line in ("", again)
        new = Beside(new_words(place), again, place / "new.said")
        assert new.wait() == 0, (number, new.said())
        assert old.wait() == 0, (number, old.said())
        assert living(place) == [NEW]
        shutil.rmtree(place)
    assert seen == {(OLD,), (), (NEW,)}


@pytest.mark.slow
def test_the_new_computer_is_killed(account: Path, tmp_path: Path) -> None:
    seen = set()
    for number in itertools.count(1):
        place = tmp_path / str(number)
        shutil.copytree(account, place / OLD)
        old = Beside(old_words(place), "", place / "old.said")
        line = old.line()
        new = Beside(new_words(place), line, place / "new.said", number)
        killed = new.wait()
        if killed == 0:
            assert old.wait() == 0
            break
        assert killed == -signal.SIGKILL, new.said()
        seen.add(lives_here(place / NEW))
        if not lives_here(place / NEW):
            new = Beside(new_words(place), line, place / "new.said")
            assert new.wait() == 0, (number, new.said())
        assert old.wait() == 0, (number, old.said())
        assert living(place) == [NEW]
        shutil.rmtree(place)
    assert seen == {False, True}
