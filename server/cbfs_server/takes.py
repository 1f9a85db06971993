"""How fast one-time prekeys may leave one account. Takers are nobody, so the account counts."""

from cbfs_server.limits import TAKES_BURST, TAKES_PERIOD


class Takes:
    """A token bucket for each account. Only those that are not full are kept."""

    def __init__(self) -> None:
        self._full_at: dict[bytes, float] = {}
        self._sweep_at = 1_024

    def may_take(self, user: bytes, now: float) -> bool:
        """Count a take at ``now`` (seconds); False past the limit, and then nothing is counted."""
        full_at = max(self._full_at.get(user, now), now)
        if full_at - now > (TAKES_BURST - 1) * TAKES_PERIOD:
            return False
        self._full_at[user] = full_at + TAKES_PERIOD
        if len(self._full_at) > self._sweep_at:
            self._full_at = {u: at for u, at in self._full_at.items() if at > now}
            self._sweep_at = 2 * len(self._full_at) + 1_024
        return True
