"""Limits of the name directory's server alone. Times in seconds."""

CONNECTIONS_MAX = 960
"""Open connections, within the usual 1,024 descriptors; more wait in the kernel's queue."""

QUIET_LEAST = 10
ROOM = 64
"""When there is no room for another, so many end at once that have said nothing for so long."""

HANDSHAKE_TIMEOUT = 30
IDLE_TIMEOUT = 60
WRITE_TIMEOUT = 60

MARK_PERIOD = 3_600
"""How often the time is noted for the next start."""

PENDING_MAX = 4_096
"""Operations that wait for a round, of everybody."""

PENDING_PER_CONNECTION = 64
"""Requests of one connection under way; reading stops at this number."""

FEED_KEPT_MAX = 4_096
"""Rounds of the change feed kept in memory, mostly some 200 bytes each."""

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

OLD_PATIENCE = 60
"""A proposal too old for the clock is refused only when in that time nobody has cosigned it."""

RECEIPTS_MAX = 256
"""Operations for which a verifier holds receipts, and that wait for one."""

FORWARD_INTERVAL = 15
"""What there are receipts for is brought to the sequencer at once and then so often: several times
within RECEIPT_PATIENCE."""
