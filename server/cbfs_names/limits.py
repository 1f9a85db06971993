"""Limits of the name directory's server alone. Times in seconds.

``DirectoryLimits`` are those that an operator may change, also while the server runs, with the
numbers that they have otherwise.
"""

from dataclasses import dataclass

CONNECTIONS_MAX = 960
"""Open connections, within the usual 1,024 descriptors; more wait in the kernel's queue."""

FILES_LEFT = 64
"""Files that the server may open itself beside connections."""

HANDSHAKES_MAX = 640
"""Connections whose handshake is under way."""

ACCEPTS_MAX = 64
"""Connections accepted before others have their turn."""

SILENCE_CHECK = 5
"""How often those that have said nothing for HANDSHAKE_TIMEOUT are looked for."""

QUIET_LEAST = 10
ROOM = 64
"""When there is no room for another, so many end at once that have said nothing for so long."""

BUSY_PART = 64
"""When there are none, one part of so many of those that are busy ends instead, and one more."""

HANDSHAKE_TIMEOUT = 30
IDLE_TIMEOUT = 60
WRITE_TIMEOUT = 60

CHECK_BATCH = 64
"""Rounds or names that a check of the store looks at in one go."""

MARK_PERIOD = 3_600
"""How often the time is noted for the next start."""

PENDING_MAX = 4_096
"""Operations that wait for a round, of everybody."""

PENDING_PER_CONNECTION = 64
"""Requests of one connection under way; reading stops at this number."""

FEED_KEPT_MAX = 4_096
"""Rounds of the change feed kept in memory, mostly some 200 bytes each."""

ROUNDS_AT_ONCE = 256
ROUND_PACE = 5.0
"""So many rounds may be made one after another, and then one each so many seconds: 17,536 a day at
most, each of which a client that follows fetches by some 200 bytes."""

LOG_AT_ONCE = 4 * 1024 * 1024
LOG_PACE = 4_096
"""So many bytes of rounds at once, and then so many a second: 338 MiB a day, unless the operator
says otherwise. The store has them two or three times over."""

ROUND_COST = 512
"""Bytes that a round is counted as, beside its operations."""

ROUND_ROOM_LEAST = 16_384
"""A round waits until there is room for so many bytes: the longest operation has fewer."""

QUORUM_PATIENCE = 30
"""After so long without a quorum who waits for a round is told; what it asked for waits on."""

RECEIVE_SIZE = 65_536

CALL_TIMEOUT = 60
"""For a peer's reply."""

AWAIT_PATIENCE = 20
"""A verifier that waits for the next block is answered after so long without one."""

AWAITING_MAX = 256
"""Verifiers' connections that wait for a block."""

PRESENCE = 75
"""A verifier counts as present for so long after its last cosignature."""

RETRY_PAUSE = 1
"""Before a peer that cannot be reached is tried again."""

RECOSIGN = 10
"""A verifier signs its newest head anew after so long, at the next answer to its wait: at most
AWAIT_PATIENCE later, so every 30 seconds."""

BLOCK_PAGES_MAX = 512
"""Pages of one block: a full round has fewer."""

GOSSIP_INTERVAL = 60
"""A verifier compares heads with its peers so often, or when it has a new one."""

GOSSIP_PAUSE = 10
"""At least so long after the last time."""

FULL_PAUSE = 10
"""Seconds between two tries to write what must be written, on a full disk."""

OLD_PATIENCE = 60
"""A proposal too old for the clock is refused only when in that time nobody has cosigned it."""

RECEIPTS_MAX = 256
RECEIPT_PACE = 1.0
"""Operations for which a verifier holds receipts, and that wait for one; and seconds between two
receipts after so many at once: what has one goes past the sequencer's own pace."""

FORWARD_INTERVAL = 15
"""What there are receipts for is brought to the sequencer at once and then so often: several times
within RECEIPT_PATIENCE."""


@dataclass(frozen=True, slots=True)
class DirectoryLimits:
    """What an operator sets: see the numbers of the same names."""

    connections: int = CONNECTIONS_MAX
    pending: int = PENDING_MAX
