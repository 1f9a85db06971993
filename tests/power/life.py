"""A life of two people, a server and a name directory, each with a disk of its own, that is
recorded until its power fails; and what must be true on any of the disks' images after that.

An acknowledgement is written down with the number of events that the disks had seen when it was
there. Whatever was acknowledged before a cut must hold after it.
"""

import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

import trio

from cbfs.account.account import SYSTEM_RANDOM, load_account, opened_store
from cbfs.names.directory import Directory
from cbfs.names.lookups import Lookups
from cbfs.network.dial import LoopbackDialer
from cbfs.network.link import open_link, request
from cbfs.storage.root_key import MAGIC
from cbfs_common.names.checks import Found
from cbfs_common.names.policy import parse_policy
from cbfs_common.primitives import dh_public
from cbfs_common.profile import parse_address
from cbfs_common.wire.requests import TakePrekey
from tests.power.acks import Ack, Acks, Recording
from tests.power.box import call, start
from tests.power.images import Cut, Disk
from tests.power.programs import Programs, attach, start_disks
from tests.support.world import wait_for

DISKS = ("alice", "bob", "server", "names")
OWNER = b"o" * 32
TAKEN_AFTER = 4
"""Prekeys that are taken after a power loss."""


def texts(mount: Path) -> Counter[str]:
    """Of all messages that are shown."""
    found: Counter[str] = Counter()
    for path in (mount / "conversations").glob("*/*Z-*"):
        found[path.read_text()] += 1
    return found


# --- what is recorded -------------------------------------------------------------------------


def record(recording: Recording, seconds: float, seed: int, fault: str) -> None:
    """In a box."""
    disks = start_disks(recording.journal, recording.base, recording.names)
    acks = recording.written()
    programs = Programs(disks.__getitem__, recording.log, fault, acks)
    if not programs.names():
        raise AssertionError("no name directory")
    server = programs.server()
    for name in ("alice", "bob"):
        if programs.init(name, server):
            raise AssertionError(f"no account: {recording.log.read_text()}")
        if call(lambda name=name: programs.accept(name), recording.log):  # type: ignore[misc]
            raise AssertionError("no settings")
    user = _user_of(programs, "alice", recording.log)
    mounts = {name: programs.mount(name) for name in ("alice", "bob")}
    for name, other in (("alice", "bob"), ("bob", "alice")):
        (mounts[name] / "outbox" / other).mkdir(exist_ok=True)
    acks.write("begun", server)
    end = time.monotonic() + seconds
    workers: list[Callable[[], None]] = [
        lambda: save(mounts["alice"] / "outbox" / "bob", "close", acks, Random(seed), end),
        lambda: save(mounts["alice"] / "outbox" / "bob", "fsync", acks, Random(seed + 1), end),
        lambda: save(mounts["alice"] / "outbox" / "bob", "rename", acks, Random(seed + 2), end),
        lambda: save(mounts["bob"] / "outbox" / "alice", "close", acks, Random(seed + 3), end),
        lambda: keep(mounts["alice"] / "ui_info", acks, Random(seed + 5), end),
        lambda: watch(mounts["bob"], acks, Random(seed + 4), end),
        lambda: trio.run(take, server, user, acks, end),
        lambda: trio.run(register, disks["names"] / "names" / "policy", acks, end),
    ]
    pids = [start(worker, recording.log) for worker in workers]
    for pid in pids:
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            raise AssertionError(f"a worker failed: {recording.log.read_text()[-2000:]}")


def _user_of(programs: Programs, name: str, log: Path) -> bytes:
    """An account's user id, found by another process."""
    file = log.with_name(f"{name}.user")

    def find() -> None:
        with opened_store(programs.data(name), SYSTEM_RANDOM) as store:
            account = load_account(store)
            file.write_bytes(dh_public(account.transport) if account else b"")

    call(find, log)
    return file.read_bytes()


def save(folder: Path, how: str, acks: Acks, random: Random, end: float) -> None:
    """One file after the other, as many as there is time for."""
    number = 0
    while time.monotonic() < end:
        number += 1
        name = f"{folder.name}-{how}-{number}"
        text = f"{name}\n" + "x" * random.choice((0, 100, 5_000, 40_000))
        path = folder / f"{name}.txt"
        if how == "rename":
            part = folder.parents[1] / "tmp" / name
            part.write_text(text)
            part.rename(path)
        else:
            with path.open("w") as file:
                file.write(text)
                if how == "fsync":
                    file.flush()
                    os.fsync(file.fileno())
                    acks.write("synced", name)
        acks.write("saved", name)
        time.sleep(random.choice((0, 0, 0.1)))


