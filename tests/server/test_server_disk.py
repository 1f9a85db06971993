"""Sick disks under the stores of the message server and of the name directory: full, read-only,
cut short, with flipped bits. What is given out is right, or there is an error."""

import os
import random
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count, islice
from pathlib import Path

import pytest

from cbfs_common.errors import DecodeError
from cbfs_common.limits import ENVELOPE_SIZE
from cbfs_common.names.checks import DirectoryLies, Found
from cbfs_common.names.wire import Lookup
from cbfs_common.names.wire import RefusedReply as NamesRefused
from cbfs_common.session.prekey import PrekeyKind
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import (
    Code,
    CreateAccount,
    Deliver,
    EnvelopeIds,
    ErrorReply,
    Fetch,
    List,
    PrekeyRecord,
    Stored,
    TakePrekey,
    UploadPrekeys,
    envelope_id,
)
from cbfs_host import lmdb_environment
from cbfs_host.complaints import StoreError
from cbfs_server.limits import ENVELOPE_COST
from cbfs_server.lmdb_store import room
from cbfs_server.store.room import Room
from tests.server.test_server_store import Caller, Clock, play, serving
from tests.support.children import exit_code
from tests.support.names_local import CONFIG, commit, local, register, update, worked_for
from tests.support.serving import KEM
from tests.support.world import ENVIRONMENT, WAIT, program

PAGE = 4_096
FULL = 3 << 19
FLIPS = 80
CUTS = 6
USERS, EACH = 12, 5
NAMES = [f"name{number}" for number in range(24)]
INTACT, REFUSED, LOST, WRONG = range(4)
ENDED = {-signal.SIGABRT, -signal.SIGBUS, -signal.SIGSEGV}
"""LMDB ends the process when its own pages, which have no checks, contradict themselves or lead
out of the file."""

Check = Callable[[Path], int]


@contextmanager
def own_disk(*options: str) -> Iterator[Path]:
    """A file system of one's own."""
    with tempfile.TemporaryDirectory(prefix="cbfs-disk-", dir="/var/tmp") as place:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "cbfs-test", place], check=True
        )
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=True, timeout=WAIT)


def user(number: int) -> bytes:
    return bytes([number + 1]) * 32


def envelope(number: int, each: int) -> bytes:
    return random.Random(number * EACH + each).randbytes(ENVELOPE_SIZE)


def prekeys(number: int) -> list[bytes]:
    made = random.Random(-number - 1)
    return [
        made.randbytes(16) + bytes([PrekeyKind.ONE_TIME]) + b"\x7f" * 8 + made.randbytes(1_280)
        for _ in range(EACH)
    ]


def fill_mail(path: Path) -> None:
    """Accounts that each have envelopes and prekeys."""

    async def script() -> None:
        async with serving(path, Clock()) as service:
            for number in range(USERS):
                caller = Caller(service, user(number))
                assert await caller.ask(CreateAccount()) == Done()
                await caller.ask(UploadPrekeys(tuple(prekeys(number)), KEM, replace=True))
                for each in range(EACH):
                    await caller.ask(Deliver(caller.key, envelope(number, each)))

    play(script)


def check_mail(path: Path) -> int:
    """Ask for everything that ``fill_mail`` has put there, and for a change of it."""
    seen = {INTACT}

    async def script() -> None:
        async with serving(path, Clock()) as service:
            for number in range(USERS):
                caller = Caller(service, user(number))
                sent = {envelope_id(e): e for e in (envelope(number, n) for n in range(EACH))}
                listed = await caller.ask(List())
                seen.add(judged(listed, EnvelopeIds(tuple(sent), False), set(sent)))
                for id, content in sent.items():
                    seen.add(judged(await caller.ask(Fetch(id)), Stored(content)))
                taken = await caller.ask(TakePrekey(caller.key))
                if isinstance(taken, PrekeyRecord):
                    seen.add(INTACT if taken.record in prekeys(number) else WRONG)
                new = Deliver(caller.key, b"new" + bytes(ENVELOPE_SIZE - 3))
                seen.add(judged(await caller.ask(new), Done()))

    try:
        play(script)
    except StoreError:
        seen.add(REFUSED)
    return max(seen)


def judged(reply: object, right: object, known: frozenset[bytes] | set[bytes] = frozenset()) -> int:
    """What this reply is, where another was right."""
    if reply == right:
        return INTACT
    if isinstance(reply, ErrorReply):
        return REFUSED if reply.code is Code.TROUBLE else LOST
    return LOST if isinstance(reply, EnvelopeIds) and set(reply.ids) < known else WRONG


