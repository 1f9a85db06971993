"""Large files against a server: accounts that take all the room for blobs that they can get, and
ten connections that put or fetch chunks as fast as they are answered."""

import multiprocessing
import os
import select
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.synchronize import Event

from cbfs_common.limits import BLOB_LEAST, BLOB_SEALED_CHUNK, BLOB_STEP
from cbfs_common.messages.blobs import blob_keys
from cbfs_common.profile import Address, parse_address
from cbfs_common.wire.blobs import BlobState, GetChunk, MakeBlob, PutChunk
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import AnyRequest, CreateAccount, DeleteAccount, encode
from tests.bench.server import Client, on_disk
from tests.server.attacks.honest import GIVEN_UP, beside, connected, cpu
from tests.server.attacks.honest import address_of as place_of
from tests.server.test_server_disk import own_disk
from tests.support.world import Service

DISK = "size=700m"
ACCOUNTS = 5
CONNECTIONS = 10
AHEAD = 8
"""Requests of each that wait for their answer."""

THERE = 256
"""Chunks of the blob that is fetched."""

SECONDS = 15.0
MEDIAN = 0.05


def _blob(client: Client, data: int = BLOB_STEP) -> tuple[bytes, bytes] | None:
    """(id, capability) of a new blob, of 64 MiB, if there is room for it."""
    keys = blob_keys(os.urandom(32))
    made = client.ask(MakeBlob(keys.id, data, 21))
    return (keys.id, keys.capability) if isinstance(made, BlobState) else None


def fill() -> bool:
    """Accounts that reserve all that they get, and put into it until they are refused."""
    with own_disk(DISK) as disk:
        service = Service("cbfs-server", disk / "server")
        try:
            address = place_of(service)
            with beside(service) as found:
                secrets = [os.urandom(32) for _ in range(ACCOUNTS)]
                taken, said = zip(*(_fill(address, each) for each in secrets), strict=True)
                time.sleep(3.0)
                gone = [connected(address, each).ask(DeleteAccount()) for each in secrets]
                time.sleep(3.0)
            print(f"blob-fill: {taken} chunks, then {said}; {found}")
        finally:
            service.close()
    several = sum(each > 0 for each in taken) > 1
    return several and bool(found.taken) and not found.failed and gone == [Done()] * ACCOUNTS


def _fill(address: Address, secret: bytes) -> tuple[int, object]:
    client, taken = connected(address, secret), 0
    client.ask(CreateAccount())
    reply: object = None
    while (made := _blob(client, BLOB_LEAST)) is not None:  # one that is larger is refused sooner
        for index in range(BLOB_LEAST):
            reply = client.ask(PutChunk(made[0], index, os.urandom(BLOB_SEALED_CHUNK)))
            if reply != Done():
                return taken, reply
            taken += 1
    return taken, reply


def _puts(clients: list[Client]) -> list[Iterator[AnyRequest]]:
    """Each connection has an account of its own, and puts one blob after the other."""

    def endless(client: Client) -> Iterator[AnyRequest]:
        while True:
            keys = blob_keys(os.urandom(32))
            yield MakeBlob(keys.id, BLOB_STEP, 1)
            for index in range(BLOB_STEP):
                yield PutChunk(keys.id, index, os.urandom(BLOB_SEALED_CHUNK))

    for client in clients:
        client.ask(CreateAccount())
    return [endless(client) for client in clients]


def _gets(clients: list[Client]) -> list[Iterator[AnyRequest]]:
    """All fetch from one blob."""
    owner = clients[0]
    owner.ask(CreateAccount())
    made = _blob(owner)
    assert made is not None
    id, capability = made
    for index in range(THERE):
        owner.ask(PutChunk(id, index, os.urandom(BLOB_SEALED_CHUNK)))

    def endless() -> Iterator[AnyRequest]:
        while True:
            for index in range(THERE):
                yield GetChunk(capability, index)

    return [endless() for _ in clients]


KINDS: dict[str, Callable[[list[Client]], list[Iterator[AnyRequest]]]] = {
    "put": _puts,
    "get": _gets,
}


def _flood(url: str, kind: str, ready: Event, end: Event) -> None:
    address = parse_address(url)
    clients = [connected(address, os.urandom(32)) for _ in range(CONNECTIONS)]
    asked = KINDS[kind](clients)
    ready.set()
    poll = select.epoll()
    by_descriptor = {each.socket.fileno(): (each, asked[n]) for n, each in enumerate(clients)}
    for descriptor, (client, more) in by_descriptor.items():
        poll.register(descriptor, select.EPOLLIN)
        for _ in range(AHEAD):
            client.send(encode(next(more)))
    while not end.is_set():
        for descriptor, _ in poll.poll(1.0):
            client, more = by_descriptor[descriptor]
            for _ in client.replies():
                client.send(encode(next(more)))


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
    "blob-fill": fill,
    **{f"blob-{kind}": partial(_attack, kind) for kind in KINDS},
}
