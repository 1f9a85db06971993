"""What must be written before anything else can go on, also when there is no room for it now."""

import logging
from collections.abc import Callable
from typing import TypeVar

import trio

from cbfs_names.limits import FULL_PAUSE
from cbfs_names.state.tables import StoreFull

_log = logging.getLogger(__name__)
T = TypeVar("T")


async def keep_trying(work: Callable[[], T]) -> T:
    """What ``work`` gives in a thread, tried again every FULL_PAUSE while the store is full."""
    while True:
        try:
            return await trio.to_thread.run_sync(work)
        except StoreFull as error:
            _log.error("no rounds are made, and look-ups are answered: %s", error.in_full)
        await trio.sleep(FULL_PAUSE)
