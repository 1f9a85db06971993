"""Which circuit carried what, and which must be closed now. Pure; events in, decisions out.

A ``Lease`` is one pair of SOCKS credentials. Tor gives each pair its own circuit
(IsolateSOCKSAuth), and tells in its events which credentials a circuit or stream has. A lease is
held by the streams that were dialled with it, and when the last of them ends its circuits are
closed, so nothing that comes later shares them.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cbfs.network.dial import REUSE_COUNT, REUSE_TIME
from cbfs.network.tor.events import Circuit, Stream

PURPOSES: Final = {
    b"home": "home server",
    b"deliver": "deliveries",
    b"prekey": "prekeys",
    b"names": "name directory",
}
"""What the part of an isolation before its colon says, in words."""

CARRIERS: Final = frozenset({"GENERAL", "CONFLUX_LINKED", "HS_CLIENT_REND"})
"""Purposes of circuits that carry streams. Others with our credentials (introductions, which tor
keeps for a while as padding that hides what they were) are left to tor."""


@dataclass(frozen=True, slots=True)
class Lease:
    """SOCKS credentials, for streams of one isolation."""

    user: str
    password: str


@dataclass(slots=True)
class _Use:
    """A lease that streams hold."""

    isolation: bytes
    started: float
    count: int = 0
    open: int = 0
    circuits: set[str] = field(default_factory=set)


class Circuits:
    """The table of leases and circuits. ``token(n)`` gives ``n`` random bytes."""

    def __init__(self, token: Callable[[int], bytes]) -> None:
        self._token = token
        self._run = _word(token(5))
        self._uses: dict[str, _Use] = {}
        self._newest: dict[bytes, Lease] = {}
        self._groups: dict[str, str] = {}

    def lease(self, isolation: bytes, now: float) -> Lease:
        """Credentials for one more stream of ``isolation``: those in use while the limits allow,
        else fresh ones. Each call needs one ``release``."""
        lease = self._newest.get(isolation)
        use = self._uses.get(lease.user) if lease else None
        if lease is None or use is None or _worn(use, now):
            lease = Lease(self._run + _word(self._token(10)), _word(self._token(20)))
            use = _Use(isolation, now)
            self._uses[lease.user] = use
            self._newest[isolation] = lease
        use.count += 1
        use.open += 1
        return lease

    def release(self, lease: Lease) -> tuple[str, ...]:
        """A stream of the lease has ended, or did not come to be. Gives the circuits to close."""
        use = self._uses[lease.user]
        use.open -= 1
        if use.open:
            return ()
        del self._uses[lease.user]
        if self._newest.get(use.isolation) == lease:
            del self._newest[use.isolation]
        return tuple(sorted(leg for found in use.circuits for leg in self._legs(found)))

    def circuit(self, event: Circuit) -> tuple[str, ...]:
        """A circuit has changed. Gives the circuits to close."""
        if event.ended:
            self._groups.pop(event.id, None)
            for use in self._uses.values():
                use.circuits.discard(event.id)
            return ()
        if event.group:
            self._groups[event.id] = event.group
        if event.purpose in CARRIERS:
            return self._seen(event.user, event.id)
        return ()

    def stream(self, event: Stream) -> tuple[str, ...]:
        """A stream has changed. Gives the circuits to close."""
        if event.ended or not event.circuit:
            return ()
        return self._seen(event.user, event.circuit)

    def forget(self) -> None:
        """Forget all circuits: the tor that had them has gone. Leases stay until they are
        released."""
        self._groups.clear()
        for use in self._uses.values():
            use.circuits.clear()

    def by_purpose(self) -> dict[str, int]:
        """How many circuits there are, by what they are for, in words."""
        counts: dict[str, int] = {}
        for use in self._uses.values():
            words = purpose_words(use.isolation)
            counts[words] = counts.get(words, 0) + len(use.circuits)
        return {words: count for words, count in sorted(counts.items()) if count}

    def _seen(self, user: str, circuit: str) -> tuple[str, ...]:
        """``circuit`` carries, or is meant to carry, streams of ``user``."""
        if not user.startswith(self._run):
            return ()
        use = self._uses.get(user)
        if use is None:  # it came up after the last stream had ended
            return self._legs(circuit)
        use.circuits.add(circuit)
        return ()

    def _legs(self, circuit: str) -> tuple[str, ...]:
        """The circuit and those that tor has joined with it: one leg alone would live on."""
        group = self._groups.get(circuit)
        if group is None:
            return (circuit,)
        return tuple(found for found, name in self._groups.items() if name == group)


def purpose_words(isolation: bytes) -> str:
    """What an isolation is for, in words."""
    return PURPOSES.get(isolation.partition(b":")[0], "other")


def _worn(use: _Use, now: float) -> bool:
    return use.count >= REUSE_COUNT or now - use.started >= REUSE_TIME


def _word(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()
