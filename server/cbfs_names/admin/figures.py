"""Figures of a running process of a name directory, for its operator. Nothing in them is anybody's:
they are sums, by kinds and reasons; verifiers are named, who are known to all."""

import os
import time
from dataclasses import dataclass, fields
from pathlib import Path

from cbfs_common.version import VERSION
from cbfs_host.admin import Lines
from cbfs_host.meter import Counts, Meters
from cbfs_names.processes.roles import Role
from cbfs_names.state.store import StateStore
from cbfs_names.wire.sockets import Clients


@dataclass(frozen=True, slots=True)
class DirectoryFigures:
    """``role``: directory, sequencer or verifier; ``uptime`` in seconds. ``names`` that there are
    or were, ``commits`` that are kept, ``rounds`` in the log, and when the last one
    was (seconds since 1970); operations that are ``waiting`` for a round, ``receipts`` that a
    verifier holds, and ``evidence`` that keys have signed two histories. ``verifiers``, each with 1
    if it has signed lately; ``clock_doubted``: no rounds are made, as this computer's clock has
    jumped. Bytes of the store that are ``used``, and of the disk that are ``free``.
    ``connections``, and those among them whose handshake is under way. Counts since the start:
    ``requests`` by their kind, ``refusals`` by their reason, ``connections_total`` by what became
    of them; and of the last minute."""

    version: str
    role: str
    uptime: int
    names: int
    commits: int
    rounds: int
    last_round: int
    waiting: int
    receipts: int
    evidence: int
    verifiers: Counts
    clock_doubted: bool
    used: int
    free: int
    connections: int
    handshakes: int
    requests: Counts
    requests_per_minute: Counts
    refusals: Counts
    refusals_per_minute: Counts
    connections_total: Counts

    def lines(self) -> Lines:
        """All of them by their names."""
        return tuple((each.name, getattr(self, each.name)) for each in fields(self))


@dataclass(frozen=True, slots=True)
class WatchedProcess:
    """The parts of a running process that its figures are of; ``data``: its directory."""

    data: Path
    store: StateStore
    role: Role
    clients: Clients
    meters: Meters

    def figures(self) -> DirectoryFigures:
        """As they are now. Costs some microseconds, however many names there are. Raises
        StoreError, OSError."""
        there, role, meters = self.store.figures(), self.role, self.meters
        disk = os.statvfs(self.data)
        return DirectoryFigures(
            version=VERSION,
            role=role.kind,
            uptime=meters.uptime,
            names=there.names,
            commits=there.commits,
            rounds=there.rounds,
            last_round=there.last_round,
            waiting=role.waiting,
            receipts=there.receipts,
            evidence=there.evidence,
            verifiers=role.verifiers(int(time.time())),
            clock_doubted=role.clock_doubted,
            used=there.used,
            free=disk.f_bavail * disk.f_frsize,
            connections=self.clients.connections,
            handshakes=self.clients.handshaking,
            requests=meters.requests.total(),
            requests_per_minute=meters.requests.per_minute(),
            refusals=meters.refusals.total(),
            refusals_per_minute=meters.refusals.per_minute(),
            connections_total=meters.connections.total(),
        )
