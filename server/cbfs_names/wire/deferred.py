"""A reply that is still to come."""

import trio


class Waiting:
    """``late``: what is replied after ``patience`` seconds without it."""

    __slots__ = ("_done", "_patience", "_reply")

    def __init__(self, late: bytes, patience: float) -> None:
        self._done = trio.Event()
        self._patience = patience
        self._reply = late

    def settle(self, reply: bytes) -> None:
        """Once."""
        self._reply = reply
        self._done.set()

    async def reply(self) -> bytes:
        """Wait for it, encoded."""
        with trio.move_on_after(self._patience):
            await self._done.wait()
        return self._reply