def keep(folder: Path, acks: Acks, random: Random, end: float) -> None:
    """A few files, written anew, renamed over each other, and removed."""
    number = 0
    while time.monotonic() < end:
        number += 1
        path = folder / f"kept-{random.randrange(4)}"
        text = f"{number}\n" + "y" * random.choice((0, 3_000, 90_000))
        acks.write("keeping", f"{path.name} {number}")
        if random.random() < 0.2:
            path.unlink(missing_ok=True)
        elif random.random() < 0.5:
            path.write_text(text)
        else:
            part = folder / "part"
            part.write_text(text)
            part.rename(path)
        acks.write("kept", f"{path.name} {number if path.exists() else 0}")
        time.sleep(0.05)


def watch(mount: Path, acks: Acks, random: Random, end: float) -> None:
    """Write down what has come, and remove some of it."""
    seen: set[str] = set()
    while time.monotonic() < end:
        for path in (mount / "conversations").glob("*/*Z-*"):
            if path.name in seen:
                continue
            seen.add(path.name)
            name = path.read_text().partition("\n")[0]
            acks.write("came", name)
            if random.random() < 0.3 and "Z-alice" in path.name:
                acks.write("removing", name)
                path.unlink()
                acks.write("removed", name)
        time.sleep(0.02)


async def take(server: str, user: bytes, acks: Acks, end: float) -> None:
    """Prekeys of somebody, slowly, so that some are left."""
    while time.monotonic() < end:
        for id in await take_some(server, user, 1):
            acks.write("taken", id)
        await trio.sleep(0.4)


async def take_some(server: str, user: bytes, count: int) -> list[str]:
    """Ids of one-time prekeys."""
    address = parse_address(server)
    taken = []
    async with open_link(LoopbackDialer(), address, None, b"test", SYSTEM_RANDOM) as link:
        for _ in range(count):
            found = await request(link, TakePrekey(user))
            if found.record[16] == 1:
                taken.append(found.record[:16].hex())
    return taken


class Kept:
    """What somebody remembers of a name directory."""

    def __init__(self, state: bytes | None = None) -> None:
        self.state = state

    def load(self) -> bytes | None:
        return self.state

    async def save(self, state: bytes) -> None:
        self.state = state


def directory(policy: Path, kept: Kept) -> Directory:
    parsed = parse_policy(policy.read_text())
    return Directory(
        Lookups(LoopbackDialer(), parsed, kept.load, kept.save, time.time, SYSTEM_RANDOM)
    )


async def register(policy: Path, acks: Acks, end: float) -> None:
    """Names, one after the other, and what is known of the directory after each."""
    kept, number = Kept(), 0
    client = directory(policy, kept)
    while time.monotonic() < end:
        number += 1
        name = f"name-{number}"
        await client.register(name, b"profile", OWNER)
        acks.write("registered", name)
        acks.write("head", (kept.state or b"").hex())
        await trio.sleep(0.05)


# --- what must be true after a cut --------------------------------------------------------------


def unerased(disk: Disk, cut: Cut, acks: list[Ack], who: str) -> str:
    """When a change has returned, no key of the store before it is anywhere on the disk, in a file
    or not."""
    told = [int(a.what) for a in acks if a.kind == f"settled {who}" and a.position <= cut.position]
    least = max(told, default=0)
    for at, block in disk.blocks(cut).items():
        if block.startswith(MAGIC) and int.from_bytes(block[16:24], "big") < least:
            return f"a key of {who} that was erased is on the disk at {at}"
    return ""


