"""News that come very often, told so often that somebody may look."""

from collections.abc import Callable

import trio

PAUSE = 1.0
"""Seconds between two."""


class Telling:
    """Calls ``tell`` soon after something has changed, and not more often than once in PAUSE."""

    def __init__(self, tell: Callable[[], None], nursery: trio.Nursery) -> None:
        self._tell = tell
        self._nursery = nursery
        self._is_coming = False

    def soon(self) -> None:
        """Something has changed."""
        if not self._is_coming:
            self._is_coming = True
            self._nursery.start_soon(self._wait)

    async def _wait(self) -> None:
        await trio.sleep(PAUSE)
        self._is_coming = False
        self._tell()
