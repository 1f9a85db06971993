"""Rows of what a user waits for and pays, end to end over real servers on loopback, beside what
they would pick instead: messages and files, processor time, memory, and a start with a history.

The peer was measured once, with its own server, on another machine than this: the ratio is a hint.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from cbfs.account.account import SYSTEM_RANDOM, opened_store
from tests.bench.at_size import fill
from tests.bench.mounts import Watch, conversation, folder_of
from tests.bench.server import on_disk
from tests.bench.start import compiled, proportional, resident
from tests.bench.table import Row, faster
from tests.support.world import User

PEER = "Delta Chat, measured once"
ONE, MANY, ONE_MIB, TWENTY_MIB = 0.581, 30.4, 0.72, 3.7
CLIENTS, SERVER = 33.2, 2.9
RSS, PSS = 31, 20
STARTED = 0.02
"""Seconds and MiB of the peer."""

AS_SHIPPED = "rw"
"""Options of a mount that say nothing."""

MESSAGE, SHORT = 100, 200
"""Bytes of a message, alone and as one of many."""

MIB = 1 << 20

SETTLED = 2.5
"""Seconds after the last message until what is put off has been done as well."""


def latency(quick: bool) -> Iterator[Row]:
    """One message, from before its file is opened until the other side's watcher is told."""
    count = 2 if quick else 30
    with conversation() as (place, _, alice, bob):
        source = place / "letter"
        source.write_bytes(os.urandom(MESSAGE))
        for options, what, program in (
            ("grace=0", f"a message of {MESSAGE} bytes, grace 0", False),
            (AS_SHIPPED, "- as shipped, by a program that ends", True),
            (AS_SHIPPED, "- as shipped, by a program that lives", False),
        ):
            for user in (alice, bob):
                user.unmount()
                user.mount(options)
            watch = Watch(folder_of(bob))
            taken = [_sent(alice, source, watch, by_program=program) for _ in range(count)]
            watch.close()
            yield faster(what, median(taken), PEER, ONE)


def _sent(user: User, source: Path, watch: Watch, *, by_program: bool) -> float:
    """Seconds until a copy of a file is seen as a message. ``by_program``: cp makes it, and not
    this process, which lives on."""
    folder = user.mountpoint / "outbox" / folder_of(user).name
    target = folder / f"{source.name}-{time.monotonic_ns()}"
    began = time.perf_counter()
    if by_program:
        subprocess.run(["cp", source, target], check=True)
    else:
        target.write_bytes(source.read_bytes())
    watch.wait(f"Z-{user.name}")
    return time.perf_counter() - began


def bulk(quick: bool) -> Iterator[Row]:
    """Many messages and large ones, what they cost, and a start with many."""
    count, messages = (5, 200) if quick else (500, 8_000)
    with on_disk() as cache, compiled(cache), conversation() as (place, programs, alice, bob):
        pids = [*alice.pids(), *bob.pids(), programs.server.pid]
        before = [_processor(pid) for pid in pids]
        yield faster(f"{count} messages of {SHORT} bytes", _many(alice, bob, count), PEER, MANY)
        time.sleep(SETTLED)
        *clients, server = (_processor(p) - b for p, b in zip(pids, before, strict=True))
        yield faster("- processor, both clients", sum(clients), PEER, CLIENTS)
        yield faster("- processor, server", server, PEER, SERVER)
        whole, share = resident(pids[0]), proportional(pids[0])
        yield Row("- memory of a client, RSS", f"{whole:.1f} MiB", PEER, f"{RSS} MiB", RSS / whole)
        yield Row("- memory of a client, PSS", f"{share:.1f} MiB", PEER, f"{PSS} MiB", PSS / share)
        watch = Watch(folder_of(bob))
        for size, theirs in ((1, ONE_MIB), (20, TWENTY_MIB)):
            source = place / f"{size}-mib"
            source.write_bytes(os.urandom(size * MIB))
            taken = [_sent(alice, source, watch, by_program=True) for _ in range(1 if quick else 5)]
            yield faster(f"a file of {size} MiB", median(taken), PEER, theirs)
        watch.close()
        carol = programs.account("carol")
        with opened_store(carol.account, SYSTEM_RANDOM) as store:
            fill(store, 1, messages)
        what = f"start until {messages:,} messages are listed"
        yield faster(what, _start(carol, 2 if quick else 10), PEER, STARTED)


def _many(sender: User, receiver: User, count: int) -> float:
    """Seconds of so many messages, saved one after the other, until all are seen."""
    folder = sender.mountpoint / "outbox" / folder_of(sender).name
    watch, text = Watch(folder_of(receiver)), os.urandom(SHORT)
    began = time.perf_counter()
    for number in range(count):
        (folder / f"message-{number}").write_bytes(text)
    watch.wait(f"Z-{sender.name}", count)
    taken = time.perf_counter() - began
    watch.close()
    return taken


def _start(user: User, rounds: int) -> float:
    """Seconds until a mount has listed all its messages, the median."""
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        user.mount(AS_SHIPPED)
        subprocess.run(["ls", folder_of(user)], stdout=subprocess.DEVNULL, check=True)
        taken.append(time.perf_counter() - began)
        user.unmount()
    return median(taken)


def _processor(pid: int) -> float:
    """Seconds of processor time that a process has taken, in the kernel as well."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
