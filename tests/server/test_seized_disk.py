"""Somebody who takes the disk of a message server: what it says of when mail came."""

from pathlib import Path

import lmdb
import trio

from cbfs.network.link import request
from cbfs_common.limits import BLOB_LEAST, BLOB_SEALED_CHUNK, ENVELOPE_SIZE
from cbfs_common.primitives import dh_public
from cbfs_common.wire.blobs import MakeBlob, PutChunk
from cbfs_common.wire.requests import CreateAccount, Deliver
from tests.support.serving import link_to, running_server

PEOPLE = [bytes([number]) * 32 for number in (1, 2, 3)]
CLOCK = b"meta"
"""The table in which a server keeps what its own clock is like; nothing of a mailbox is in it."""


def envelope(whose: int, number: int) -> bytes:
    return bytes([whose, number]) * (ENVELOPE_SIZE // 2)


def served(data: Path, order: list[tuple[int, int]]) -> None:
    """A server that takes these envelopes (whose, and their number) in this order, and ends."""

    async def main() -> None:
        for secret in PEOPLE:
            async with link_to(server, secret) as link:
                await request(link, CreateAccount())
        for whose, number in order:
            async with link_to(server) as link:
                user = dh_public(PEOPLE[whose])
                await request(link, Deliver(user, envelope(whose, number)))

    with running_server(data) as server:
        trio.run(main)
        server.terminate()


def records(data: Path) -> dict[bytes, dict[bytes, bytes]]:
    """All tables of the store, with their records as they are on the disk."""
    with (
        lmdb.open(str(data / "store"), max_dbs=16, readonly=True, lock=False) as env,
        env.begin() as txn,
    ):
        tables = list(txn.cursor().iternext(values=False))
        return {name: dict(txn.cursor(env.open_db(name, txn, create=False))) for name in tables}


SIDE_BY_SIDE = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (2, 2)]
ONE_AFTER_THE_OTHER = sorted(SIDE_BY_SIDE)


def test_records_say_the_day_and_nothing_that_orders_one_mailbox_against_another(
    tmp_path: Path,
) -> None:
    """Two servers that have got the same mail, in other orders and at other times of the day, have
    the same records, byte for byte."""
    served(tmp_path / "one", SIDE_BY_SIDE)
    served(tmp_path / "other", ONE_AFTER_THE_OTHER)
    one, other = records(tmp_path / "one"), records(tmp_path / "other")
    assert one.keys() == other.keys() > {b"mail", b"order", b"accounts"}
    for name in one.keys() - {CLOCK}:
        assert one[name] == other[name], name
    assert len(one[b"mail"]) == len(SIDE_BY_SIDE)


def put(data: Path, order: list[tuple[int, int]]) -> None:
    """A server that takes these chunks (whose, and which) in this order, and ends."""

    async def main() -> None:
        for secret in PEOPLE:
            async with link_to(server, secret) as link:
                await request(link, CreateAccount())
                await request(link, MakeBlob(secret[::-1], BLOB_LEAST, 5))
        for whose, number in order:
            async with link_to(server, PEOPLE[whose]) as link:
                chunk = bytes([whose, number]) * (BLOB_SEALED_CHUNK // 2)
                await request(link, PutChunk(PEOPLE[whose][::-1], number, chunk))

    with running_server(data) as server:
        trio.run(main)
        server.terminate()


def test_records_of_blobs_say_the_day_and_nothing_that_orders_them(tmp_path: Path) -> None:
    put(tmp_path / "one", SIDE_BY_SIDE)
    put(tmp_path / "other", ONE_AFTER_THE_OTHER)
    one, other = records(tmp_path / "one"), records(tmp_path / "other")
    assert one.keys() == other.keys() > {b"blobs", b"chunks", b"owned", b"holdings"}
    for name in one.keys() - {CLOCK}:
        assert one[name] == other[name], name
    assert len(one[b"chunks"]) == len(SIDE_BY_SIDE)


def test_where_envelopes_lie_in_the_file_shows_the_order_of_all(tmp_path: Path) -> None:
    """LMDB puts what comes later behind what is there, as long as nothing was deleted."""
    served(tmp_path / "one", SIDE_BY_SIDE)
    found = (tmp_path / "one" / "store" / "data.mdb").read_bytes()
    places = [found.index(envelope(*each)) for each in SIDE_BY_SIDE]
    assert places == sorted(places)
