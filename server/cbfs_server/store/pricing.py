"""What a newcomer has to pay. Pure: whoever has the state, a process or a database, asks here.

Newcomers fill a bucket, which leaks so fast that those who come would take all accounts that are
left in NEWCOMERS_TIME. So the fewer are left, the slower it leaks, and there are always some: who
makes accounts without end pays twice as much for every few more, until no more come than leak. The
price counts when the proof is brought, not when the search for it was begun: so everybody gets a
part of the accounts like theirs of the hashing that is done for them.
"""

from cbfs_common.limits import NEWCOMER_BITS_MAX
from cbfs_server.limits import NEWCOMERS_FREE, NEWCOMERS_STEPS, NEWCOMERS_TIME, WORK_LEAST


def level(filled: float, seconds: float, left: int) -> float:
    """How full the bucket is that was ``filled`` so many seconds ago: it leaks faster the more
    accounts are ``left``. Who comes adds 1."""
    return max(0.0, filled - seconds * left / NEWCOMERS_TIME)


def price(level: float, left: int, work: int) -> int:
    """The zero bits that a proof must have where the operator wants ``work`` in any case; 0: none
    is needed."""
    free = min(NEWCOMERS_FREE, left // 2)
    over = level - free
    if over < 0:
        return work
    grown = int(over) // max(1, free // NEWCOMERS_STEPS)
    return min(max(work, WORK_LEAST) + grown, NEWCOMER_BITS_MAX)