def check(recording: Recording, images: Path, acks: list[Ack]) -> Iterator[str]:
    """In a box: start everything on the images; what is wrong, one after the other."""
    disks = attach(images, recording.names)
    log = images / "log"
    programs = Programs(disks.__getitem__, log)
    if not programs.names():
        yield f"the name directory does not start: {log.read_text()}"
    server = programs.server()
    if server not in {a.what for a in acks if a.kind == "begun"}:
        yield f"the server does not start as it was: {log.read_text()}"
    # Before the clients come: they make good what a server has lost
    yield from _asked(partial(_prekeys, server, recording, acks), images)
    try:
        mounts = {name: programs.mount(name) for name in ("alice", "bob")}
    except AssertionError as error:
        yield f"{error}: {log.read_text()}"
        return
    yield from _kept(mounts["alice"], acks)
    expected = {a.what for a in acks if a.kind in {"saved", "came"}}
    synced = {a.what for a in acks if a.kind == "synced"}
    removing = {a.what for a in acks if a.kind == "removing"}
    removed = {a.what for a in acks if a.kind == "removed"}
    bob = mounts["bob"]
    for name, other in (("alice", "bob"), ("bob", "alice")):
        folder = mounts[name] / "outbox" / other
        folder.mkdir(exist_ok=True)
        (folder / "last").write_text(f"{other}-last\n")
        expected.add(f"{other}-last")
    yield from _asked(partial(_names, disks["names"] / "names" / "policy", acks), images)

    def arrived() -> Counter[str]:
        return Counter(
            text.partition("\n")[0]
            for mount, who in ((bob, "bob"), (mounts["alice"], "alice"))
            for text in texts(mount).elements()
            if text.startswith(f"{who}-")
        )

    def wanting() -> list[str]:
        """What was synced and not closed is sent, or held as a draft that says so."""
        there, unclosed = set(arrived()), synced - expected
        held = {path.read_text().partition("\n")[0] for path in _held(mounts["alice"])}
        return sorted((expected - removing - there) | (unclosed - removing - there - held))

    try:
        wait_for(lambda: not wanting() or None, "all that was saved")
    except AssertionError:
        lost = wanting()
        yield f"lost: {lost} {log.read_text()[-1000:]} {_state(mounts)}"
    there = arrived()
    if removed & set(there):
        yield f"removed, and there: {sorted(removed & set(there))}"
    doubled = [text for text, count in there.items() if count > 1]
    if doubled:
        yield f"doubled: {doubled}"


def _kept(mount: Path, acks: list[Ack]) -> Iterator[str]:
    """Each file of ui_info/ is as it was when that was said, or as something later was to make it;
    what was in tmp/ is gone."""
    if any((mount / "tmp").iterdir()):
        yield "tmp/ is not empty"
    maybe: dict[str, set[int]] = {}
    for ack in acks:
        if ack.kind in {"kept", "keeping"}:
            name, number = ack.what.split()
            may = maybe.setdefault(name, {0})
            if ack.kind == "kept":
                may.clear()
                may.add(int(number))
            else:
                may |= {int(number), 0}
    for name, may in maybe.items():
        path = mount / "ui_info" / name
        text = path.read_text() if path.exists() else "0\n"
        number, _, rest = text.partition("\n")
        if int(number or -1) not in may or len(rest) not in {0, 3_000, 90_000}:
            yield f"ui_info/{name} is {number!r} with {len(rest)} bytes and not one of {may}"


def _held(mount: Path) -> list[Path]:
    """Drafts that say why they are not sent."""
    folders = [path for path in (mount / "outbox").iterdir() if not path.is_symlink()]
    errors = [error for folder in folders for error in folder.glob("*.txt.error")]
    return [error.with_suffix("") for error in errors]


def _state(mounts: dict[str, Path]) -> str:
    """What the people see."""
    said = []
    for name, mount in mounts.items():
        drafts = sorted(str(path.relative_to(mount)) for path in mount.glob("outbox/*/*"))
        shown = sorted(text.partition("\n")[0] for text in texts(mount))
        status = (mount / "status").read_text()
        said.append(f"\n== {name}: {status}\ndrafts: {drafts}\nshown: {shown}")
    return "".join(said)


def _asked(ask: Callable[[], Awaitable[str]], images: Path) -> Iterator[str]:
    """What is wrong with what servers say, asked by a process of its own: this one must not have
    threads."""
    said = images / "asked"

    async def asked() -> None:
        said.write_text(await ask())

    code = call(lambda: trio.run(asked), images / "log")
    if code:
        yield f"the servers cannot be asked: {(images / 'log').read_text()[-2000:]}"
    elif said.read_text():
        yield said.read_text()


async def _prekeys(server: str, recording: Recording, acks: list[Ack]) -> str:
    taken = {a.what for a in acks if a.kind == "taken"}
    user = (recording.place / "alice.user").read_bytes()
    again = await take_some(server, user, TAKEN_AFTER)
    doubled = taken & set(again) or len(set(again)) < len(again)
    return "a prekey was given out twice" if doubled else ""


async def _names(policy: Path, acks: list[Ack]) -> str:
    heads = [bytes.fromhex(a.what) for a in acks if a.kind == "head"]
    client = directory(policy, Kept(heads[-1] if heads else None))
    await client.register("after", b"profile", OWNER)
    for name in ("alice", "bob", *(a.what for a in acks if a.kind == "registered")):
        if not isinstance(await client.lookups.lookup(name), Found):
            return f"{name} is no longer registered"
    return ""
