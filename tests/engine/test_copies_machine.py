"""Copies of one account and the marks that they put: any order of runs, crashes, backups put back
in place, directories copied, claims, and a server that lies. Real stores; the server is a few
lines.

Who was where is written down beside the machine: which marks a store has made, and up to which it
knows of others'. A mark that is neither shows another copy, at once and whatever was killed in
between; no other one does.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from cbfs.account.account import SYSTEM_RANDOM
from cbfs.account.claim import CopyStanding, CopyState, Marker, read_standing
from cbfs.context import Context, Events
from cbfs.receiving.copies import TOLD, TRIES, Copies, begin_anew, notice_copy
from cbfs.storage.store import Store, Table, Writer
from cbfs_common.limits import COPIES_WITHIN, MARK_SIZE
from tests.support.copied import put_in_place, settle_in
from tests.support.stores import open_store

T = TypeVar("T")
Say = Callable[[bytes, bytes], tuple[bytes, int]]
TRANSPORT = b"t" * 32
DAY = COPIES_WITHIN * 1_000
CRASHES = ("", "", "", "before", "after", "reply", "before heard", "after heard")


class Crash(Exception):
    pass


@dataclass
class Ghost:
    """Beside a store: the marks that it has made, and how many of the server's it knows of."""

    made: list[bytes] = field(default_factory=list)
    known: int = 0


class Server:
    def __init__(self) -> None:
        self.mark = b""
        self.log: list[bytes] = []

    def swap(self, seen: bytes, new: bytes) -> bytes:
        found = self.mark
        if found == seen:
            self.mark = new
            self.log.append(new)
        return found


class Copy:
    """An account directory, and what runs there."""

    def __init__(self, place: Path, ghost: Ghost, now: Callable[[], int]) -> None:
        self.place = place
        self.ghost = ghost
        self.now = now
        self.crash = ""
        self.found = -1
        self.takes = False
        self.begun: list[int] = []
        self.stopped = 0
        self.told: dict[str, str] = {}
        self.store: Store | None = None
        self.run: Copies | None = None
        self.cut = False
        """Whether it was copied or put back since it began anew last."""

    def close(self) -> None:
        if self.store is not None:
            self.store.close()
        self.store = self.run = None

    def open(self) -> Copies:
        if self.run is None:
            self.store = open_store(self.place)
            marker = Marker(TRANSPORT, SYSTEM_RANDOM)
            notice_copy(self.store, self.place, marker, self.now())
            self.use("session")
            self.run = Copies(self._context(), cast(Events, SimpleNamespace(
                notes_due=lambda dues: None)), self._stop)  # fmt: skip
        return self.run

    def _context(self) -> Context:
        assert self.store is not None
        me = SimpleNamespace(name="alice", transport=TRANSPORT)
        sessions = SimpleNamespace(lock=trio.Lock(), given_up_all=lambda _store: None)
        problems = SimpleNamespace(set=self.told.__setitem__)
        store = SimpleNamespace(commit=self.commit, read=self.store.read)
        return cast(Context, SimpleNamespace(
            account=me, sessions=sessions, problems=problems, store=store, clock=self.now,
            random=SYSTEM_RANDOM,
        ))  # fmt: skip

    def _stop(self) -> None:
        self.stopped += 1

    async def commit(self, change: Callable[[Writer], T]) -> T:
        assert self.store is not None
        if self.crash == "before":
            raise Crash
        before = self.standing()
        result = self.store.write(change)
        after = self.standing()
        assert after is not None
        self.ghost.made.append(after.put)
        if before is not None and self.found >= 0 and after.counter > before.counter:
            self.ghost.known = max(self.ghost.known, self.found + 1)
        if self.crash == "after":
            raise Crash
        return result

    def standing(self) -> CopyStanding | None:
        assert self.store is not None
        with self.store.read() as reader:
            return read_standing(reader)

    def use(self, text: str) -> None:
        """There is a session."""
        assert self.store is not None
        self.store.write(lambda writer: writer.put(Table.SESSIONS, b"s" * 16, text.encode()))

    def has_session(self) -> bool:
        assert self.store is not None
        with self.store.read() as reader:
            return reader.count(Table.SESSIONS) > 0


