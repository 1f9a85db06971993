"""Limits of the name directory's server alone. Times in seconds."""

CONNECTIONS_MAX = 960
"""Open connections, within the usual 1,024 descriptors; more wait in the kernel's queue."""

HANDSHAKE_TIMEOUT = 30
IDLE_TIMEOUT = 60
WRITE_TIMEOUT = 60

PENDING_MAX = 4_096
"""Operations that wait for a round, of everybody."""

PENDING_PER_CONNECTION = 64
"""Requests of one connection under way; reading stops at this number."""

MAP_SIZE = 1 << 40
"""Address space of LMDB, not disk: the file grows as it is filled."""

CONSISTENCY_KEPT_MAX = 4_096
"""Consistency proofs kept for the newest head, some 1 KiB each."""

FEED_KEPT_MAX = 4_096
"""Rounds of the change feed kept in memory, mostly some 200 bytes each."""

QUORUM_PATIENCE = 30
"""After so long without a quorum who waits for a round is told; what it asked for waits on."""

RECEIVE_SIZE = 65_536
