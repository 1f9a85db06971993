"""Rows of the message server over three PostgreSQL servers, beside the one over LMDB: both run,
and have their turns.

A delivery over LMDB is on one disk when it is answered. Over PostgreSQL it is on two, of three
machines, which here share the cores and the disk of one.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import psycopg
import trio

from cbfs_common.profile import parse_address
from cbfs_common.wire.fields import Done
from cbfs_host.complaints import StoreError
from cbfs_host.settings import Current
from cbfs_server.limits import Limits
from cbfs_server.lmdb_store.store import LmdbStore
from cbfs_server.postgres_store.store import PostgresStore
from cbfs_server.store.interface import MailboxStore
from cbfs_server.store.operations import MakeAccount, Ticket
from tests.bench.server import Load, may_open, message_server, on_disk, users
from tests.bench.table import Row, duration, rate
from tests.support.postgres_cluster import DATABASE, Cluster, running_cluster
from tests.support.world import Service

AIMS = {1: 0.40, 8: 0.45, 64: 0.45, 256: 0.45}
"""Connections: what part of LMDB's deliveries is wanted."""

ROUNDS = 5
SECONDS = 6.0
MANY = 1_000_000
BUSY = 64
AIM_OF_MANY = 0.40
INVITE_SIZE = 16
DAY = 86_400
MADE = 2_000
"""Accounts that are made as newcomers make them. Over PostgreSQL a million takes some 20 minutes,
as they change the row that says how many there are; so the others are copied into it."""

AT_ONCE = 4_096
"""New accounts of which none is durable yet."""


@dataclass
class Side:
    """One of the two servers, and what it has reached."""

    service: Service
    mailboxes: list[bytes]
    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    """Seconds of the server's processor for each delivery: not of PostgreSQL's processes."""

    def turn(self, connections: int, seconds: float) -> None:
        """Deliver for so long."""
        load = Load(parse_address(self.service.url), connections, self.mailboxes)
        before = _processor(self.service.pid)
        reached = load.run(seconds)
        self.rates.append(reached)
        self.costs.append((_processor(self.service.pid) - before) / load.answered)
        load.close()


def _processor(pid: int) -> float:
    """Seconds that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _turns(one: Side, other: Side, connections: int, quick: bool) -> None:
    for number in range(1 if quick else ROUNDS):
        sides = (one, other) if number % 2 else (other, one)
        for side in sides:
            side.turn(connections, 0.5 if quick else SECONDS)


@contextmanager
def _over_postgres(place: Path, cluster: Cluster) -> Iterator[Service]:
    service = Service("cbfs-server", place / "front", ("--store", cluster.address))
    try:
        yield service
    finally:
        service.close()


async def _fill(store: MailboxStore, users: list[bytes]) -> None:
    """Make the accounts. The store is closed then."""
    room, today = trio.Semaphore(AT_ONCE), int(time.time() // DAY)
    wrong: list[object] = []

    def done(result: object) -> None:
        room.release()
        if result != Done():
            wrong.append(result)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.run)
        for user in users:
            await room.acquire()
            # by an invite each: it grows dear to make accounts without
            store.submit(MakeAccount(user, today, Ticket(user[:INVITE_SIZE])), done)
        for _ in range(AT_ONCE):
            await room.acquire()
        nursery.cancel_scope.cancel()
    store.close()
    if wrong:
        raise StoreError(f"{len(wrong)} accounts were not made: {wrong[0]}", "see its log")


def _filled(make: Callable[[], MailboxStore], users: list[bytes]) -> float:
    """Seconds that making them took."""
    begun = time.perf_counter()
    trio.run(lambda: _fill(make(), users))
    return time.perf_counter() - begun


def _copy_in(cluster: Cluster, users: list[bytes]) -> None:
    """Accounts as if they had been made today."""
    today = int(time.time() // DAY)
    columns = "user_id, next_serial, stored, visit, fetched, full_at"
    address = f"{cluster.primary().address.rpartition('/')[0]}/{DATABASE}"
    with psycopg.connect(address) as connection, connection.cursor() as cursor:
        with cursor.copy(f"COPY cbfs.accounts ({columns}) FROM STDIN") as copy:
            for user in users:
                copy.write_row((user, 1, 0, today, False, 0))
        cursor.execute("UPDATE cbfs.server SET accounts = accounts + %s", (len(users),))


def _rows(what: str, one: Side, other: Side, aim: float) -> Iterator[Row]:
    ours, theirs = median(other.rates), median(one.rates)
    yield Row(f"{what}, deliveries", rate(ours), "LMDB", rate(theirs), ours / theirs, aim)
    ours, theirs = median(other.costs), median(one.costs)
    yield Row(
        f"{what}, its processor",
        duration(ours),
        "LMDB, whole",
        duration(theirs),
        theirs / ours,
        1.0,
    )


def over_cluster(quick: bool) -> Iterator[Row]:
    """Deliveries a second, at several numbers of connections, and with many mailboxes."""
    may_open(1_000)
    with running_cluster() as cluster, on_disk() as place:
        with message_server(place) as lmdb, _over_postgres(place, cluster) as postgres:
            there = [users(parse_address(each.url)) for each in (lmdb, postgres)]
            for connections, aim in AIMS.items():
                one, other = Side(lmdb, there[0]), Side(postgres, there[1])
                _turns(one, other, connections, quick)
                yield from _rows(f"PostgreSQL, connections: {connections}", one, other, aim)
        yield from _with_many(place, cluster, quick)


def _with_many(place: Path, cluster: Cluster, quick: bool) -> Iterator[Row]:
    mailboxes = [os.urandom(32) for _ in range(1_000 if quick else MANY)]
    limits = Current(Limits(accounts=2 * MANY))
    with message_server(place) as lmdb, _over_postgres(place, cluster) as postgres:
        key = parse_address(postgres.url).key
        new, others = mailboxes[:MADE], mailboxes[MADE:]
        took = _filled(partial(PostgresStore, cluster.address, key, limits), new)
        _copy_in(cluster, others)
        lmdb.end()
        make = partial(LmdbStore, place / "server" / "store", limits)
        alone = _filled(make, new)
        _filled(make, others)
        lmdb.start()
        what = f"PostgreSQL, {len(mailboxes):,} mailboxes"
        ours, theirs = len(new) / took, len(new) / alone
        yield Row(f"{what}, made", rate(ours), "LMDB", rate(theirs), ours / theirs)
        one, other = Side(lmdb, mailboxes), Side(postgres, mailboxes)
        _turns(one, other, BUSY, quick)
        yield from _rows(f"{what}, {BUSY} connections", one, other, AIM_OF_MANY)