def fill_names(path: Path) -> None:
    with local(path) as directory:
        directory.round(*(commit(name) for name in NAMES))
        directory.round(*(register(name) for name in NAMES))
        for name in NAMES[:6]:
            directory.round(update(directory.entry(name), b"new profile of " + name.encode()))


def check_names(path: Path) -> int:
    """Look up all that ``fill_names`` has registered, as a client does, then again after one
    more round, which must continue the log that the client knows."""
    worst = INTACT
    try:
        with local(path, CONFIG) as directory:
            state = None
            for turn in range(2):
                for name in NAMES:
                    reply = directory.answer(Lookup(name))
                    if isinstance(reply, NamesRefused):
                        worst = max(worst, REFUSED)
                        continue
                    state, found = directory.checked(name, state)
                    if not isinstance(found, Found):
                        return WRONG
                if turn == 0:
                    directory.round(commit("another"))
                    directory.round(register("another"))
    except StoreError:
        return REFUSED
    except (DirectoryLies, DecodeError):
        return WRONG
    return worst


def in_use(store: Path) -> bytes:
    """The file of a store, without what is only allocated."""
    env = lmdb_environment.open_environment(store, 10)
    size = (env.info()["last_pgno"] + 1) * PAGE
    env.close()
    return (store / "data.mdb").read_bytes()[:size]


