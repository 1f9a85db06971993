"""``./run bench profile``: flame graphs of the sender's mount, the server and the recipient's mount
while messages go from one to the other, first one at a time and then as fast as they can be saved,
and of a server that is flooded with deliveries. They come into ``bench-results/profile``, one SVG
each: so what takes the time is looked at before it is guessed.

py-spy samples the processes from outside; threads that wait are not counted.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cbfs_common.profile import parse_address
from tests.bench.mounts import TEXT, Watch, conversation, folder_of, say, wait_all
from tests.bench.server import Load, message_server, on_disk

RESULTS = Path("bench-results") / "profile"
RATE = 250
"""Samples a second of each process."""

SECONDS = 20
CONNECTIONS = 64
"""That flood the server."""

AHEAD = 200
"""Messages that may be under way before the recipient is looked at."""


@contextmanager
def profiled(pids: dict[str, int], seconds: float) -> Iterator[None]:
    """Sample these for so long; they must live as long as that."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    spy = str(Path(sys.executable).with_name("py-spy"))
    started = []
    for name, pid in pids.items():
        words = ("-r", str(RATE), "-t", "-d", str(int(seconds)), "-p", str(pid))
        command = [spy, "record", *words, "-o", str(RESULTS / f"{name}.svg")]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    yield
    for name, process in zip(pids, started, strict=True):
        if process.wait(seconds + 60) != 0:
            raise AssertionError(f"py-spy could not look at {name}: see above")
        print(RESULTS / f"{name}.svg", flush=True)


def during(seconds: float, work: Callable[[], object]) -> None:
    """Do it again and again for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        work()


def profile(quick: bool) -> int:
    """The entry point."""
    seconds = 2 if quick else SECONDS
    with conversation() as (_place, programs, alice, bob):
        server = programs.server.pid
        pids = {"sender": alice.pids()[0], "server": server, "recipient": bob.pids()[0]}
        seen, number = Watch(folder_of(bob)), 2

        def one() -> None:
            nonlocal number
            say(alice, seen, number)
            number += 1

        with profiled({f"in-turn-{name}": pid for name, pid in pids.items()}, seconds):
            during(seconds, one)
        box = alice.mountpoint / "outbox" / folder_of(alice).name

        def many() -> None:
            nonlocal number
            for _ in range(AHEAD):
                (box / f"message-{number}").write_bytes(TEXT)
                number += 1
            wait_all(bob, number)

        with profiled({f"burst-{name}": pid for name, pid in pids.items()}, seconds):
            during(seconds, many)
        seen.close()
    with on_disk() as place, message_server(place) as service:
        load = Load(parse_address(service.url), CONNECTIONS)
        with profiled({"flooded-server": service.pid}, seconds):
            load.run(seconds + 1)
        load.close()
    return 0
