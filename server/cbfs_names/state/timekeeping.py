"""Whether the time may be put into a round. A round of a time to come cannot be undone: names would
end by it, and no other round could follow until that time has come.

So the largest time that was known is kept in the store. A clock that is more than a day ahead of it
is doubted: rounds wait until it is right, or has stood so for a day. One that has jumped further
than a name's grace goes is never believed without the operator's word.
"""

import logging
import time
from collections.abc import Callable

from cbfs_common.limits import NAME_GRACE
from cbfs_host.calendar import Calendar, ClockMark, running
from cbfs_names.limits import MARK_PERIOD
from cbfs_names.state.store import StateStore
from cbfs_names.state.tables import StoreFull

_log = logging.getLogger(__name__)


class Timekeeper:
    """The time of one ``store``. ``clock``: seconds since 1970; ``running``: seconds of a clock
    that is never set. ``is_right``: the operator's word that the clock is right now."""

    def __init__(
        self,
        store: StateStore,
        clock: Callable[[], float] = time.time,
        running: Callable[[], float] = running,
        *,
        is_right: bool = False,
    ) -> None:
        self._store = store
        self._clock = clock
        self._running = running
        with store.read() as view:
            mark = None if is_right else view.mark()
        self._calendar = Calendar(mark, clock(), running(), NAME_GRACE)
        self._next = running()
        self.look()

    def look(self) -> bool:
        """Whether the clock is doubted. Notes the time now and then, in a transaction."""
        clock, running = self._clock(), self._running()
        said = self._calendar.look(clock, running)
        if said:
            more = "; if it is right, start again with --clock-is-right" if self.doubted else ""
            _log.warning("%s%s", said, more)
        if running >= self._next:
            self._note(self._calendar.mark(clock))
            self._next = running + MARK_PERIOD
        return self.doubted

    def _note(self, mark: ClockMark) -> None:
        """On a full disk the next start knows an older time: it doubts the clock sooner."""
        try:
            with self._store.write() as writer:
                writer.put_mark(mark)
        except StoreFull as error:
            _log.warning("the time was not noted: %s", error.in_full)

    @property
    def doubted(self) -> bool:
        """Whether the clock was doubted when it was looked at last."""
        return self._calendar.doubted
