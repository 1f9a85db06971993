"""How fast one-time prekeys leave accounts, as far as this process knows."""

from cbfs_server.limits import PREKEY_BURST, PREKEY_PERIOD


class PrekeyRateLimit:
    """How fast one-time prekeys may leave one account: a token bucket for each, of which only those
    that are not full are kept. Takers are nobody, so the account counts."""

    def __init__(self) -> None:
        self._full_at: dict[bytes, float] = {}
        self._sweep_at = 1_024

    def allows(self, user: bytes, now: float) -> bool:
        """Count a take at ``now`` (seconds); False past the limit, and then nothing is counted."""
        full_at = max(self._full_at.get(user, now), now)
        if full_at - now > (PREKEY_BURST - 1) * PREKEY_PERIOD:
            return False
        self._full_at[user] = full_at + PREKEY_PERIOD
        if len(self._full_at) > self._sweep_at:
            self._full_at = {u: at for u, at in self._full_at.items() if at > now}
            self._sweep_at = 2 * len(self._full_at) + 1_024
        return True
