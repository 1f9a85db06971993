"""Rows of what a message costs the disks: flushes, commits of LMDB and bytes written, of the
sender's mount, the server and the recipient's mount, each alone and all together.

Each of the three runs under strace, which stops it at nothing but calls that flush. A flush is one
of these, or a write to a descriptor that writes through (O_DSYNC), as LMDB's is for the page by
which a transaction counts: so many commits there were. Bytes are what the kernel has told the disk
to write for the process (/proc/PID/io), in whole pages.
"""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cbfs_host.lmdb_environment import DATA
from tests.bench.mounts import TEXT, Watch, folder_of, say, wait_all
from tests.bench.server import on_disk
from tests.bench.table import Row
from tests.support.world import ENVIRONMENT, Service, User, World, program, wait_for, world

FLUSHES = ("fsync", "fdatasync", "msync", "syncfs", "sync_file_range")
WRITES = ("write", "writev", "pwrite64", "pwritev", "pwritev2")
STRACE = ("strace", "-Dfqqy", "-s0", "--seccomp-bpf", f"-etrace={','.join((*FLUSHES, *WRITES))}")
"""It stands beside the process, whose id is that of what was started."""

SETTLED = 2.5
"""Seconds after the last message until what is put off has been written as well."""

APART = 1.5
"""Seconds between messages that come now and then: longer than anything is put off for."""

PEER = "Delta Chat, measured once"
PEER_FLUSHES, PEER_KIB = 5, 284
AIM_FLUSHES, AIM_KIB = 12, 200

PAGE = 4_096

_CALL = re.compile(rb"(\d+) +(\w+)\((\d+)<([^>]*)>.*?(?:= (\d+)|<unfinished \.\.\.>)$")
_RESUMED = re.compile(rb"(\d+) +<\.\.\. \w+ resumed>.*= (\d+)$")


@dataclass(frozen=True)
class Cost:
    """What some processes have done so far."""

    flushes: int = 0
    commits: int = 0
    size: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.flushes + other.flushes, self.commits + other.commits, self.size + other.size
        )

    def since(self, before: "Cost") -> "Cost":
        """What has come since then."""
        return Cost(
            self.flushes - before.flushes, self.commits - before.commits, self.size - before.size
        )


