"""One account subscribes on more connections than the server has, and never deletes anything."""

import multiprocessing
import os
from collections import deque
from contextlib import suppress
from multiprocessing.synchronize import Event

from cbfs_common.errors import CbfsError
from cbfs_common.primitives import dh_public
from cbfs_common.profile import Address, parse_address
from cbfs_common.wire.requests import CreateAccount, Deliver, Subscribe
from tests.bench.server import Client, on_disk
from tests.server.attacks.honest import GIVEN_UP, beside, connected, cpu
from tests.server.attacks.silence import FILES, WORST
from tests.support.world import Service

SUBSCRIPTIONS = 2 * FILES
STORED = 100


def _subscribe(url: str, done: Event, end: Event) -> None:
    address, secret = parse_address(url), os.urandom(32)
    owner = connected(address, secret)
    owner.ask(CreateAccount())
    for _ in range(STORED):
        owner.ask(Deliver(dh_public(secret), os.urandom(16_384)))
    held: deque[Client] = deque(maxlen=SUBSCRIPTIONS)
    for number in range(SUBSCRIPTIONS):
        with suppress(OSError, AssertionError, CbfsError):
            held.append(_one(address, secret))
        if number % 10 == 0:  # each delivery is pushed to all that are still there
            with suppress(OSError, AssertionError, CbfsError):
                owner.ask(Deliver(dh_public(secret), os.urandom(16_384)))
    done.set()
    end.wait()


def _one(address: Address, secret: bytes) -> Client:
    client = connected(address, secret)
    client.ask(Subscribe())
    return client


def attack() -> bool:
    """Whether others get in meanwhile, and soon."""
    with on_disk() as place:
        limited = ("prlimit", f"--nofile={FILES}:{FILES}")
        service = Service("cbfs-server", place / "server", through=limited)
        context = multiprocessing.get_context("spawn")
        done, end = context.Event(), context.Event()
        flood = context.Process(target=_subscribe, args=(service.url, done, end))
        try:
            before = cpu(service.pid)
            with beside(service) as found:
                flood.start()
                done.wait(6 * GIVEN_UP)
            taken = cpu(service.pid) - before
            print(f"subscriptions: {found}; {taken:.1f} s of processor")
        finally:
            end.set()
            flood.kill()
            flood.join()
            service.close()
    return bool(found.taken) and not found.failed and found.worst < WORST
