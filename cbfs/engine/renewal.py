"""One's own name is kept: renewed by itself before its time is over.

From RENEW_BEFORE its end on there is a moment for it, which differs from name to name so that those
registered together are not renewed together. It has passed when the account is mounted the next
time, or passes while it is; a random time later the name is renewed, and in a transaction the store
has the new entry. ``status`` says so; what stands in the way is shouted once it will not mend
itself, or little time is left.
"""

from collections.abc import Callable

import trio

from cbfs.context import Context
from cbfs.messages.file_names import moment
from cbfs.names.directory import NotDue
from cbfs.names.own_name import OwnName
from cbfs_common.errors import CbfsError
from cbfs_common.limits import NAME_GRACE, NAME_QUARANTINE
from cbfs_common.names.operations import OperationRefused, Refusal
from cbfs_common.primitives import exponential

RENEW_BEFORE = 90 * 86_400
"""Seconds before its end from which on a name is renewed."""

RENEW_SPREAD = 14 * 86_400
"""Seconds after that within which a name has its moment."""

RENEW_SHOUT = 60 * 86_400
"""Seconds before its end from which on it is shouted that a name could not be renewed."""

LEAST = 0.25
"""Share of its whole time that a name must gain: where names last less than RENEW_BEFORE, they are
renewed each time that this has passed."""

SOON = 60.0
"""Mean seconds from the moment, or from when the account is mounted, to the renewal."""

AGAIN, AGAIN_REFUSED = 3_600.0, 86_400.0
"""Mean seconds to the next try: where that may help, and after a refusal."""

LOOK = 3_600.0
"""Seconds until the clock is looked at again."""

_FOR_GOOD = frozenset(
    (
        Refusal.NAME_EXPIRED,
        Refusal.NAME_FROZEN,
        Refusal.NAME_SUSPENDED,
        Refusal.NAME_RELEASED,
        Refusal.NO_SUCH_NAME,
        Refusal.WRONG_SIGNATURE,
    )
)
"""What trying again does not change."""


class Renewal:
    """Renews the name of an account at work. ``changed`` is told when there is something else to
    say."""

    def __init__(self, context: Context, own: OwnName, changed: Callable[[], None]) -> None:
        self._context = context
        self._own = own
        self._changed = changed
        self._renewed = False
        self.shout = ""
        """Why the name cannot be kept, or empty."""
        with context.store.read() as reader:
            drawn = reader.drawn(b"renewal" + context.account.name.encode())
        self._spread = int.from_bytes(drawn[:8], "big") * RENEW_SPREAD >> 64

    async def run(self) -> None:
        """Renew the name each time that it is due, until cancelled."""
        wait = 0.0
        while True:
            while (left := max(wait, self.left())) > 0:
                await trio.sleep(min(left, LOOK))
                wait -= LOOK
            await trio.sleep(self._soon(SOON))
            wait = await self._renew()

    def left(self) -> float:
        """Seconds until the moment in which the name is to be renewed."""
        return self._own.expires - RENEW_BEFORE + self._spread - self._now()

    def line(self) -> str:
        """For ``status``, empty while there is nothing to say."""
        own = self._own
        if own.is_released:
            return (
                "you have given your name up, for good: people who know you can write to you still,"
                " and nobody new finds you"
            )
        if not own.expires or (not self._renewed and self._now() < own.expires - RENEW_BEFORE):
            return ""
        if self._renewed:
            return f"your name was renewed, and is yours until {_day(own.expires)}"
        return f"your name is yours until {_day(own.expires)}, and is renewed by itself"

    async def _renew(self) -> float:
        """Seconds until it is due again, or is tried again."""
        context = self._context
        try:
            await self._own.renew(context.account.renewing, LEAST)
        except NotDue as error:
            self._settle()
            return float(error.wait)
        except CbfsError as error:
            return self._fail(error)
        self._renewed = True
        self._settle()
        return 0.0

    def _fail(self, error: CbfsError) -> float:
        refused = error.refusal if isinstance(error, OperationRefused) else None
        for_good = refused in _FOR_GOOD or bool(self._own.alarm)
        hint = f" ({error.hint})" if error.hint else ""
        self._context.problems.set(
            "renewal", f"your name could not be renewed: {error}{hint}; it is tried again"
        )
        if for_good or self._now() > self._own.expires - RENEW_SHOUT:
            self._say(self._words(error, refused, hint))
        return self._soon(AGAIN_REFUSED if for_good else AGAIN)

    def _words(self, error: CbfsError, refused: Refusal | None, hint: str) -> str:
        name, ends = self._context.account.name, self._own.expires
        if refused is Refusal.NAME_EXPIRED:
            free = ends + NAME_GRACE + NAME_QUARANTINE + 86_400
            return (
                f"{name} has run out on {_day(ends)}, and cannot be renewed any more; from"
                f" {_day(free)} on anybody can register it"
            )
        if self._now() > ends:
            return (
                f"{name} has run out on {_day(ends)}, can be renewed until"
                f" {_day(ends + NAME_GRACE)}, and could not be: {error}{hint}"
            )
        return f"{name} runs out on {_day(ends)}, and could not be renewed: {error}{hint}"

    def _settle(self) -> None:
        self._context.problems.clear("renewal")
        self._say("")
        self._changed()

    def _say(self, shout: str) -> None:
        if shout != self.shout:
            self.shout = shout
            self._changed()

    def _now(self) -> float:
        return self._context.clock() / 1_000

    def _soon(self, mean: float) -> float:
        return exponential(self._context.random, mean)


def _day(seconds: int) -> str:
    return f"{moment(seconds * 1_000):%Y-%m-%d}"
