"""Every limit of the protocol has its number here. Sizes in bytes, times in seconds.

Limits of one program alone (mailbox quotas, open connections, ...) stand in that
program's own ``limits.py``.
"""

ENVELOPE_SIZE = 16_384
"""An envelope, always. PROTOCOL.rst, Envelope."""

NAME_MIN = 3
NAME_MAX = 32
"""Length of a user name."""

PROFILE_MAX = 1_024
"""An encoded profile."""

PARTICIPANTS_MAX = 50
"""People in one conversation, oneself included."""

SUBJECT_MAX = 200
FILE_NAME_MAX = 255
"""In UTF-8 bytes."""

BUNDLE_MAX = 3_072
"""A sender's name proof inside a message body."""

PREKEYS_ONE_TIME = 100
"""One-time prekeys that a client keeps on its home server."""

PREKEY_LIFETIME = 30 * 86_400
LAST_RESORT_RENEWAL = 7 * 86_400

SKIP_MAX = 4_096
"""How far one message may jump ahead in a chain."""

SKIPPED_KEPT_MAX = 2_000
SKIPPED_LIFETIME = 30 * 86_400
"""Skipped message keys kept per session, and for how long."""

SESSIONS_PER_PEER = 8

FILE_SIZE_MAX = 64 * 1024 * 1024
"""Default limit of a file that is sent as one message."""