class Watched:
    """A process whose calls strace takes down in ``log``, beside which its files are."""

    def __init__(self, name: str, pid: int, log: Path, file: Path) -> None:
        """``file``: LMDB's."""
        self.name = name
        self.log = log
        self.file = file
        self._pid = pid

    def cost(self) -> Cost:
        """All since it was started."""
        through = self._writing_through()
        flushes = commits = size = 0
        for name, descriptor, written in self._calls():
            flushes += name in FLUSHES or descriptor in through
            commits += name in WRITES and descriptor in through
            size += -(-written // PAGE) * PAGE if name in WRITES else 0
        return Cost(flushes, commits, size)

    def _calls(self) -> Iterator[tuple[str, int, int]]:
        """Name, descriptor and result of those that have to do with files."""
        begun: dict[bytes, tuple[str, int]] = {}
        for line in self.log.read_bytes().splitlines():
            if found := _CALL.match(line):
                thread, call = found[1], (found[2].decode(), int(found[3]))
                if found[4].startswith(os.fsencode(self.log.parent)):
                    if found[5] is None:
                        begun[thread] = call
                    else:
                        yield *call, int(found[5])
            elif (found := _RESUMED.match(line)) and found[1] in begun:
                yield *begun.pop(found[1]), int(found[2])

    def _writing_through(self) -> set[int]:
        """Descriptors that write through: those of LMDB stay open as long as its process."""
        found = set()
        for entry in Path(f"/proc/{self._pid}/fdinfo").iterdir():
            (flags,) = (x for x in entry.read_text().splitlines() if x.startswith("flags:"))
            if int(flags.split()[1], 8) & os.O_DSYNC:
                found.add(int(entry.name))
        return found


class Three:
    """A sender, a server and a recipient, all of them watched."""

    def __init__(self, programs: World, server: Watched, strace: Sequence[str]) -> None:
        self._place = programs.place
        self._strace = strace
        self.alice, self.bob = (programs.user(name) for name in ("alice", "bob"))
        for user in (self.alice, self.bob):
            user.unmount()
        sender, recipient = (self._mounted(user) for user in (self.alice, self.bob))
        self.all = sender, server, recipient

    def _mounted(self, user: User) -> Watched:
        log = self._place / f"{user.name}.strace"
        words = [user.account, user.mountpoint, "--foreground", "-o", "grace=0", *user.mounts]
        with (self._place / f"{user.name}.log").open("ab") as errors:
            process = subprocess.Popen(
                [*self._strace, "-o", str(log), *program("mount.cbfs", *map(str, words))],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=ENVIRONMENT,
            )
        wait_for(lambda: (user.mountpoint / "README").exists() or None, "the mount to answer")
        return Watched(user.name, process.pid, log, user.account / "store" / DATA)

    def costs(self) -> tuple[Cost, ...]:
        return tuple(each.cost() for each in self.all)


@contextmanager
def three(strace: Sequence[str] = STRACE) -> Iterator[Three]:
    with on_disk() as place, world(place) as programs:
        log = place / "server.strace"
        server = Service("cbfs-server", place / "server", through=(*strace, "-o", str(log)))
        programs.server = server  # in the place of the one that it starts
        try:
            file = place / "server" / "store" / DATA
            sides = Three(programs, Watched("server", server.pid, log, file), strace)
            (sides.alice.mountpoint / "outbox" / "bob").mkdir()
            sides.alice.write("bob", "first", "first")
            there = sides.bob.wait_message("alice", "first").parent.name
            sides.bob.write(there, "answer", "answer")
            sides.alice.wait_message("bob", "answer")
            yield sides
            for user in (sides.alice, sides.bob):
                user.unmount()
        finally:
            server.close()


def writes(quick: bool) -> Iterator[Row]:
    """Of a message: one at a time, one now and then, and one of a burst."""
    count = 5 if quick else 100
    with three() as sides:

        def in_turn(pause: float) -> Callable[[int, int], None]:
            def send(first: int, many: int) -> None:
                seen = Watch(folder_of(sides.bob))
                for number in range(first, first + many):
                    say(sides.alice, seen, number)
                    time.sleep(pause)
                seen.close()

            return send

        def burst(first: int, many: int) -> None:
            box = sides.alice.mountpoint / "outbox" / folder_of(sides.alice).name
            for number in range(first, first + many):
                (box / f"message-{number}").write_bytes(TEXT)
            wait_all(sides.bob, first + many)

        ways = (
            ("a message at a time", in_turn(0.0), count, 1),
            ("a message now and then", in_turn(APART), max(1, count // 10), 1),
            (f"a message of {count} at once", burst, count, 2),
        )
        there = 2
        for what, send, many, part in ways:
            time.sleep(SETTLED)
            before = sides.costs()
            send(there, many)
            time.sleep(SETTLED)
            there += many
            costs = [now.since(then) for now, then in zip(sides.costs(), before, strict=True)]
            yield from _rows(what, sides, costs, many, part)


def _rows(what: str, sides: Three, costs: list[Cost], many: int, part: int) -> Iterator[Row]:
    """Each by itself, and all together beside the peer and the aim; of ``many`` messages at once
    each may cost a ``part`` of that."""
    for each, cost in zip(sides.all, costs, strict=True):
        yield _row(f"{what}: {each.name}", cost, many)
    whole = sum(costs, Cost())
    flushes, kib = whole.flushes / many, whole.size / 1024 / many
    ratio, aim = PEER_FLUSHES / flushes, PEER_FLUSHES / AIM_FLUSHES * part
    yield Row(f"{what}: flushes", f"{flushes:.1f}", PEER, f"{PEER_FLUSHES}", ratio, aim)
    ratio, aim = PEER_KIB / kib, PEER_KIB / AIM_KIB * part
    yield Row(f"{what}: written", f"{kib:.0f} KiB", PEER, f"{PEER_KIB} KiB", ratio, aim)


def _row(what: str, cost: Cost, many: int) -> Row:
    flushes, commits, kib = cost.flushes / many, cost.commits / many, cost.size / 1024 / many
    theirs = f"{flushes:.1f} flushes"
    return Row(what, f"{kib:.0f} KiB", f"in {commits:.1f} commits", theirs, PEER_KIB / kib)
