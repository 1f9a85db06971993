"""Those whom the user of an account at work has invited."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from cbfs.account.place import LINES
from cbfs.storage.store import Meta, Store, StoreError, Table

INVITED_PERIOD = 2.0
"""Seconds between two looks whether the user has invited somebody."""


async def await_invited(account: Path, store: Store, wait: Callable[[], Awaitable[None]]) -> None:
    """From when the user has invited somebody, ``wait`` for them, until cancelled. Nothing of
    it is read in before."""
    while True:
        await trio.sleep(INVITED_PERIOD)
        if _has_invited(account, store):
            break
    from cbfs.commands.home.handed import take_lines  # noqa: PLC0415

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_lines, account, store)
        nursery.start_soon(wait)


def _has_invited(account: Path, store: Store) -> bool:
    if (account / LINES).exists():
        return True
    try:
        with store.read() as reader:
            return next(reader.keys(Table.META, Meta.AWAITED), None) is not None
    except StoreError:  # what is damaged is told where it is needed
        return False
