"""Limits of the name directory's server alone. Times in seconds."""

CONNECTIONS_MAX = 1_024
"""Open connections; more wait in the kernel's queue."""

HANDSHAKE_TIMEOUT = 30
IDLE_TIMEOUT = 300
WRITE_TIMEOUT = 60

PENDING_MAX = 4_096
"""Operations that wait for a round, of everybody."""

PENDING_PER_CONNECTION = 64
"""Requests of one connection under way; reading stops at this number."""

NAME_LIFETIME = 2 * 365 * 86_400
"""How long a registration lasts, unless the configuration says otherwise."""

MAP_SIZE = 1 << 40
"""Address space of LMDB, not disk: the file grows as it is filled."""

RECEIVE_SIZE = 65_536
