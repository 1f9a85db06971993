"""The figures of the message server as Prometheus reads them."""

from typing import Final

from cbfs_host.metrics import Family

PREFIX: Final = "cbfs_server"

FAMILIES: Final = (
    Family("uptime", "uptime_seconds", "Seconds since the start."),
    Family("accounts", "accounts", "Accounts."),
    Family("envelopes", "envelopes", "Envelopes that wait, of all accounts."),
    Family("blobs", "blobs", "Blobs, of all accounts."),
    Family("blob_bytes", "blob_bytes", "Bytes of blobs that are stored."),
    Family("oldest_days", "oldest_envelope_days", "Days that the oldest envelope has waited."),
    Family("used", "store_used_bytes", "Bytes of the store that are in use."),
    Family("free", "store_free_bytes", "Bytes that the store may still take."),
    Family("connections", "connections", "Connections."),
    Family("handshakes", "handshakes", "Connections whose handshake is under way."),
    Family("subscriptions", "subscriptions", "Connections that get mail as it comes."),
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