def damaged(good: bytes) -> Iterator[bytes]:
    """The file with a bit flipped in many places, half of them where LMDB keeps its own, and cut
    short in some."""
    chance = random.Random(len(good))
    pages = len(good) // PAGE
    for number in range(FLIPS):
        within = 64 if number % 2 else PAGE
        at = chance.randrange(pages) * PAGE + chance.randrange(within)
        yield good[:at] + bytes([good[at] ^ 1 << chance.randrange(8)]) + good[at + 1 :]
    for number in range(CUTS):
        yield good[: pages * number // CUTS * PAGE + 100 * (number % 2)]


KINDS = {"mail": (fill_mail, check_mail), "names": (fill_names, check_names)}


@pytest.mark.parametrize("kind", KINDS)
def test_damage_shows_as_an_error_and_never_as_wrong_data(memory: Path, kind: str) -> None:
    fill, check = KINDS[kind]
    whole = memory / "whole"
    fill(whole)
    good = in_use(whole)
    found: Counter[int] = Counter()
    for number, data in enumerate(damaged(good)):
        place = memory / str(number)
        place.mkdir()
        (place / "data.mdb").write_bytes(data)
        found[exit_code(check, place)] += 1
        shutil.rmtree(place)
    assert set(found) <= {INTACT, REFUSED, LOST, *ENDED}, found
    assert found[REFUSED] > FLIPS // 10, found
    assert sum(found[each] for each in (LOST, *ENDED)) < FLIPS // 10, found


async def deliver_until_refused(caller: Caller, start: int) -> list[bytes]:
    """The envelopes that were acknowledged before the first that was not."""
    done: list[bytes] = []
    while True:
        content = (start + len(done)).to_bytes(8, "big") * (ENVELOPE_SIZE // 8)
        reply = await caller.ask(Deliver(caller.key, content))
        if reply != Done():
            assert reply in (ErrorReply(Code.FULL), ErrorReply(Code.MAILBOX_FULL))
            return done
        done.append(content)


@pytest.fixture
def small_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    """For disks that are small."""
    for name, value in ("RESERVE", FULL // 8), ("RESERVE_STEP", 0):
        monkeypatch.setattr(room, name, value)
    monkeypatch.setattr(Room, "fits", lambda self, _held: self.left >= ENVELOPE_COST)


def mail_goes_on(path: Path, make_room: Callable[[], None]) -> None:
    """Deliver until there is no room; what was acknowledged is there, also after more room."""
    kept: list[bytes] = []

    async def script(turn: int) -> None:
        async with serving(path, Clock(), 10_000) as service:
            caller = Caller(service, user(0))
            await caller.ask(CreateAccount())
            kept.extend(await deliver_until_refused(caller, len(kept)))
            for content in kept:
                assert await caller.ask(Fetch(envelope_id(content))) == Stored(content)
            ids: list[bytes] = []
            while (page := await caller.ask(List(ids[-1] if ids else b""))).more:
                ids += page.ids
            assert [*ids, *page.ids] == [envelope_id(content) for content in kept]
            if turn == 0:
                make_room()

    for turn in range(2):
        before = len(kept)
        play(partial(script, turn))
        assert len(kept) > before, "there was room for some"


def names_go_on(path: Path, make_room: Callable[[], None]) -> None:
    """Register until there is no room; what was acknowledged is there, also after more room."""
    kept: list[str] = []
    numbers = count()
    for turn in range(2):
        before = len(kept)
        with pytest.raises(StoreError) as caught, local(path) as directory:
            while True:
                batch = [f"name{number}" for number in islice(numbers, 100)]
                directory.round(*(worked_for(commit(name), 8) for name in batch))
                assert not directory.round(*(register(name) for name in batch)).refused
                kept.extend(batch)
        assert "cannot be written" in str(caught.value)
        assert caught.value.hint
        assert len(kept) > before, "there was room for some"
        if turn == 0:
            make_room()
    make_room()
    with local(path) as directory:
        for name in kept:
            assert directory.entry(name).name == name


GOING_ON = {"mail": mail_goes_on, "names": names_go_on}


@pytest.mark.mount
@pytest.mark.usefixtures("small_reserve")
@pytest.mark.parametrize("kind", GOING_ON)
def test_a_full_disk_loses_nothing_and_goes_on_when_there_is_room(kind: str) -> None:
    with own_disk(f"size={3 * FULL}") as disk:
        fillers = [disk / "filler1", disk / "filler2"]
        for filler in fillers:
            filler.write_bytes(bytes(FULL))
        GOING_ON[kind](disk / "store", lambda: fillers.pop().unlink())


@pytest.mark.usefixtures("small_reserve")
@pytest.mark.parametrize("kind", GOING_ON)
def test_a_full_map_loses_nothing_and_goes_on_when_it_is_larger(
    memory: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    sizes = iter((2 * FULL, 4 * FULL))

    def set_size() -> None:
        monkeypatch.setattr(lmdb_environment, "MAP_SIZE", next(sizes, 1 << 30))

    monkeypatch.setattr(lmdb_environment, "MAP_SIZE", FULL)
    GOING_ON[kind](memory / "store", set_size)


PROGRAMS = {"mail": "cbfs-server", "names": "cbfs-names"}


def outcome(kind: str, data: Path, before: str = "") -> tuple[str, str]:
    """The first line that the program prints, and all that it says when it has ended."""
    words = program(PROGRAMS[kind], "--data", data, "--listen", "127.0.0.1:0")
    command = ["sh", "-c", f'{before} exec "$@"', "sh", *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.terminate()
        said = process.communicate(timeout=WAIT)[1]
    assert process.returncode == (0 if first else 1), said
    assert "Traceback" not in said
    if not first:
        assert "error: " in said
        assert "hint: " in said
    return first, said


@pytest.mark.mount
@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_program_on_a_read_only_disk_says_so(kind: str) -> None:
    with own_disk("size=64m") as disk:
        assert outcome(kind, disk / "data")[0]
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert "Read-only file system" in outcome(kind, disk / "data")[1]


@pytest.mark.mount
@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_program_starts_or_says_why_not_however_little_the_disk_has_left(kind: str) -> None:
    with own_disk("size=64m") as disk:
        first = outcome(kind, disk / "data")[0]
        shutil.rmtree(disk / "data" / "store")  # its keys are there
        (disk / "data" / "policy").unlink(missing_ok=True)
        for left in range(6):
            used = shutil.disk_usage(disk).used + left * PAGE
            subprocess.run(["mount", "-o", f"remount,size={used}", disk], check=True)
            assert "the disk is full" in outcome(kind, disk / "data")[1]
            shutil.rmtree(disk / "data" / "store", ignore_errors=True)
            shutil.rmtree(disk / "data" / "store.new", ignore_errors=True)
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert outcome(kind, disk / "data")[0].partition("@")[0] == first.partition("@")[0]


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_program_starts_in_little_address_space(tmp_path: Path, kind: str) -> None:
    assert outcome(kind, tmp_path / "data", "ulimit -v 8000000;")[0]


@pytest.mark.parametrize("kind", PROGRAMS)
@pytest.mark.parametrize("size", [0, 100, 3 * PAGE + 100])
def test_a_program_with_a_store_cut_short_says_so(tmp_path: Path, kind: str, size: int) -> None:
    data = tmp_path / "data"
    first = outcome(kind, data)[0]
    os.truncate(data / "store" / "data.mdb", size)
    again, said = outcome(kind, data)
    assert again.partition("@")[0] == first.partition("@")[0] or "store" in said
