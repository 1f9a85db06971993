"""Every limit of the message server has its number here. Sizes in bytes, times in seconds.

``Limits`` are those that an operator may change, also while the server runs, with the numbers that
they have otherwise.
"""

from dataclasses import dataclass

MAILBOX_MAX = 16_384
"""Envelopes that wait for one account: 256 MiB, four times the largest file."""

RETENTION_DAYS = 60
"""Envelopes that nobody fetched are forgotten after so many days."""

PREKEYS_MAX = 200
"""One-time prekeys of one account: twice what a client keeps."""

ACCOUNTS_MAX = 100_000

NEWCOMERS_FREE = 100
NEWCOMERS_STEPS = 8
NEWCOMERS_TIME = 30 * 86_400
WORK_LEAST = 14
WORK_WINDOW = 86_400
"""So many accounts are made at once for nothing, or half of those that are left; for the next one
a proof of WORK_LEAST zero bits is needed, some 0.1 s of work, and for each of so many steps of as
many accounts twice as much. So many seconds would it take until all that are left are made at the
rate at which this is forgotten again. A challenge counts for a WORK_WINDOW, and the next."""

INVITE_DAYS = 30
INVITE_DAYS_MAX = 365
"""How long an invite is good for. One that was used is remembered for longer than that."""

USER_INVITES = 0
"""Invites that an account with a grant may ask for in a week, unless the operator says more."""

INACTIVE_DAYS = 180
INACTIVE_DAYS_MAX = 36_500
NEWCOMER_DAYS = 7
"""An account ends when its owner has not been there for so many days, or has not fetched anything
in so many since it was made."""

PREKEY_BURST = 100
PREKEY_PERIOD = 60.0
"""One-time prekeys that leave one account at once, and seconds until one more may. Past that
takers get the last-resort prekey, so that nobody can use up what an account has for the others."""

CONNECTIONS_MAX = 16_384
FILES_LEFT = 64
ROOM = 256
"""Connections at once, or as many as the files that may be open but for so many, which the server
opens itself; and how many quiet ones end when there is no room for another."""

BUSY_PART = 64
"""When none is quiet, one part of so many of those that are busy ends instead, and one more."""

HANDSHAKES_MAX = 4_096
"""Connections whose handshake is under way; at most half of all that there is room for."""

ACCEPTS_MAX = 64
"""Connections accepted before others have their turn."""

LIST_PAGE = 128
"""Ids in one reply to List."""

SUBSCRIPTIONS_MAX = 8
"""Connections of one account that get its pushes."""

PUSH_SLICE = 4
"""Envelopes that are pushed to one of them before others have their turn."""

IN_FLIGHT_MAX = 64
"""Requests of one connection that wait for the disk; it is not read from meanwhile."""

WAITING_MAX = 8_192
"""When so many of all connections wait, each may have no more than one read's: what stands still,
the disk or a store that is compacted, takes some 128 MiB then, and little for each connection."""

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

TURN_BURST = 0.01
TURN_DRAIN = 0.05
TURN_TIME = 0.002
"""Seconds of work that one connection may make at once, the part of all time that it may use
without standing in line, and for how long it is let out of that."""

GROUP_MAX = 512
GROUP_TIME = 0.02
"""Changes in one transaction, and seconds after which no more are added to it."""

PROGRESS_CHECK = 1.0
"""How often who waits for a change looks whether the store has begun to be compacted."""

FREE_MIN = 256 * 1024 * 1024
"""Free disk that is left to other programs."""

RESERVE = 16 * 1024 * 1024
RESERVE_STEP = 16 * 1024 * 1024
"""Room of the store in which only deleting and expiry write, which one transaction of each needs a
part of; and how far ahead of it the file is allocated."""

ROOM_TIME = 0.1
"""Seconds for which the room is not looked at again where there is plenty."""

STORE_LEAST = 64 * 1024 * 1024
"""The smallest ``--store-max``, the reserve included."""

