"""What a server does at SIGHUP: it opens its log anew and reads its settings again."""

import logging
from collections.abc import Callable
from typing import Any

from cbfs_common.errors import DecodeError
from cbfs_host.complaints import HostError
from cbfs_host.logs import ServerLog
from cbfs_host.settings import Given
from cbfs_host.systemd import Manager

_log = logging.getLogger(__name__)


class Rereading:
    """``apply`` is given the values of all settings, by field, when some that are live have changed
    since the ``values`` of the start. ``flags`` hold for good, and what is not live until the
    program is started again."""

    def __init__(
        self,
        given: Given,
        values: dict[str, Any],
        log: ServerLog,
        manager: Manager,
        apply: Callable[[dict[str, Any]], None],
    ) -> None:
        self._given = given
        self._values = values
        self._log = log
        self._manager = manager
        self._apply = apply

    def reread(self) -> None:
        """Do it. What is wrong is in the log, and then all stays as it was."""
        self._manager.reloading()
        self._log.reopen()
        try:
            fresh = self._given.values()
        except HostError as error:
            _log.error("the settings stay as they were: %s", error.in_full)
        else:
            self._take(fresh)
        self._manager.reloaded()

    def live(self) -> list[tuple[str, Any]]:
        """The names and values of the settings that may change while the program runs."""
        live = (each for each in self._given.settings if each.live)
        return [(each.name, self._values[each.field]) for each in live]

    def change(self, name: str, text: str) -> None:
        """Put another value, as options have it, in the place of a live one, until the file is read
        again. Raises HostError."""
        found = next((s for s in self._given.settings if s.name == name and s.live), None)
        if found is None:
            names = ", ".join(name for name, _ in self.live())
            raise HostError(f"{name} cannot be changed now", f"these can: {names}")
        try:
            value = found.kind.of_option(text)
        except DecodeError as error:
            raise HostError(f"{name}: {error}", error.hint) from error
        self._values[found.field] = value
        self._apply(self._values)
        _log.warning("settings have changed, for now: %s", name)

    def _take(self, fresh: dict[str, Any]) -> None:
        changed = [
            each for each in self._given.settings if fresh[each.field] != self._values[each.field]
        ]
        live = [each.name for each in changed if each.live]
        later = [each.name for each in changed if not each.live]
        if live:
            self._values |= {each.field: fresh[each.field] for each in changed if each.live}
            self._apply(self._values)
            _log.warning("settings have changed: %s", ", ".join(live))
        if later:
            _log.warning("settings that count when it is started again: %s", ", ".join(later))
