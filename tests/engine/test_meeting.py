"""Members of groups whom one does not know are met before they write, and nobody can bring about
more than a look-up now and then."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.account.settings import Settings, Strangers
from cbfs.contacts.contact import Contact, Mark, Standing
from cbfs.contacts.look_up import Unknown
from cbfs.context import Context
from cbfs.engine.meeting import AGAIN_MOST, MEET_DELAY, Meeting
from cbfs.engine.running import running
from cbfs.messages.model import Conversation
from cbfs.problems import NotYet
from cbfs.storage.store import Writer
from cbfs_common.limits import PARTICIPANTS_MAX
from tests.engine.test_engine import NO_TOR, Recorder, account, send, until
from tests.engine.test_healing import texts, write
from tests.mount.test_requests import ask_strangers
from tests.support.fake_backend import BOB
from tests.support.stores import open_store
from tests.support.world import World

DAY = 86_400


def test_who_is_in_a_group_can_be_verified_and_blocked_before_they_write(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbfs.engine.meeting.MEET_DELAY", 0.1)
    names = "meet-a", "meet-b", "meet-m"
    places = {name: account(here, name) for name in names}
    ask_strangers(places["meet-b"])

    async def main() -> None:
        async with (
            running(places["meet-a"], NO_TOR) as alice,
            running(places["meet-b"], NO_TOR) as bob,
            running(places["meet-m"], NO_TOR) as mallory,
        ):
            bob.attach(Recorder())
            await write(bob, "meet-a", "hello alice", "first")
            await send(alice, ("meet-b", "meet-m"), b"all of us")
            await until(lambda: bob.people.contact("meet-m") is not None, "bob to meet mallory")
            met = bob.people.contact("meet-m")
            assert met is not None
            assert met.standing is Standing.LISTED
            assert await bob.people.verify("meet-m", " ".join(bob.people.compare("meet-m").digits))
            await bob.people.mark("meet-m", Mark.BLOCKED, on=True)
            await until(lambda: "all of us" in texts(mallory), "mallory to have it")
            await send(mallory, ("meet-a", "meet-b"), b"unwanted")
            await until(lambda: "unwanted" in texts(alice), "alice to have it")
            await send(alice, ("meet-b", "meet-m"), b"the end")
            await until(lambda: "the end" in texts(bob), "bob to have the end")
            assert "unwanted" not in texts(bob)
            assert not bob.people.waiting()

    trio.run(main)


# Without a network


class Asked:
    """The contacts of a client, and a directory in which some names are."""

    def __init__(self, real: set[str], known: dict[str, Standing]) -> None:
        self.real = real
        self.down = False
        self.asked: list[tuple[float, str]] = []
        self._known = {name: self._contact(name, how) for name, how in known.items()}

    @staticmethod
    def _contact(name: str, standing: Standing) -> Contact:
        return Contact(replace(BOB, name=name), 1, standing=standing)

    def all(self) -> tuple[Contact, ...]:
        return tuple(self._known.values())

    def get(self, name: str) -> Contact | None:
        return self._known.get(name)

    async def find(self, name: str, standing: Standing) -> None:
        self.asked.append((trio.current_time(), name))
        if self.down:
            raise NotYet("the name directory does not answer")
        if name not in self.real:
            raise Unknown([name])
        self._known[name] = self._contact(name, standing)


def passing(
    place: Path,
    asked: Asked,
    groups: list[tuple[str, ...]],
    seconds: float,
    strangers: Strangers = Strangers.ASK,
) -> None:
    store = open_store(place)

    async def commit(change: Callable[[Writer], None]) -> None:
        store.write(change)  # a thread would let the mock clock jump

    store.commit = commit  # type: ignore[method-assign, assignment]
    conversations = {
        b"%016d" % n: Conversation(b"%016d" % n, tuple(sorted({*group, "alice"})), "", 0, "", 0, 0)
        for n, group in enumerate(groups)
    }

    async def main() -> None:
        context = SimpleNamespace(
            account=SimpleNamespace(name="alice"),
            store=store,
            contacts=asked,
            look_up=asked,
            followed=SimpleNamespace(follows=lambda name: "@" not in name),
            conversations=conversations,
            configuration=SimpleNamespace(current=Settings(strangers=strangers)),
            clock=lambda: int(trio.current_time() * 1_000),
            random=SYSTEM_RANDOM,
        )
        with trio.move_on_after(seconds):
            await Meeting(cast(Context, context)).run()

    try:
        trio.run(main, clock=MockClock(autojump_threshold=0))
    finally:
        store.close()


def test_who_is_of_a_directory_that_is_not_followed_is_left_alone(tmp_path: Path) -> None:
    """Nobody can be asked for them, and they are in nobody's way."""
    asked = Asked({"carol"}, {"bob": Standing.KNOWN})
    passing(tmp_path, asked, [("bob", "dave@_elsewhere"), ("bob", "carol")], 20 * MEET_DELAY)
    assert [name for _when, name in asked.asked] == ["carol"]


