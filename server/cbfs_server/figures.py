"""Figures of a running message server, for its operator: what there is, and what goes on. Nothing
in them is anybody's: they are sums, by kinds and reasons."""

from dataclasses import dataclass, fields

from cbfs_common.limits import BLOB_SEALED_CHUNK
from cbfs_common.version import VERSION
from cbfs_host.admin import Lines
from cbfs_host.meter import Counts, Meters
from cbfs_server.housekeeping import Housekeeping
from cbfs_server.push import Pusher
from cbfs_server.sockets import Server
from cbfs_server.store.interface import MailboxStore


@dataclass(frozen=True, slots=True)
class ServerFigures:
    """``uptime`` in seconds; ``accounts``, ``envelopes``, ``blobs`` and the ``blob_bytes`` that are
    there of them, and for how many days the oldest envelope
    had waited at the last look through all mailboxes (at most EXPIRY_PERIOD ago), None when there
    was none; bytes of the store that are ``used`` and that are ``free`` to be, None where only
    others know; ``connections``, those among them whose handshake is under way, and
    ``subscriptions``. Counts since the start: ``requests`` by their kind, ``refusals`` by their
    code, ``connections_total`` by what became of them; and of the last minute."""

    version: str
    uptime: int
    accounts: int
    envelopes: int
    blobs: int
    blob_bytes: int
    oldest_days: int | None
    used: int
    free: int | None
    connections: int
    handshakes: int
    subscriptions: int
    requests: Counts
    requests_per_minute: Counts
    refusals: Counts
    refusals_per_minute: Counts
    connections_total: Counts

    def lines(self) -> Lines:
        """All of them by their names."""
        return tuple((each.name, getattr(self, each.name)) for each in fields(self))


@dataclass(frozen=True, slots=True)
class WatchedServer:
    """The parts of a running server that its figures are of."""

    store: MailboxStore
    housekeeping: Housekeeping
    pusher: Pusher
    servers: tuple[Server, ...]
    meters: Meters

    def figures(self) -> ServerFigures:
        """As they are now. Costs some microseconds, however much there is in the store. Raises
        StoreError."""
        there, meters = self.store.figures(), self.meters
        return ServerFigures(
            version=VERSION,
            uptime=meters.uptime,
            accounts=there.accounts,
            envelopes=there.envelopes,
            blobs=there.blobs,
            blob_bytes=there.chunks * BLOB_SEALED_CHUNK,
            oldest_days=self.housekeeping.oldest,
            used=there.used,
            free=there.free,
            connections=sum(server.connections for server in self.servers),
            handshakes=sum(len(server.handshakes) for server in self.servers),
            subscriptions=self.pusher.subscriptions,
            requests=meters.requests.total(),
            requests_per_minute=meters.requests.per_minute(),
            refusals=meters.refusals.total(),
            refusals_per_minute=meters.refusals.per_minute(),
            connections_total=meters.connections.total(),
        )
