"""Which sockets processes have, and where they lead: /proc as proc(5) describes it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

ESTABLISHED = 0x01
LOOPBACK = {
    "0100007F",
    "00000000000000000000000001000000",
    "0000000000000000FFFF00000100007F",
}
"""127.0.0.1, ::1 and ::ffff:127.0.0.1, as /proc/net/tcp and tcp6 write them."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A line of /proc/net/tcp."""

    local: tuple[str, str]
    remote: tuple[str, str]
    state: int
    inode: int


@dataclass(slots=True)
class Watch:
    """Looks again and again, in a thread of its own, where the sockets of processes lead.

    ``ours`` gives the processes that are watched; ``tor`` are those that they may talk with."""

    ours: Callable[[], set[int]]
    tor: set[int]
    through_tor: set[int] = field(default_factory=set)
    """Processes that were seen while connected with tor."""
    others: set[str] = field(default_factory=set)
    """What else was seen than unix sockets, listeners on loopback and connections with tor."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _looking: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            self.look()

    def look(self) -> None:
        """Once."""
        with self._looking:
            processes = self.ours()
            before = {pid: sockets(pid) for pid in processes}
            # before and after the tables: tor may close or accept one meanwhile
            tors = set[int]().union(*map(sockets, self.tor))
            unix, connections = unix_sockets(), tcp()
            tors = tors.union(*map(sockets, self.tor))
            for pid in processes:
                # one that is not there any more may be missing in the tables as well
                for inode in before[pid] & sockets(pid) - unix:
                    self._judge(pid, connections.get(inode), connections, tors)

    def _judge(
        self,
        pid: int,
        found: Connection | None,
        connections: dict[int, Connection],
        tors: set[int],
    ) -> None:
        if found is None:
            self.others.add(f"{pid}: neither unix nor TCP")
        elif found.local[0] not in LOOPBACK:
            self.others.add(f"{pid}: {found}")
        elif found.state == ESTABLISHED:
            owner = {c.local: inode for inode, c in connections.items()}.get(found.remote)
            if owner in tors:
                self.through_tor.add(pid)
            elif owner is not None or found.remote[0] not in LOOPBACK:
                # an end that nobody holds is not accepted yet, or closed already
                self.others.add(f"{pid}: {found}")


def sockets(pid: int) -> set[int]:
    """Inodes of a process's sockets."""
    found: set[int] = set()
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return found
    for entry in entries:
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(int(target[8:-1]))
    return found


def unix_sockets() -> set[int]:
    """Inodes of all unix sockets."""
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    return {int(line.split()[6]) for line in lines}


def tcp() -> dict[int, Connection]:
    """Inode of each TCP socket that somebody holds, and what it is."""
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            inode = int(words[9])
            if inode:
                local, remote = words[1].split(":"), words[2].split(":")
                found[inode] = Connection(
                    (local[0], local[1]), (remote[0], remote[1]), int(words[3], 16), inode
                )
    return found
