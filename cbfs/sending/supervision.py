"""Tasks that run for as long as the account is in use, and are begun anew when they fail.

What one item of somebody else's can bring about, a task handles itself; this is for what nobody
thought of. A task must be able to begin at any time: what it works on is in the store.
"""

from collections.abc import Awaitable, Callable

import trio

from cbfs.context import Context
from cbfs.problems import MOST, Backoff
from cbfs.storage.faults import contained
from cbfs_common.errors import CbfsError


async def supervised(context: Context, task: Callable[[], Awaitable[None]]) -> None:
    """Run ``task`` until it ends or is cancelled; again, after a growing wait, when it raises an
    error of whatever class. ``status`` says so until the next mount."""
    backoff = Backoff(context.random)
    while True:
        began = trio.current_time()
        try:
            with contained():
                await task()
            return
        except CbfsError as error:
            context.problems.set("task", f"a part of cbfs failed, and begins anew: {error.in_full}")
        if trio.current_time() - began > MOST:
            backoff.reset()
        await trio.sleep(backoff.next())
