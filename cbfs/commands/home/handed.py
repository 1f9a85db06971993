"""A mount takes in whom its user has invited meanwhile (``cbfs.account.awaited``)."""

import logging
from functools import partial
from pathlib import Path
from typing import Final

import trio

from cbfs.account.awaited import await_, handed_over
from cbfs.account.spool import decode_keys
from cbfs.engine.engine import Engine
from cbfs.storage.store import Meta, Table
from cbfs_common.errors import CbfsError

LOOK_PERIOD: Final = 2.0
"""Seconds between two looks into the folder."""

_log = logging.getLogger("cbfs")


async def take_lines(account: Path, engine: Engine) -> None:
    """Take in what is handed over, until cancelled. A crash leaves a file that is taken again."""
    while True:
        try:
            await _take(account, engine)
        except (OSError, CbfsError) as error:
            _log.error("whom you have invited is not awaited: %s", error)
        await trio.sleep(LOOK_PERIOD)


async def _take(account: Path, engine: Engine) -> None:
    with engine.store.read() as reader:
        keys = decode_keys(reader.get(Table.META, Meta.SPOOL_KEY) or b"")
    for path, one in list(handed_over(account, keys)):
        if one is not None:
            await engine.store.commit(partial(await_, one=one))
            engine.awaiting.wake()
        path.unlink(missing_ok=True)
