"""Whether a mount answers: one whose daemon is stopped, or hangs, answers nothing, and who asks it
waits for ever.

So it is asked by a process of its own, which is left alone when it does not come back: what waits
for an answer in the kernel may be beyond any signal.
"""

import os
import select
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

from cbfs.account.place import ACCOUNT_ATTRIBUTE

ANSWER_MAX: Final = 10.0
"""Seconds for which a mount is waited for. It answers this in a millisecond."""


def answers(mountpoint: Path, limit: float = ANSWER_MAX) -> bool | None:
    """Whether an account is mounted there that we may enter; None when nothing answers. Raises
    OSError when no process can be had."""
    child = os.fork()
    if child == 0:
        code = 1
        with suppress(OSError):
            os.getxattr(mountpoint, ACCOUNT_ATTRIBUTE)
            code = 0
        os._exit(code)  # nothing of ours is to be done twice
    ended = os.pidfd_open(child)
    try:
        if select.select([ended], [], [], limit)[0]:
            return os.waitpid(child, 0)[1] == 0
        os.kill(child, signal.SIGKILL)
        return None
    finally:
        os.close(ended)
