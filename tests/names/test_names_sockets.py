"""The directory's edge to the network: what ends one connection is told, and ends no other."""

import logging

import pytest
import trio

from cbfs_common.errors import TransportError
from cbfs_host.complaints import StoreError
from cbfs_names.wire.peer_link import connected
from tests.support.names_proposer import RANDOM, place, serving


class _Damaged:
    """Reads a record that a disk has changed, at the first request."""

    def __init__(self) -> None:
        self.asked = 0

    def answer(self, payload: bytes) -> bytes:
        self.asked += 1
        if self.asked == 1:
            raise StoreError("a record of the store is damaged", "check the disk")
        return payload


def test_damage_that_a_request_meets_is_told_with_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def go() -> None:
        async with place("one") as at, serving(at, _Damaged()):
            with pytest.raises(TransportError):
                async with connected(at.address, RANDOM) as link:
                    await link.raw(b"first")
            async with connected(at.address, RANDOM) as link:
                assert await link.raw(b"second") == b"second"

    trio.run(go)
    (record,) = (each for each in caplog.records if each.levelno == logging.ERROR)
    assert record.getMessage().endswith("a record of the store is damaged (check the disk)")
