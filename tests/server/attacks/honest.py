"""The honest client of an attack, in a process of its own: an account, and somebody who delivers to
it on a fresh connection each time, as strangers do; or somebody who looks up a name."""

import multiprocessing
import os
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

from cbfs_common.errors import CbfsError
from cbfs_common.limits import ENVELOPE_SIZE
from cbfs_common.names.wire import Lookup
from cbfs_common.names.wire import encode_request as encode_names
from cbfs_common.primitives import dh_public
from cbfs_common.profile import Address, parse_address
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import CreateAccount, Delete, Deliver, ErrorReply, envelope_id
from tests.bench.server import Client
from tests.support.world import Service

PAUSE = 0.1
"""Seconds between two deliveries."""

GIVEN_UP = 20.0
"""Seconds after which a delivery counts as failed."""


@dataclass
class Found:
    """Seconds of each delivery that was taken, and the others by what became of them."""

    taken: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    undeleted: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.taken) if self.taken else float("inf")

    @property
    def worst(self) -> float:
        return max(self.taken, default=float("inf"))

    def __str__(self) -> str:
        failed = ", ".join(f"{count} {what}" for what, count in self.failed.items()) or "none"
        return (
            f"honest: {len(self.taken)} served, median {self.median * 1_000:.0f} ms, worst"
            f" {self.worst * 1_000:.0f} ms; failed: {failed}; deletions refused: {self.undeleted}"
        )


def _deliver(url: str, secret: bytes, ready: Event, end: Event, out: Connection) -> None:
    found, address, user = Found(), parse_address(url), dh_public(secret)
    ready.set()
    while not end.is_set():
        each = os.urandom(ENVELOPE_SIZE)
        begun = time.monotonic()
        try:
            stranger = connected(address, os.urandom(32))
            said = stranger.ask(Deliver(user, each))
            stranger.socket.close()
        except (OSError, AssertionError, CbfsError) as error:
            found.failed[type(error).__name__] += 1
        else:
            if said == Done():
                found.taken.append(time.monotonic() - begun)
            else:
                found.failed[said.code.name if isinstance(said, ErrorReply) else str(said)] += 1
        try:
            owner = connected(address, secret)
            found.undeleted += owner.ask(Delete((envelope_id(each),))) != Done()
            owner.socket.close()
        except (OSError, AssertionError, CbfsError):
            found.undeleted += 1
        time.sleep(PAUSE)
    out.send(found)


def _look_up(url: str, ready: Event, end: Event, out: Connection) -> None:
    found, address = Found(), parse_address(url, "cbfs-names")
    ready.set()
    while not end.is_set():
        begun = time.monotonic()
        try:
            client = connected(address, os.urandom(32))
            client.send(encode_names(Lookup("nobody")))
            while not client.replies():
                pass
            client.socket.close()
            found.taken.append(time.monotonic() - begun)
        except (OSError, AssertionError, CbfsError) as error:
            found.failed[type(error).__name__] += 1
        time.sleep(PAUSE)
    out.send(found)


def connected(address: Address, secret: bytes) -> Client:
    """A client that gives up in time."""
    client = Client(address, secret, GIVEN_UP)
    client.socket.settimeout(GIVEN_UP)
    return client


def address_of(service: Service) -> Address:
    """Where a service of either kind listens."""
    return parse_address(service.url, "cbfs" if service.name == "cbfs-server" else service.name)


@contextmanager
def beside(service: Service) -> Iterator[Found]:
    """An honest client for the length of the block; what it found is there after it."""
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    here, there = context.Pipe()
    if service.name == "cbfs-server":
        secret = os.urandom(32)
        owner = connected(address_of(service), secret)
        if owner.ask(CreateAccount()) != Done():
            raise AssertionError("no account")
        owner.socket.close()
        process = context.Process(target=_deliver, args=(service.url, secret, ready, end, there))
    else:
        process = context.Process(target=_look_up, args=(service.url, ready, end, there))
    process.start()
    ready.wait()
    found = Found()
    try:
        yield found
    finally:
        end.set()
        if here.poll(3 * GIVEN_UP):
            got = here.recv()
            found.taken, found.failed, found.undeleted = got.taken, got.failed, got.undeleted
        else:
            found.failed["client hangs"] += 1
        process.kill()
        process.join()


def cpu(pid: int) -> float:
    """Seconds of processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