def test_made_up_people_cost_a_look_up_now_and_then(tmp_path: Path) -> None:
    """mallory makes many groups of people that there are not; the few whom bob brings are met."""
    groups = [
        ("mallory", *(f"nobody-{group}-{n}" for n in range(PARTICIPANTS_MAX - 2)))
        for group in range(100)
    ]
    asked = Asked({"carol", "dave"}, {"bob": Standing.KNOWN, "mallory": Standing.KNOWN})
    passing(tmp_path, asked, [*groups, ("bob", "carol", "dave")], 40 * MEET_DELAY)
    assert {"carol", "dave"} <= {name for _when, name in asked.asked}
    assert len(asked.asked) < 40 * 3


def test_names_that_nobody_has_are_asked_for_ever_more_seldom(tmp_path: Path) -> None:
    asked = Asked(set(), {"bob": Standing.KNOWN})
    passing(tmp_path, asked, [("bob", "nobody-one", "nobody-two")], 365 * DAY)
    counts = Counter(name for _when, name in asked.asked)
    assert set(counts) == {"nobody-one", "nobody-two"}
    assert all(5 <= count <= 5 + 365 * DAY * 1_000 // AGAIN_MOST for count in counts.values())
    first = len(asked.asked)
    passing(tmp_path, asked, [("bob", "nobody-one", "nobody-two")], DAY)  # on the clock of before
    assert len(asked.asked) <= first + 4


def test_nobody_is_asked_for_whom_no_contact_has_brought(tmp_path: Path) -> None:
    known = {"bob": Standing.STRANGER, "carol": Standing.LISTED, "dave": Standing.KNOWN}
    asked = Asked({"erin", "frank"}, known)
    asked._known["dave"] = replace(asked._known["dave"], blocked=1)
    passing(tmp_path, asked, [("bob", "erin"), ("carol", "frank"), ("dave", "erin")], DAY)
    assert not asked.asked


def test_who_accepts_everybody_knows_them_at_once(tmp_path: Path) -> None:
    for strangers, standing in (
        (Strangers.ACCEPT, Standing.KNOWN),
        (Strangers.ASK, Standing.LISTED),
    ):
        (tmp_path / standing.value).mkdir()
        asked = Asked({"carol"}, {"bob": Standing.KNOWN})
        passing(tmp_path / standing.value, asked, [("bob", "carol")], DAY, strangers)
        met = asked.get("carol")
        assert met is not None
        assert met.standing is standing


def test_it_goes_on_when_the_directory_is_back(tmp_path: Path) -> None:
    asked = Asked({"carol"}, {"bob": Standing.KNOWN})
    asked.down = True
    passing(tmp_path, asked, [("bob", "carol")], DAY)
    assert 100 < len(asked.asked) < 1_000
    asked.down = False
    passing(tmp_path, asked, [("bob", "carol")], DAY)
    assert asked.get("carol") is not None
