"""Ten connections that each ask as fast as they are answered, of four kinds of requests."""

import multiprocessing
import os
import select
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.synchronize import Event

from cbfs_common.limits import ENVELOPE_SIZE
from cbfs_common.primitives import dh_public
from cbfs_common.profile import parse_address
from cbfs_common.wire.requests import (
    AnyRequest,
    CreateAccount,
    Delete,
    Deliver,
    Fetch,
    List,
    encode,
    envelope_id,
)
from tests.bench.server import on_disk
from tests.server.attacks.honest import GIVEN_UP, beside, connected, cpu
from tests.support.world import Service

CONNECTIONS = 10
AHEAD = 8
"""Requests of each that wait for their answer."""

STORED = 1_000
SECONDS = 15.0
MEDIAN = 0.05

KINDS: dict[str, Callable[[bytes, bytes], AnyRequest]] = {
    "List": lambda _user, _id: List(),
    "Fetch": lambda _user, id: Fetch(id),
    "Delete": lambda _user, _id: Delete(tuple(os.urandom(16) for _ in range(900))),
    "Deliver": lambda user, _id: Deliver(user, os.urandom(ENVELOPE_SIZE)),
}


def _flood(url: str, kind: str, ready: Event, end: Event) -> None:
    address, secret = parse_address(url), os.urandom(32)
    user, envelope = dh_public(secret), os.urandom(ENVELOPE_SIZE)
    clients = [connected(address, secret) for _ in range(CONNECTIONS)]
    clients[0].ask(CreateAccount())
    for _ in range(STORED):
        clients[0].ask(Deliver(user, os.urandom(ENVELOPE_SIZE)))
    clients[0].ask(Deliver(user, envelope))
    ready.set()
    poll, by_descriptor = select.epoll(), {each.socket.fileno(): each for each in clients}
    make = partial(KINDS[kind], user, envelope_id(envelope))
    for descriptor, client in by_descriptor.items():
        poll.register(descriptor, select.EPOLLIN)
        for _ in range(AHEAD):
            client.send(encode(make()))
    while not end.is_set():
        for descriptor, _ in poll.poll(1.0):
            client = by_descriptor[descriptor]
            for _ in client.replies():
                client.send(encode(make()))


def _attack(kind: str) -> bool:
    with on_disk() as place:
        service = Service("cbfs-server", place / "server")
        context = multiprocessing.get_context("spawn")
        ready, end = context.Event(), context.Event()
        flood = context.Process(target=_flood, args=(service.url, kind, ready, end))
        try:
            flood.start()
            ready.wait()
            before = cpu(service.pid)
            with beside(service) as found:
                time.sleep(SECONDS)
            taken = cpu(service.pid) - before
            print(f"flood of {kind}: {found}; {taken:.1f} s of processor")
        finally:
            end.set()
            flood.join(GIVEN_UP)
            flood.kill()
            service.close()
    return bool(found.taken) and not found.failed and found.median < MEDIAN


ATTACKS: dict[str, Callable[[], bool]] = {
    f"flood-{kind.lower()}": partial(_attack, kind) for kind in KINDS
}
