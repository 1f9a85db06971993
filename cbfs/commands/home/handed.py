"""A mount takes in whom its user has invited meanwhile (``cbfs.account.awaited``)."""

import logging
from functools import partial
from pathlib import Path
from typing import Final

import trio

from cbfs.account.awaited import await_, handed_over
from cbfs.account.spool import decode_keys
from cbfs.storage.store import Meta, Store, Table
from cbfs_common.errors import CbfsError

LOOK_PERIOD: Final = 2.0
"""Seconds between two looks into the folder."""

_UNREADABLE: Final = (
    "whom you have invited is not awaited: what cbfs invite has left here cannot be read, as it was"
    " made for keys that the account had before, or is no file of its own. Who comes by that line"
    " has you for a contact, and waits in requests/ when they write"
)

_log = logging.getLogger("cbfs")


async def take_lines(account: Path, store: Store) -> None:
    """Take in what is handed over, until cancelled. A crash leaves a file that is taken again."""
    told = ""
    while True:
        wrong = await _take(account, store)
        if wrong and wrong != told:
            _log.error("whom you have invited is not awaited: %s", wrong)
        told = wrong
        await trio.sleep(LOOK_PERIOD)


async def _take(account: Path, store: Store) -> str:
    """Take in all that can be; what was wrong last, or empty. What could not be taken waits."""
    wrong = ""
    try:
        with store.read() as reader:
            keys = decode_keys(reader.get(Table.META, Meta.SPOOL_KEY) or b"")
        for path, one in list(handed_over(account, keys)):
            try:
                if one is not None:
                    await store.commit(partial(await_, one=one))
                else:
                    _log.error(_UNREADABLE)
                path.unlink(missing_ok=True)
            except CbfsError as error:
                wrong = error.in_full
    except CbfsError as error:
        wrong = error.in_full
    except OSError as error:
        wrong = error.strerror or ""
    return wrong
