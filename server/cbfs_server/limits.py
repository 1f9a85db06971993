"""Every limit of the message server has its number here. Sizes in bytes, times in seconds."""

MAILBOX_MAX = 16_384
"""Envelopes that wait for one account: 256 MiB, four times the largest file."""

RETENTION_DAYS = 60
"""Envelopes that nobody fetched are forgotten after so many days."""

PREKEYS_MAX = 200
"""One-time prekeys of one account: twice what a client keeps."""

ACCOUNTS_MAX = 100_000

PREKEY_BURST = 100
PREKEY_PERIOD = 60.0
"""One-time prekeys that leave one account at once, and seconds until one more may. Past that
takers get the last-resort prekey, so that nobody can use up what an account has for the others."""

CONNECTIONS_MAX = 16_384
ROOM = 256
"""Connections at once, and how many quiet ones end when there is no room for another."""

IN_FLIGHT_MAX = 64
"""Requests of one connection that wait for the disk; it is not read from meanwhile."""

HANDSHAKE_TIMEOUT = 60
SEND_TIMEOUT = 120
IDLE_TIMEOUT = 900
"""How long a connection may take to prove its key, take nothing of what is sent to it, or say
nothing (subscribers may be silent for ever; padding says nothing)."""

PADDING_CHECK = 10.0
"""Longest sleep between two padding frames: the number of connections may have changed."""

TICK = 5
"""How often the timeouts are looked at."""

READ_SIZE = 65_536
"""Bytes read at once, into one buffer that all connections share."""

TURNS_MAX = 16
"""Reads of one connection before others have their turn."""

GROUP_MAX = 512
"""Changes in one transaction."""

FREE_MIN = 256 * 1024 * 1024
"""Free disk below which nothing more is taken in, so that deleting still works."""

HOUSEKEEPING_PERIOD = 30
"""How often free disk is looked at."""

EXPIRY_PERIOD = 6 * 3_600
EXPIRY_BATCH = 256
"""How often the mailboxes are searched for what is too old, and how many accounts or envelopes
one transaction of that search handles."""

MARK_PERIOD = 3_600
"""How often the server's time is noted for its next life."""