async def exchange(copy: Copy, say: Say, crash: str) -> str:
    """One request; what came of it: "", "copy" or "two". ``say`` gives the server's answer, and
    which of its marks that is. A crash ends the run."""
    run = copy.open()
    copy.told.clear()
    copy.found = -1
    stopped = copy.stopped
    try:
        copy.crash = crash
        asked = await run.ask()
        standing = copy.standing()
        taking = (CopyState.TAKES_OVER, CopyState.CLAIMED)
        copy.takes = standing is not None and standing.state in taking
        copy.crash = ""
        found, copy.found = say(asked.seen, asked.new)
        if crash == "reply":
            raise Crash
        copy.crash = crash.removesuffix(" heard") if crash.endswith("heard") else ""
        await run.heard(asked, found)
    except Crash:
        copy.crash = ""
        copy.close()
        return "crash"
    finally:
        copy.crash = ""
    if copy.stopped > stopped:
        return "two"
    return "copy" if copy.told.get("copy") == TOLD else ""


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._room = TemporaryDirectory(prefix="copies-")
        self.room = Path(self._room.name)
        self.time = 10 * DAY
        self.server = Server()
        self.lied = False
        self.backups: list[tuple[Path, Ghost]] = []
        self.copies = [self._copy("copy0", Ghost())]

    def teardown(self) -> None:
        for copy in self.copies:
            copy.close()
        self._room.cleanup()

    def _copy(self, name: str, ghost: Ghost) -> Copy:
        (self.room / name).mkdir(exist_ok=True)
        return Copy(self.room / name, ghost, lambda: self.time)

    def _one(self, data: Any) -> Copy:
        return cast(Copy, data.draw(st.sampled_from(self.copies)))

    def _honest(self, seen: bytes, new: bytes) -> tuple[bytes, int]:
        found = self.server.swap(seen, new)
        return found, self.server.log.index(found) if found else -1

    def _step(self, copy: Copy, say: Say, crash: str) -> None:
        run = copy.open()
        if run.stopped:
            return
        if not copy.has_session():
            copy.use("fresh")
        made, known = list(copy.ghost.made), copy.ghost.known
        what = trio.run(exchange, copy, say, crash)
        if what == "crash":
            return
        made += copy.ghost.made[len(made) : len(made) + 1]  # what this request was about to put
        foreign = copy.found >= known and self.server.log[copy.found] not in made
        if not foreign or copy.takes:
            assert what == "", "no other copy has put anything"
        elif not self.lied:
            assert what in ("copy", "two")
        if what:
            assert not copy.has_session(), "nothing of before is used"
        if what == "copy":
            lately = copy.begun and self.time - copy.begun[-1] < DAY
            assert not lately or copy.cut, "twice in a day"
            copy.begun.append(self.time)
            copy.cut = False

    @rule(data=st.data(), crash=st.sampled_from(CRASHES))
    def swap(self, data: Any, crash: str) -> None:
        self._step(self._one(data), self._honest, crash)

    @rule(data=st.data(), times=st.integers(2, 5))
    def swaps(self, data: Any, times: int) -> None:
        copy = self._one(data)
        for _ in range(times):
            self._step(copy, self._honest, "")
        standing = copy.standing()
        assert standing is not None
        its_own = standing.put == self.server.mark
        assert its_own or times < TRIES or standing.state is CopyState.STOPPED

    @rule(data=st.data())
    def restart(self, data: Any) -> None:
        self._one(data).close()

    @rule(hours=st.integers(1, 40))
    def wait(self, hours: int) -> None:
        self.time += hours * 3_600_000

    def _back_up(self, copy: Copy) -> tuple[Path, Ghost]:
        copy.open()
        copy.close()
        place = self.room / f"backup{len(self.backups)}"
        shutil.copytree(copy.place, place)
        copy.cut = True
        self.backups.append((place, Ghost(list(copy.ghost.made), copy.ghost.known)))
        return self.backups[-1]

    def _put_back(self, copy: Copy, backup: tuple[Path, Ghost]) -> None:
        copy.open()
        copy.close()
        place, ghost = backup
        put_in_place(place, copy.place)
        settle_in(copy.place)  # another copy's, it may be
        copy.ghost = Ghost(list(ghost.made), ghost.known)
        copy.begun, copy.cut, copy.stopped = [], True, 0

    @rule(
        data=st.data(),
        times=st.integers(0, 3),
        crashes=st.lists(st.sampled_from(CRASHES), max_size=5),
    )
    def go_on_and_put_back(self, data: Any, times: int, crashes: list[str]) -> None:
        """A backup is made, the account goes on, the backup is put back, and crashes some times."""
        copy = self._one(data)
        backup = self._back_up(copy)
        for _ in range(times):
            self._step(copy, self._honest, "")
        self._put_back(copy, backup)
        for crash in crashes:
            self._step(copy, self._honest, crash)

    @precondition(lambda self: self.backups)
    @rule(data=st.data())
    def put_back_an_old_one(self, data: Any) -> None:
        self._put_back(self._one(data), data.draw(st.sampled_from(self.backups)))

    @precondition(lambda self: len(self.copies) < 3)
    @rule(data=st.data())
    def clone(self, data: Any) -> None:
        """What a snapshot of a machine makes: the directory, file by file the same."""
        place, ghost = self._back_up(self._one(data))
        copy = self._copy(f"copy{len(self.copies)}", Ghost(list(ghost.made), ghost.known))
        shutil.copytree(place, copy.place, dirs_exist_ok=True)
        settle_in(copy.place)
        copy.cut = True
        self.copies.append(copy)

    @precondition(lambda self: len(self.copies) > 1)
    @rule(
        order=st.lists(st.integers(0, 2), min_size=3, max_size=12), crash=st.sampled_from(CRASHES)
    )
    def alternate(self, order: list[int], crash: str) -> None:
        """Several run at the same time."""
        for number in order:
            self._step(self.copies[number % len(self.copies)], self._honest, "")
        self._step(self.copies[order[0] % len(self.copies)], self._honest, crash)

    @rule(data=st.data())
    def claim(self, data: Any) -> None:
        copy = self._one(data)
        copy.close()
        copy.store = open_store(copy.place)
        marker = Marker(TRANSPORT, SYSTEM_RANDOM)
        copy.store.write(lambda writer: begin_anew(writer, marker, self.time))
        standing = copy.standing()
        assert standing is not None
        copy.ghost.made.append(standing.put)
        copy.close()
        copy.ghost.known = len(self.server.log)
        copy.begun, copy.cut = [self.time], True

    @precondition(lambda self: self.server.log)
    @rule(data=st.data(), what=st.sampled_from(("old", "none", "garbage")))
    def lie(self, data: Any, what: str) -> None:
        """The server says that there is another mark than there is."""
        number = data.draw(st.integers(0, len(self.server.log) - 1))
        told = {"old": self.server.log[number], "none": b"", "garbage": bytes(MARK_SIZE)}[what]
        at = number if what == "old" else -1
        self.lied = True
        self._step(self._one(data), lambda seen, new: (told, at), "")


@pytest.mark.slow
def test_copies_are_noticed_and_nothing_else_is() -> None:
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=60, stateful_step_count=12, deadline=None)
    )
