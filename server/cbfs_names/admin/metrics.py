"""The figures of a process of a directory as Prometheus reads them."""

from typing import Final

from cbfs_host.metrics import Family

PREFIX: Final = "cbfs_names"

FAMILIES: Final = (
    Family("uptime", "uptime_seconds", "Seconds since the start."),
    Family("names", "names", "Names that there are or were."),
    Family("commits", "commits", "Commitments that wait for their name."),
    Family("rounds", "rounds", "Rounds in the log."),
    Family("last_round", "last_round_timestamp_seconds", "When the last round was made."),
    Family("waiting", "waiting_operations", "Operations that wait for a round."),
    Family("receipts", "receipts", "Receipts that a verifier holds."),
    Family("evidence", "evidence", "Proofs that a key has signed two histories."),
    Family("verifiers", "verifier_present", "1 if a verifier has signed lately.", "verifier"),
    Family("clock_doubted", "clock_doubted", "1 if no rounds are made, as the clock has jumped."),
    Family("used", "store_used_bytes", "Bytes of the store that are in use."),
    Family("free", "disk_free_bytes", "Bytes that are free on its disk."),
    Family("connections", "connections", "Connections."),
    Family("handshakes", "handshakes", "Connections whose handshake is under way."),
    Family("requests", "requests", "Requests, by kind.", "kind", counter=True),
    Family("refusals", "refusals", "Requests refused, by reason.", "reason", counter=True),
    Family(
        "connections_total",
        "connection_events",
        "What has become of connections.",
        "event",
        counter=True,
    ),
)
"""All figures but those of the last minute, which Prometheus makes itself."""
