"""Accounts without end, by as many processes as there are processors, which work for each if they
have to; and a newcomer who wants one, again and again."""

import multiprocessing
import os
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event

from cbfs_common.errors import CbfsError
from cbfs_common.newcomers import Search
from cbfs_common.primitives import dh_public
from cbfs_common.profile import Address, parse_address
from cbfs_common.wire.fields import Done
from cbfs_common.wire.requests import CreateAccount, GetTerms, List, NewcomerTerms
from tests.bench.server import on_disk
from tests.server.attacks.honest import GIVEN_UP, Found, beside, connected, cpu
from tests.support.world import Service

SECONDS = 60.0
MOST = 300
"""Accounts that are made meanwhile: 100 for nothing, and 12 at each price."""

PATIENCE = 60.0
"""Seconds of work of a newcomer beside them."""


def _work(terms: NewcomerTerms, user: bytes, seconds: float) -> CreateAccount | None:
    search = Search(terms.challenge, user, int.from_bytes(os.urandom(8), "big"))
    end, found = time.monotonic() + seconds, False
    while not found and time.monotonic() < end:
        found = search.look(terms.bits, 8_192)
    return CreateAccount(b"", search.challenge, search.best) if found else None


def _one(address: Address, patience: float) -> bool:
    """Make an account, with whatever that takes, and fetch from it."""
    secret, end = os.urandom(32), time.monotonic() + patience
    client = connected(address, secret)
    said = client.ask(CreateAccount())
    while said != Done() and time.monotonic() < end:
        terms = client.ask(GetTerms())
        if not isinstance(terms, NewcomerTerms):
            raise AssertionError(terms)
        proof = _work(terms, dh_public(secret), min(5.0, end - time.monotonic()))
        said = client.ask(proof) if proof else said
    client.ask(List())
    client.socket.close()
    return said == Done()


def _flood(url: str, end: Event, out: Connection) -> None:
    made, address = 0, parse_address(url)
    while not end.is_set():
        with suppress(OSError, AssertionError, CbfsError):
            made += _one(address, 5.0)
    out.send(made)


def _come(url: str, end: Event, out: Connection) -> None:
    found, address = Found(), parse_address(url)
    while not end.is_set():
        begun = time.monotonic()
        try:
            if _one(address, PATIENCE):
                found.taken.append(time.monotonic() - begun)
            else:
                found.failed["too dear"] += 1
        except (OSError, AssertionError, CbfsError) as error:
            found.failed[type(error).__name__] += 1
    out.send(found)


def attack() -> bool:
    """Whether the flood got few accounts, and newcomers and mail came through beside it."""
    context = multiprocessing.get_context("spawn")
    end, (here, there), (mine, yours) = context.Event(), context.Pipe(), context.Pipe()
    with on_disk() as place:
        service = Service("cbfs-server", place / "server")
        floods = [
            context.Process(target=_flood, args=(service.url, end, there))
            for _ in range(os.cpu_count() or 1)
        ]
        newcomer = context.Process(target=_come, args=(service.url, end, yours))
        try:
            with beside(service) as found:
                before = cpu(service.pid)
                for each in (*floods, newcomer):
                    each.start()
                time.sleep(SECONDS)
                end.set()
                made = sum(here.recv() for _ in floods)
                came = mine.recv()
                taken = cpu(service.pid) - before
            print(f"accounts, deliveries: {found}; {taken:.1f} s of processor")
            print(f"accounts, newcomers: {came}; the flood made {made} in {SECONDS:.0f} s")
            print(*(line for line in service.log().splitlines() if "newcomers" in line), sep="\n")
        finally:
            end.set()
            for each in (*floods, newcomer):
                each.join(PATIENCE + GIVEN_UP)
                each.kill()
            service.close()
    good = bool(found.taken) and not found.failed and bool(came.taken)
    return good and made + len(came.taken) < MOST and came.worst < PATIENCE
