"""Recipients of one message, some time apart from each other (``stagger`` in config.toml).

A server that keeps the mailboxes of several of them sees otherwise so many envelopes come together.
One of them, drawn at random, is delivered to at once, and each of the others after a time of their
own. Only memory knows of it: what waits when a mount begins is put apart anew, and so is what waits
when the network is back.
"""

from collections.abc import Callable, Sequence

import trio

from cbfs.context import Context, TaskStarter
from cbfs_common.primitives import below, exponential

STAGGER_MOST = 10
"""Times the mean that somebody is held back, at most."""


class Stagger:
    """Who is held back, in an account at work. ``free`` is told of whom are no more."""

    def __init__(self, context: Context, tasks: TaskStarter, free: Callable[[str], None]) -> None:
        self._context = context
        self._tasks = tasks
        self._free = free
        self._held: dict[str, trio.CancelScope] = {}

    def __contains__(self, recipient: str) -> bool:
        """Whether nothing that the user has written is to be delivered to this one yet."""
        return recipient in self._held

    def hold(self, recipients: Sequence[str]) -> None:
        """Something waits for these, from now on: hold all of them back but one, who is held back
        no more. Who is already stays so, and no longer."""
        mean = self._mean()
        if not mean or not recipients:
            return
        random = self._context.random
        first = recipients[below(random, len(recipients))]
        self.let_go([first])
        for recipient in recipients:
            if recipient != first and recipient not in self._held:
                self._held[recipient] = trio.CancelScope()
                wait = min(exponential(random, mean), STAGGER_MOST * mean)
                self._tasks.start_soon(self._wait, recipient, self._held[recipient], wait)

    def let_go(self, recipients: Sequence[str]) -> None:
        """Hold these back no more. ``free`` is not told."""
        for recipient in recipients:
            if (held := self._held.pop(recipient, None)) is not None:
                held.cancel()

    async def _wait(self, recipient: str, held: trio.CancelScope, wait: float) -> None:
        """For so many seconds, or until the setting is taken back."""
        with held, trio.move_on_after(wait):
            while self._mean():
                await self._context.configuration.wait_changed()
        if self._held.get(recipient) is held:
            del self._held[recipient]
            self._free(recipient)

    def _mean(self) -> float:
        """Seconds, 0 for not at all."""
        return self._context.configuration.current.stagger