SHARE = 4
"""The mail of one account, and its prekeys, have one part of so many of an empty store's room, and
less of one that has filled (``room``)."""

NEWCOMERS_SHARE = 8
"""No account is made when less than this part of all the room is left."""

ENVELOPE_COST = 21_000
PREKEY_COST = 3_000
"""Bytes of the store's file that each takes: an envelope has five pages and two places in tables,
and of prekeys there are two to a page, not always full."""

HOUSEKEEPING_PERIOD = 30
"""How often the clock is looked at."""

EXPIRY_PERIOD = 6 * 3_600
EXPIRY_BATCH = 256
"""How often the mailboxes are searched for what is too old, and how many accounts or envelopes
one transaction of that search handles."""

SUSPENDED_MAX = 4_096
"""Users that the operator may have suspended at once."""

CHECK_BATCH = 16
"""Accounts that a check of the store looks at in one go."""

ENDING_COST = 8
"""An account that ends counts like so many envelopes, and each of its blobs like one: it has
prekeys."""

BLOB_QUOTA = 1024 * 1024 * 1024
BLOB_DAYS = 21
BLOBS_MAX = 1_024
"""Bytes of all blobs of one account, whether they are put yet or not, without what is for their
trees; for how many days one is kept at most; and how many an account may have."""

CHUNK_COST = 21_000
"""Bytes of the store's file that a chunk of a blob takes, which has five pages like an envelope."""

BLOBS_LEAVE = 2
"""One part of so many of all the room is left to mail."""

GROUP_CHUNKS = 128
"""Chunks in one transaction, after which no more changes are added to it: 2 MiB, so that mail that
comes meanwhile does not wait for long."""

ERASE_BATCH = 128
ERASE_PAUSE = 0.005
"""Chunks of blobs that are gone that one transaction erases, where each blob counts like one as
well, and seconds until the next one."""

ERASE_BATCHES = 1_024
"""So many at a time, before clock and mailboxes are looked at again: 2 GiB."""

MARK_PERIOD = 3_600
"""How often the server's time is noted for its next life."""

LANES = 4
READERS = 4
"""Connections to PostgreSQL that make changes, and that answer questions. More of the first would
have the same changes come in more and smaller transactions."""

LANE_GROUP = 128
GROUP_BYTES = 2 * 1024 * 1024
"""Changes in one transaction there, and bytes of envelopes after which no more are added to it."""

STATEMENT_TRIES = 8
"""How often a transaction is tried that others have got in the way of."""

DATABASE_SILENCE = 5.0
CONNECT_TIMEOUT = 5
OPENING_TIMEOUT = 20
GIVE_UP = 40.0
"""Seconds after which a silent connection to the database is given up, or one that is not made, or
that the server needs to begin; and after which those who wait for a database that is not there are
told. It has a new primary sooner."""

CLOSE_TIME = 5.0
"""How long the server waits for a sign of life of its own connections."""

POLL_PERIOD = 1.0
POLL_BATCH = 512
NOTIFY_PAUSE = 0.02
"""How often the mailboxes of subscribers are looked at for what other servers have changed, how
many in one statement; and seconds between two notifications of others."""

SIZES_PERIOD = 30.0
"""How often the database is asked how large it is."""

END_BATCH = 1_024
"""Envelopes of an account that ends that go in one statement."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an operator sets: see the numbers of the same names; ``inactive`` in days.
    ``store_max``: bytes that the store may have; None: what the disk has."""

    mailbox: int = MAILBOX_MAX
    accounts: int = ACCOUNTS_MAX
    retention_days: int = RETENTION_DAYS
    inactive: int = INACTIVE_DAYS
    store_max: int | None = None
    disk_free: int = FREE_MIN
    connections: int = CONNECTIONS_MAX
    subscriptions: int = SUBSCRIPTIONS_MAX
    blob_quota: int = BLOB_QUOTA
    blob_days: int = BLOB_DAYS
    user_invites: int = USER_INVITES
