"""A thousand new connections a second that say nothing, or half a hello, and are made again."""

import multiprocessing
import socket
import time
from collections import deque
from contextlib import suppress
from functools import partial
from multiprocessing.synchronize import Event

from tests.bench.server import on_disk
from tests.server.attacks.honest import GIVEN_UP, address_of, beside, cpu
from tests.support.world import Service

FILES = 1_024
"""Files that the server may open: what a machine gives that nobody has set up."""

RATE = 1_000
HELD = 8_000
SLICE = 0.01
SECONDS = 20.0
WORST = 1.0
"""Seconds until an honest client is through."""


def _flood(host: str, port: int, ready: Event, end: Event) -> None:
    held: deque[socket.socket] = deque()
    made, begun = 0, time.monotonic()
    ready.set()
    while not end.is_set():
        while made < (time.monotonic() - begun) * RATE:
            each = socket.socket()
            each.setblocking(False)
            with suppress(BlockingIOError):
                each.connect((host, port))
            held.append(each)
            made += 1
            if len(held) >= HELD:
                held.popleft().close()
            if made % 2 and len(held) > RATE:
                with suppress(OSError):
                    held[-RATE].send(bytes([1]) * 600)
        time.sleep(SLICE)


def _attack(name: str) -> bool:
    limited = ("prlimit", f"--nofile={FILES}:{FILES}")
    with on_disk() as place:
        service = Service(name, place / "server", through=limited)
        address = address_of(service)
        context = multiprocessing.get_context("spawn")
        ready, end = context.Event(), context.Event()
        flood = context.Process(target=_flood, args=(address.host, address.port, ready, end))
        try:
            flood.start()
            ready.wait()
            before = cpu(service.pid)
            with beside(service) as found:
                time.sleep(SECONDS)
            taken = cpu(service.pid) - before
            print(f"silence, {name}: {found}; {taken:.1f} s of processor")
        finally:
            end.set()
            flood.join(GIVEN_UP)
            service.close()
    return bool(found.taken) and not found.failed and found.worst < WORST


on_mail = partial(_attack, "cbfs-server")
on_names = partial(_attack, "cbfs-names")
